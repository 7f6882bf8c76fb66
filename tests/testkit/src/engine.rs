//! An engine in memory, with faults and scripted jobs: for tests of what drives one. [`suite`] is what every engine has to pass.
//!
//! A container is an entry of a map until something connects to it, so a test can hold thousands.

pub mod suite;

mod jobs;

pub use jobs::Play;

use crate::engine::jobs::Supervisor;
use async_trait::async_trait;
use parking_lot::Mutex;
use ports::clock::{Clock, SystemClock};
use ports::engine::{
    Connection, Container, ContainerSpec, ContainerState, Endpoint, Engine, EngineError, EngineInfo,
    ImageCommand, Incarnation, Isolation, Network, Usage,
};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// First port on the node that the fake publishes.
const PORT_FIRST: u16 = 40_000;
/// Bytes that a connection holds in each direction.
const CONNECTION_BYTES: usize = 64 * 1024;

/// A call of the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// `create`.
    Create,
    /// `list`.
    List,
    /// `remove`.
    Remove,
    /// `attach_network`.
    AttachNetwork,
    /// `start`.
    Start,
    /// `stop`.
    Stop,
    /// `pause`.
    Pause,
    /// `resume`.
    Resume,
    /// `connect`.
    Connect,
    /// `usage`.
    Usage,
}

/// What goes wrong with a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineFault {
    /// It fails and nothing happened.
    Fail(EngineError),
    /// It happens, and its answer is this error.
    LoseReply(EngineError),
    /// It never answers; nothing happens except for an entry of a creation.
    Hang,
    /// It happens this much later, on the engine's clock.
    Slow(Duration),
    /// It succeeds, and the container's supervisor dies at once.
    Die,
}

/// An engine whose answers a test can script. Clones are handles of one engine.
#[derive(Clone)]
pub struct FakeEngine {
    inside: Arc<Mutex<Inside>>,
    clock: Arc<dyn Clock>,
    /// Which process of the node this stands for.
    process: usize,
}

struct Inside {
    info: EngineInfo,
    containers: BTreeMap<Incarnation, Kept>,
    faults: HashMap<Operation, VecDeque<EngineFault>>,
    calls: Vec<(Operation, Option<Incarnation>)>,
    capacity: usize,
    usage: Usage,
    jobs: Arc<jobs::Script>,
    processes: usize,
    ports: u16,
}

/// A container.
struct Kept {
    container: Container,
    spec: ContainerSpec,
    supervisor: Arc<Supervisor>,
    is_attached: bool,
    /// The process that creates it.
    creator: usize,
}

/// A creation whose caller may give up.
struct Unfinished<'a>(&'a FakeEngine, Incarnation);

// === impl FakeEngine ===

impl fmt::Debug for FakeEngine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("FakeEngine").field("process", &self.process).finish_non_exhaustive()
    }
}

impl Default for FakeEngine {
    fn default() -> Self {
        Self::new(Arc::new(SystemClock))
    }
}

