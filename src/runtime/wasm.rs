//! Functions that are WebAssembly components: isolated from the runner and from each other, with
//! nothing but what the manifest grants.
//!
//! Each call gets an instance of its own, made in microseconds from a pool, unless the manifest
//! asks for instances to be used again.

mod cache;
mod fault;
mod guest;
mod host;
mod inspect;
mod keyvalue;
mod outgoing;
mod output;
mod places;
mod world;

use std::{
    fs,
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{OnceCell, OwnedSemaphorePermit};
use tracing::{debug, info};
use wasmtime::Store;

use self::{
    guest::{Guest, Reach, Spec},
    host::Host,
    inspect::Face,
    outgoing::Outgoing,
    places::Share,
    world::{CallError, Instance, Prepared, World},
};
use crate::{
    event::EventId,
    handler::{BoxFuture, Call, Fault, Handler, Reply},
    keyvalue::Buckets,
    manifest::{Allow, Component, Function, Instances, defaults},
    runtime::{http::client::Tasks, logs::About},
};

/// The most bytes that a component may hand over at once, as in `exec`.
const OUTPUT_MAX: usize = 64 << 20;

/// What keeps a component from being run, each in a sentence. A file that is not there yet is none.
pub(super) fn problems(component: &Component) -> Vec<String> {
    match fs::read(&component.file) {
        Ok(bytes) => face(&bytes, &component.allow).err().unwrap_or_default(),
        Err(_) => Vec::new(),
    }
}

fn face(bytes: &[u8], allow: &Allow) -> Result<(World, Face), Vec<String>> {
    let face = Face::read(bytes).map_err(|why| vec![why])?;
    let mut problems: Vec<String> = face.ungranted(allow).collect();
    let world = World::of(&face);
    if world.is_none() {
        problems.push("it does not export `pelton:event/handler@0.1.0`".to_owned());
    }
    world.filter(|_| problems.is_empty()).map(|world| (world, face)).ok_or(problems)
}

/// A component and the instances of it that are kept.
pub(super) struct Wasm {
    component: Component,
    spec: Arc<Spec>,
    share: Share,
    loaded: OnceCell<Loaded>,
    kept: Mutex<Vec<Live>>,
    /// How long a connection to a server may take to be there.
    connect: Duration,
    /// Those that drive connections to servers.
    tasks: Tasks,
    buckets: Option<Arc<dyn Buckets>>,
}

struct Loaded {
    prepared: Prepared,
    host: Arc<Host>,
    reach: Arc<Reach>,
}

/// An instance with its store.
struct Live {
    store: Store<Guest>,
    instance: Instance,
    calls: u64,
    born: Instant,
    /// Its place among those that are kept, while it is.
    place: Option<OwnedSemaphorePermit>,
}

impl Wasm {
    pub(super) fn new(
        function: &Function,
        component: &Component,
        concurrency: NonZeroUsize,
        buckets: Option<&Arc<dyn Buckets>>,
    ) -> Self {
        let mut config = function.env.clone();
        for name in &component.allow.env {
            if let Ok(value) = std::env::var(name) {
                config.entry(name.clone()).or_insert(value);
            }
        }
        let spec = Spec {
            function: function.name.clone(),
            config,
            dirs: component.allow.dirs.clone(),
            memory_limit: function.memory_limit.unwrap_or(defaults::WASM_MEMORY),
        };
        Self {
            component: component.clone(),
            spec: Arc::new(spec),
            share: Share::new(&function.name, concurrency.get()),
            loaded: OnceCell::new(),
            kept: Mutex::default(),
            connect: function.start_timeout,
            tasks: Tasks::default(),
            buckets: buckets.cloned(),
        }
    }

    async fn loaded(&self) -> Result<&Loaded, Fault> {
        self.loaded.get_or_try_init(|| self.load()).await.map_err(Fault::Unavailable)
    }

    async fn load(&self) -> Result<Loaded, String> {
        let (component, dirs) = (self.component.clone(), self.spec.dirs.clone());
        let began = Instant::now();
        let loading = tokio::task::spawn_blocking(move || {
            let missing = dirs.iter().find(|(_, folder)| !folder.is_dir());
            match missing {
                Some((name, _)) => Err(format!("there is no folder `{name}`, which it may read")),
                None => {
                    load(&component).map_err(|why| format!("{}: {why}", component.file.display()))
                }
            }
        });
        let loading = loading.await.map_err(|err| format!("loading broke off: {err}"))?;
        let (prepared, host, face) = loading?;
        let reach = Arc::new(self.reach(&face).await?);
        info!(function = self.spec.function, took = ?began.elapsed(), "loaded a component");
        Ok(Loaded { prepared, host, reach })
    }

    /// What is granted and asked for.
    async fn reach(&self, face: &Face) -> Result<Reach, String> {
        let mut reach = Reach::default();
        if face.calls_http() {
            let granted = &self.component.allow.http;
            reach.http = Some(Arc::new(Outgoing::new(granted, self.connect, &self.tasks).await?));
        }
        if face.opens_buckets() {
            let buckets = self.buckets.as_deref();
            reach.buckets = keyvalue::open(buckets, &self.component.allow.kv).await?;
        }
        Ok(reach)
    }

    async fn instance(&self, loaded: &Loaded, about: About) -> Result<Live, Fault> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(mut live) = kept.filter(|live| self.may_live(live)) {
            live.place = None;
            live.store.data_mut().begin(about);
            return Ok(live);
        }
        let mut store =
            Store::new(&loaded.host.engine, Guest::new(&self.spec, &loaded.reach, about));
        store.limiter(|guest| &mut guest.memory);
        store.set_hostcall_fuel(OUTPUT_MAX);
        store.set_epoch_deadline(1);
        // Lets others run; the timeout around the call is what ends it.
        store.epoch_deadline_async_yield_and_update(1);
        let instance = loaded.prepared.instantiate(&mut store).await;
        let instance = instance.map_err(|err| fault::starting(&err))?;
        Ok(Live { store, instance, calls: 0, born: Instant::now(), place: None })
    }

    fn may_live(&self, live: &Live) -> bool {
        match self.component.instances {
            Instances::Fresh => false,
            Instances::Reuse { max_events, max_age } => {
                live.calls < max_events.get() && live.born.elapsed() < max_age
            }
        }
    }

    /// Only an instance that answered as it should is used again.
    fn keep(&self, loaded: &Loaded, mut live: Live) {
        live.store.data_mut().end();
        if self.may_live(&live) {
            live.place = Arc::clone(&loaded.host.kept).try_acquire_owned().ok();
            if live.place.is_some() {
                self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(live);
            }
        }
    }

    async fn run(&self, loaded: &Loaded, call: &Call) -> Result<Reply, Fault> {
        let mut live = self.instance(loaded, About::from(&call.events.first)).await?;
        live.calls += call.events.len() as u64;
        match live.instance.call(&mut live.store, call).await {
            Ok(reply) => {
                self.keep(loaded, live);
                Ok(reply)
            }
            Err(CallError::BadReply(why)) => Err(Fault::BadReply(why)),
            Err(CallError::Broken(err)) => Err(fault::running(&err)),
        }
    }
}

