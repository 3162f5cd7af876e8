//! What all components of this program share: one engine with its pool of instances, one linker,
//! one clock.

use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::sync::Semaphore;
use tracing::warn;
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig,
    WasmBacktraceDetails, component::Linker,
};

use super::{cache, guest::Guest, places::RUNNING_MAX, world};

/// Instances that wait to be used again, of all functions together.
const KEPT_MAX: usize = 64;
/// Core modules in a component: those of language runtimes come in many pieces.
const CORE_INSTANCES_MAX: u32 = 40;
/// Tables of an instance, on average.
const TABLES: u32 = 4;
const TABLE_ELEMENTS_MAX: usize = 30_000;
const INSTANCE_SIZE_MAX: usize = 4 << 20;
/// Resetting this much of a memory by copying beats giving it back to the kernel, where the kernel
/// can tell which pages were written.
const MEMORY_KEPT: usize = 1 << 20;
/// Tables are small: without this each instance costs a page that is given back and taken again.
const TABLE_KEPT: usize = 64 << 10;
const STACK_KEPT: usize = 64 << 10;
const WASM_STACK: usize = 512 << 10;
const STACK: usize = 1 << 20;
/// How long a component runs before it lets others.
const TICK: Duration = Duration::from_millis(10);

/// The engine and what belongs to it.
pub(super) struct Host {
    pub(super) engine: Engine,
    pub(super) linker: Linker<Guest>,
    pub(super) kept: Arc<Semaphore>,
    /// Compiling uses every core by itself.
    pub(super) compiling: Mutex<()>,
    ticker: Ticker,
}

impl Host {
    /// The one of this program; ends with the last who uses it.
    pub(super) fn shared() -> wasmtime::Result<Arc<Self>> {
        static SHARED: Mutex<Weak<Host>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = shared.upgrade() {
            return Ok(host);
        }
        let host = Arc::new(Self::new()?);
        *shared = Arc::downgrade(&host);
        Ok(host)
    }

    fn new() -> wasmtime::Result<Self> {
        cache::tidy();
        let engine = engine()?;
        let mut linker = Linker::new(&engine);
        world::link(&mut linker)?;
        Ok(Self {
            linker,
            kept: Arc::new(Semaphore::new(KEPT_MAX)),
            compiling: Mutex::new(()),
            ticker: Ticker::start(engine.clone())?,
            engine,
        })
    }

    /// While it is held, components that run are interrupted at every tick.
    pub(super) fn ticking(&self) -> Ticking<'_> {
        let clock = &self.ticker.clock;
        if clock.running.fetch_add(1, Ordering::AcqRel) == 0
            && let Some(thread) = &self.ticker.thread
        {
            thread.thread().unpark();
        }
        Ticking(clock)
    }
}

fn engine() -> wasmtime::Result<Engine> {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .max_wasm_stack(WASM_STACK)
        .async_stack_size(STACK)
        .wasm_backtrace_details(WasmBacktraceDetails::Enable);
    let pooling = config.clone().allocation_strategy(pool()).clone();
    // An address space too small for the pool costs speed, not the function.
    Engine::new(&pooling).or_else(|err| {
        warn!(%err, "no pool of instances: each is allocated by itself");
        Engine::new(&config)
    })
}

fn pool() -> InstanceAllocationStrategy {
    let instances = u32::try_from(RUNNING_MAX + KEPT_MAX).unwrap_or(u32::MAX);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances * CORE_INSTANCES_MAX)
        .max_core_instances_per_component(CORE_INSTANCES_MAX)
        .total_memories(instances)
        .total_stacks(instances)
        .total_tables(instances * TABLES)
        .table_elements(TABLE_ELEMENTS_MAX)
        .max_component_instance_size(INSTANCE_SIZE_MAX)
        .max_core_instance_size(INSTANCE_SIZE_MAX)
        .linear_memory_keep_resident(MEMORY_KEPT)
        .table_keep_resident(TABLE_KEPT)
        .async_stack_keep_resident(STACK_KEPT)
        .pagemap_scan(Enabled::Auto);
    InstanceAllocationStrategy::Pooling(pool)
}

/// A thread that tells the engine the time while something runs.
struct Ticker {
    clock: Arc<Clock>,
    thread: Option<JoinHandle<()>>,
}

struct Clock {
    engine: Engine,
    running: AtomicUsize,
    over: AtomicBool,
}

/// Somebody runs.
pub(super) struct Ticking<'a>(&'a Clock);

impl Ticker {
    fn start(engine: Engine) -> std::io::Result<Self> {
        let clock = Clock { engine, running: AtomicUsize::new(0), over: AtomicBool::new(false) };
        let clock = Arc::new(clock);
        let ticking = Arc::clone(&clock);
        let thread = thread::Builder::new()
            .name("wasm-ticker".to_owned())
            .spawn(move || ticking.tick_until_over())?;
        Ok(Self { clock, thread: Some(thread) })
    }
}

impl Clock {
    fn tick_until_over(&self) {
        while !self.over.load(Ordering::Acquire) {
            if self.running.load(Ordering::Acquire) == 0 {
                thread::park();
            } else {
                // Not parked: calls that come and go would wake it each time.
                thread::sleep(TICK);
                self.engine.increment_epoch();
            }
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.clock.over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            if thread.join().is_err() {
                warn!("the clock of the WebAssembly components broke off");
            }
        }
    }
}

impl Drop for Ticking<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}