impl FakeEngine {
    /// An engine without containers that supports everything. Jobs end at once with status 0.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let inside = Inside {
            info: EngineInfo {
                name: "fake",
                isolation: Isolation::Process,
                runtimes: Vec::new(),
                unsupported: Vec::new(),
            },
            containers: BTreeMap::new(),
            faults: HashMap::new(),
            calls: Vec::new(),
            capacity: usize::MAX,
            usage: Usage::default(),
            jobs: Arc::new(|_| Play::default()),
            processes: 0,
            ports: PORT_FIRST,
        };
        Self { inside: Arc::new(Mutex::new(inside)), clock, process: 0 }
    }

    /// The engine as a new process of the node finds it: creations of the former ones are interrupted.
    #[must_use]
    pub fn reopened(&self) -> Self {
        let mut inside = self.inside.lock();
        inside.processes += 1;
        Self { process: inside.processes, ..self.clone() }
    }

    /// Sets what the engine is and lacks.
    pub fn set_info(&self, info: EngineInfo) {
        self.inside.lock().info = info;
    }

    /// Sets how many containers there is room for.
    pub fn set_capacity(&self, capacity: usize) {
        self.inside.lock().capacity = capacity;
    }

    /// Sets the figures of every container.
    pub fn set_usage(&self, usage: Usage) {
        self.inside.lock().usage = usage;
    }

    /// Sets what jobs do in containers that are created or started from now on.
    pub fn set_jobs(&self, script: impl Fn(&supervisor::Job) -> Play + Send + Sync + 'static) {
        self.inside.lock().jobs = Arc::new(script);
    }

    /// Adds a fault of the next call of this operation that has none yet.
    pub fn script(&self, operation: Operation, fault: EngineFault) {
        self.inside.lock().faults.entry(operation).or_default().push_back(fault);
    }

    /// Kills the supervisor of a container, and so everything in it.
    pub fn kill(&self, incarnation: &Incarnation) {
        if let Some(kept) = self.inside.lock().containers.get_mut(incarnation) {
            kept.end(ContainerState::Exited);
        }
    }

    /// Ends a job that its script holds.
    pub fn finish(&self, incarnation: &Incarnation, job: &supervisor::JobId, end: supervisor::End) {
        if let Some(kept) = self.inside.lock().containers.get(incarnation) {
            kept.supervisor.finish(job, end);
        }
    }

    /// What a container was created from.
    #[must_use]
    pub fn spec(&self, incarnation: &Incarnation) -> Option<ContainerSpec> {
        self.inside.lock().containers.get(incarnation).map(|kept| kept.spec.clone())
    }

    /// Whether a container is in the network of its template.
    #[must_use]
    pub fn is_attached(&self, incarnation: &Incarnation) -> bool {
        self.inside.lock().containers.get(incarnation).is_some_and(|kept| kept.is_attached)
    }

    /// Every call so far.
    #[must_use]
    pub fn calls(&self) -> Vec<(Operation, Option<Incarnation>)> {
        self.inside.lock().calls.clone()
    }

    /// Does a call with its fault.
    async fn call<T>(
        &self,
        operation: Operation,
        incarnation: Option<&Incarnation>,
        act: impl FnOnce(&mut Inside) -> Result<T, EngineError> + Send,
    ) -> Result<T, EngineError> {
        let fault = {
            let mut inside = self.inside.lock();
            inside.calls.push((operation, incarnation.copied()));
            inside.faults.get_mut(&operation).and_then(VecDeque::pop_front)
        };
        match fault {
            Some(EngineFault::Fail(error)) => return Err(error),
            Some(EngineFault::Hang) => return std::future::pending().await,
            Some(EngineFault::Slow(span)) => self.clock.sleep(span).await,
            Some(EngineFault::LoseReply(_) | EngineFault::Die) | None => {}
        }
        let result = act(&mut self.inside.lock())?;
        match (fault, incarnation) {
            (Some(EngineFault::LoseReply(error)), _) => Err(error),
            (Some(EngineFault::Die), Some(incarnation)) => {
                self.kill(incarnation);
                Ok(result)
            }
            _ => Ok(result),
        }
    }

    /// Does something to a container.
    async fn change<T>(
        &self,
        operation: Operation,
        incarnation: &Incarnation,
        act: impl FnOnce(&mut Kept) -> Result<T, EngineError> + Send,
    ) -> Result<T, EngineError> {
        let act =
            |inside: &mut Inside| act(inside.containers.get_mut(incarnation).ok_or(EngineError::Gone)?);
        self.call(operation, Some(incarnation), act).await
    }

    /// Makes the entry of a creation; an existing one is the answer.
    fn begin(&self, spec: &ContainerSpec) -> Result<Option<Container>, EngineError> {
        spec.check()?;
        let mut inside = self.inside.lock();
        inside.info.check(spec)?;
        if let Some(kept) = inside.containers.get(&spec.incarnation) {
            return Ok(Some(kept.container.clone()));
        }
        if inside.containers.len() >= inside.capacity {
            return Err(EngineError::Full { reason: format!("{} containers", inside.capacity) });
        }
        let mut endpoints = Vec::new();
        for port in &spec.ports {
            inside.ports = inside.ports.wrapping_add(1).max(PORT_FIRST);
            let outside = port.outside.unwrap_or(inside.ports);
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, outside));
            endpoints.push(Endpoint { port: port.inside, address });
        }
        let container = Container {
            sandbox: spec.sandbox.clone(),
            incarnation: spec.incarnation,
            state: ContainerState::Creating,
            endpoints,
            created_at: self.clock.now(),
            command: ImageCommand::default(),
        };
        let supervisor = Supervisor::new(Arc::clone(&inside.jobs));
        let (spec, creator) = (spec.clone(), self.process);
        let kept = Kept { container, spec, supervisor, is_attached: false, creator };
        inside.containers.insert(kept.spec.incarnation, kept);
        Ok(None)
    }
}