fn load(component: &Component) -> Result<(Prepared, Arc<Host>, Face), String> {
    let bytes = fs::read(&component.file).map_err(|err| err.to_string())?;
    let (world, face) = face(&bytes, &component.allow).map_err(|problems| problems.join("; "))?;
    let load = || {
        let host = Host::shared()?;
        let one_at_a_time = host.compiling.lock().unwrap_or_else(PoisonError::into_inner);
        let component = cache::compile(&host.engine, &bytes)?;
        drop(one_at_a_time);
        let prepared = world.prepare(host.linker.instantiate_pre(&component)?)?;
        Ok((prepared, Arc::clone(&host), face))
    };
    load().map_err(|err: wasmtime::Error| format!("{err:#}"))
}

impl Handler for Wasm {
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Reply, Fault>> {
        Box::pin(async move {
            let loaded = self.loaded().await?;
            // The time of an event starts when there is room for it.
            let _place = self.share.place().await;
            let _ticking = loaded.host.ticking();
            let ran = tokio::time::timeout(call.timeout, self.run(loaded, &call)).await;
            ran.unwrap_or(Err(Fault::Timeout(call.timeout)))
        })
    }

    /// Loads the component and makes an instance, so that one that cannot be made is known before
    /// an event arrives.
    fn start(&self) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(async move {
            let loaded = self.loaded().await?;
            let _place = self.share.place().await;
            let _ticking = loaded.host.ticking();
            let nobody = EventId { stream: "".into(), sequence: 0 };
            let about = About { event: nobody, trace_id: None };
            let live = self.instance(loaded, about).await?;
            self.keep(loaded, live);
            Ok(())
        })
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let kept =
                std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner));
            debug!(function = self.spec.function, instances = kept.len(), "ended");
            drop(kept);
            self.tasks.end().await;
        })
    }
}
