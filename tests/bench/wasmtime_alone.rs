//! Wasmtime alone, set up as Pelton sets it up, with as little around it as a call can do with.

use std::{
    fs,
    path::{Path, PathBuf},
};

use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store,
    component::{Component, HasSelf, Linker},
};

use self::generated::{
    Function, FunctionPre,
    exports::pelton::event::handler::{Call, Event},
    pelton::event::{config, log},
};

#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
mod generated {
    wasmtime::component::bindgen!({
        path: "functions/wit",
        world: "function",
        exports: { default: async },
        ownership: Borrowing { duplicate_if_necessary: false },
    });
}

/// A component that is compiled, and its code in a file.
pub(crate) struct Bare {
    engine: Engine,
    linker: Linker<Host>,
    linked: FunctionPre<Host>,
    code: PathBuf,
}

struct Host;

impl log::Host for Host {
    fn log(&mut self, _: log::Level, _: String) {}
}

impl config::Host for Host {
    fn get(&mut self, _: String) -> Option<String> {
        Some("north".to_owned())
    }

    fn all(&mut self) -> Vec<(String, String)> {
        Vec::new()
    }
}

impl Bare {
    pub(crate) fn new(file: &Path) -> Self {
        let engine = engine();
        let mut linker = Linker::new(&engine);
        Function::add_to_linker::<_, HasSelf<_>>(&mut linker, |host| host).expect("it links");
        let component = Component::from_file(&engine, file).expect("it compiles");
        let code = super::folder().join("bare.cwasm");
        fs::write(&code, component.serialize().expect("it has code")).expect("it is written");
        let linked = linker.instantiate_pre(&component).expect("it imports nothing else");
        let linked = FunctionPre::new(linked).expect("it is a function");
        Self { engine, linker, linked, code }
    }

    /// One call, in an instance of its own.
    pub(crate) async fn call(&self, subject: &str, data: &[u8]) {
        let mut store = self.store();
        let instance = self.linked.instantiate_async(&mut store).await.expect("an instance");
        let event = Event {
            id: "IN:1",
            stream: "IN",
            sequence: 1,
            subject,
            time: 0,
            attempt: 1,
            headers: &[],
            data,
        };
        let call = Call { events: &[event], state: None, deadline: u64::MAX };
        let reply = instance.pelton_event_handler().call_handle(&mut store, call).await;
        let reply = reply.expect("a reply");
        assert!(matches!(reply.verdicts.as_slice(), [Ok(outputs)] if outputs.len() == 1));
    }

    #[expect(unsafe_code, reason = "what is compared is wasmtime's way to load code")]
    pub(crate) fn deserialize(&self) -> Component {
        // SAFETY: `new` has just written it.
        unsafe { Component::deserialize_file(&self.engine, &self.code) }.expect("it loads")
    }

    /// Links a component and makes an instance of it.
    pub(crate) async fn instantiate(&self, component: &Component) {
        let linked = self.linker.instantiate_pre(component).expect("it imports nothing else");
        let linked = FunctionPre::new(linked).expect("it is a function");
        linked.instantiate_async(&mut self.store()).await.expect("an instance");
    }

    fn store(&self) -> Store<Host> {
        let mut store = Store::new(&self.engine, Host);
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
        store
    }
}

/// As `runtime::wasm::host` tunes it.
fn engine() -> Engine {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(256)
        .max_core_instances_per_component(40)
        .total_core_instances(256 * 40)
        .total_memories(256)
        .total_stacks(256)
        .total_tables(256 * 4)
        .table_elements(30_000)
        .max_component_instance_size(4 << 20)
        .max_core_instance_size(4 << 20)
        .linear_memory_keep_resident(1 << 20)
        .async_stack_keep_resident(64 << 10)
        .pagemap_scan(Enabled::Auto);
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .max_wasm_stack(512 << 10)
        .async_stack_size(1 << 20)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&config).expect("an engine")
}