#[async_trait]
impl Engine for FakeEngine {
    fn info(&self) -> EngineInfo {
        self.inside.lock().info.clone()
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<Container, EngineError> {
        if let Some(existing) = self.begin(spec)? {
            return self.call(Operation::Create, Some(&spec.incarnation), |_| Ok(existing)).await;
        }
        let created = self.change(Operation::Create, &spec.incarnation, |kept| {
            kept.container.state = ContainerState::Running;
            Ok(kept.container.clone())
        });
        let unfinished = Unfinished(self, spec.incarnation);
        let result = created.await;
        if result.is_err() {
            self.inside.lock().containers.retain(|_, kept| !kept.is_created_by(&unfinished));
        }
        result
    }

    async fn list(&self) -> Result<Vec<Container>, EngineError> {
        let process = self.process;
        let all = move |inside: &mut Inside| {
            Ok(inside.containers.values().map(|kept| kept.seen_by(process)).collect())
        };
        self.call(Operation::List, None, all).await
    }

    async fn remove(&self, incarnation: &Incarnation) -> Result<(), EngineError> {
        let remove = |inside: &mut Inside| {
            if let Some(mut kept) = inside.containers.remove(incarnation) {
                kept.end(ContainerState::Stopped);
            }
            Ok(())
        };
        self.call(Operation::Remove, Some(incarnation), remove).await
    }

    async fn attach_network(&self, incarnation: &Incarnation) -> Result<(), EngineError> {
        let attach = |kept: &mut Kept| match kept.container.state {
            _ if kept.spec.network == Network::None || kept.is_attached => Ok(()),
            ContainerState::Running | ContainerState::Stopped | ContainerState::Exited => {
                kept.is_attached = true;
                Ok(())
            }
            ContainerState::Paused => Err(EngineError::unavailable("it is paused")),
            _ => Err(kept.not_running()),
        };
        self.change(Operation::AttachNetwork, incarnation, attach).await
    }

    async fn start(&self, incarnation: &Incarnation) -> Result<(), EngineError> {
        let jobs = Arc::clone(&self.inside.lock().jobs);
        let start = |kept: &mut Kept| match kept.container.state {
            ContainerState::Running => Ok(()),
            ContainerState::Stopped | ContainerState::Exited => {
                kept.supervisor = Supervisor::new(jobs);
                kept.container.state = ContainerState::Running;
                Ok(())
            }
            _ => Err(kept.not_running()),
        };
        self.change(Operation::Start, incarnation, start).await
    }

    async fn stop(&self, incarnation: &Incarnation) -> Result<(), EngineError> {
        let stop = |kept: &mut Kept| match kept.container.state {
            ContainerState::Creating | ContainerState::Failed { .. } => Err(kept.not_running()),
            _ => {
                kept.end(ContainerState::Stopped);
                Ok(())
            }
        };
        self.change(Operation::Stop, incarnation, stop).await
    }

    async fn pause(&self, incarnation: &Incarnation) -> Result<(), EngineError> {
        let pause = |kept: &mut Kept| kept.switch(ContainerState::Paused);
        self.change(Operation::Pause, incarnation, pause).await
    }

    async fn resume(&self, incarnation: &Incarnation) -> Result<(), EngineError> {
        let resume = |kept: &mut Kept| kept.switch(ContainerState::Running);
        self.change(Operation::Resume, incarnation, resume).await
    }

    async fn connect(&self, incarnation: &Incarnation) -> Result<Connection, EngineError> {
        let connect = |kept: &mut Kept| match kept.container.state {
            ContainerState::Running => {
                let (ours, theirs) = tokio::io::duplex(CONNECTION_BYTES);
                tokio::spawn(Arc::clone(&kept.supervisor).serve(theirs));
                Ok(Box::new(ours) as Connection)
            }
            _ => Err(kept.not_running()),
        };
        self.change(Operation::Connect, incarnation, connect).await
    }

    async fn usage(&self, incarnation: &Incarnation) -> Result<Usage, EngineError> {
        let usage = self.inside.lock().usage;
        let look = move |kept: &mut Kept| match kept.container.state {
            ContainerState::Running | ContainerState::Paused => Ok(usage),
            _ => Err(kept.not_running()),
        };
        self.change(Operation::Usage, incarnation, look).await
    }
}

// === impl Kept ===

impl Kept {
    fn is_created_by(&self, creation: &Unfinished<'_>) -> bool {
        self.container.incarnation == creation.1 && self.container.state == ContainerState::Creating
    }

    /// As a process of the node sees it.
    fn seen_by(&self, process: usize) -> Container {
        let mut container = self.container.clone();
        if container.state == ContainerState::Creating && self.creator != process {
            container.state = interrupted();
        }
        container
    }

    fn end(&mut self, state: ContainerState) {
        self.container.state = state;
        self.supervisor.end();
    }

    fn switch(&mut self, state: ContainerState) -> Result<(), EngineError> {
        match self.container.state {
            ContainerState::Running | ContainerState::Paused => {
                self.container.state = state;
                Ok(())
            }
            _ => Err(self.not_running()),
        }
    }

    fn not_running(&self) -> EngineError {
        match &self.container.state {
            ContainerState::Creating => EngineError::unavailable("it is being created"),
            ContainerState::Failed { reason } => EngineError::failed(reason),
            state => EngineError::refused(format!("it is {state:?}")),
        }
    }
}

// === impl Unfinished ===

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(kept) =
            self.0.inside.lock().containers.get_mut(&self.1).filter(|kept| kept.is_created_by(self))
        {
            kept.container.state = interrupted();
        }
    }
}

fn interrupted() -> ContainerState {
    ContainerState::Failed { reason: "its creation was interrupted".to_owned() }
}

#[cfg(test)]
mod tests;
