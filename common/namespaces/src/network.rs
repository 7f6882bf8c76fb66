//! Networks and published ports of sandboxes. Each sandbox has a network namespace with nothing but its loopback interface, to
//! which this adds what its template asks for.

mod internal;
mod netns;
mod pasta;
mod probe;
mod rules;

pub(crate) use pasta::{Files, RESOLVER};
pub(crate) use probe::unsupported;

use crate::process::Process;
use host::LOOK_PAUSE;
use host::cgroups::Group;
use host::numbers::Numbers;
use host::published::{Port, PublishedPorts};
use host::{PROGRAM_PATH, Publish, of_io};
use netns::Netns;
use ports::clock::Clock;
use ports::engine::{Endpoint, EngineError, Incarnation, Limits, Network, PublishedPort};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

/// The interface in a sandbox to the other ones.
const INTERNAL_INTERFACE: &str = "internal";
/// Time-out for what is a matter of milliseconds on a machine that is not busy.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Most memory of a process that carries connections: it takes 20 MiB for its buffers, and the kernel counts those of its
/// sockets as well.
const PASTA_MEMORY_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Processes of a group for it: itself, and one more while it starts.
const PASTA_PIDS_MAX: u32 = 4;

/// What a sandbox may reach, as its record says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Policy {
    #[default]
    None,
    Internal,
    Open,
}

/// The network of a sandbox, as its record says it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attachment {
    /// What it may reach when it is attached.
    policy: Policy,
    /// Whether it is, or will be when it starts.
    is_attached: bool,
    ports: Vec<Port>,
    /// The number of its address among the other sandboxes.
    host: Option<u16>,
    /// What carries its connections.
    pasta: Option<Process>,
    /// The control groups of that.
    group: Group,
}

/// The networks of a node.
#[derive(Debug)]
pub(crate) struct Networks {
    ports: PublishedPorts,
    hosts: Numbers,
    /// The name of the network between sandboxes.
    name: String,
    /// Held while a sandbox joins that, or while it is deleted.
    internal: tokio::sync::Mutex<()>,
}

/// What a feature runs.
#[derive(Clone, Copy, Debug)]
enum Programs {
    /// The network between sandboxes.
    Internal,
    /// The network to the outside, and published ports.
    Pasta,
}

// === impl Policy ===

impl From<Network> for Policy {
    fn from(network: Network) -> Self {
        match network {
            Network::None => Self::None,
            Network::Internal => Self::Internal,
            Network::Open => Self::Open,
        }
    }
}

// === impl Attachment ===

impl Attachment {
    /// That of a new sandbox, whose process for connections is in these groups.
    pub(crate) fn new(network: Network, group: Group) -> Self {
        Self { policy: network.into(), group, ..Self::default() }
    }

    /// Where its ports are reached.
    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        self.ports.iter().map(|port| (*port).into()).collect()
    }

    /// Whether the sandbox has no network and no published port.
    pub(crate) fn is_empty(&self) -> bool {
        self.is_none() && self.ports.is_empty()
    }

    /// Whether there is nothing to attach.
    pub(crate) fn is_none(&self) -> bool {
        self.policy == Policy::None
    }

    /// Whether the sandbox is, or will be when it starts, in its network.
    pub(crate) fn is_attached(&self) -> bool {
        self.is_attached
    }

    /// Lets the sandbox be in its network when it starts.
    pub(crate) fn attach(&mut self) {
        self.is_attached = true;
    }

    /// Whether what carries its connections runs, as far as that is needed.
    pub(crate) fn is_served(&self) -> bool {
        !self.needs_pasta() || self.pasta.is_some_and(Process::is_alive)
    }

    /// What has to end with the sandbox: a process and its control groups.
    pub(crate) fn parts(&self) -> (&[Process], &Group) {
        (self.pasta.as_slice(), &self.group)
    }

    /// Whether a process may carry its connections that is not noted: the adapter may have been killed just before.
    pub(crate) fn may_be_incomplete(&self) -> bool {
        self.pasta.is_none() && (self.policy == Policy::Open || !self.ports.is_empty())
    }

    /// Notes what carries its connections.
    pub(crate) fn note_process(&mut self, pasta: Process) {
        self.pasta = Some(pasta);
    }

    /// Forgets what has ended; the next process is in these groups.
    pub(crate) fn forget_process(&mut self, group: Group) {
        (self.pasta, self.group) = (None, group);
    }

    fn present(&self) -> Policy {
        if self.is_attached { self.policy } else { Policy::None }
    }

    fn needs_pasta(&self) -> bool {
        !self.ports.is_empty() || self.present() == Policy::Open
    }
}

// === impl Networks ===

impl Networks {
    pub(crate) fn new(publish: Publish, name: String) -> Self {
        let (ports, hosts) = (PublishedPorts::new(publish), Numbers::new(internal::HOSTS));
        Self { ports, hosts, name, internal: tokio::sync::Mutex::default() }
    }

    /// Reserves what a sandbox of an earlier process has.
    pub(crate) fn adopt(&self, incarnation: &Incarnation, attachment: &Attachment) {
        self.ports.adopt(incarnation, &attachment.ports);
        if let Some(host) = attachment.host {
            self.hosts.take(incarnation, host);
        }
    }

    /// Reserves ports and address of a new sandbox.
    pub(crate) fn reserve(
        &self,
        incarnation: &Incarnation,
        published: &[PublishedPort],
        attachment: &mut Attachment,
    ) -> Result<(), EngineError> {
        attachment.ports = self.ports.reserve(incarnation, published, |_| true)?;
        if attachment.policy == Policy::Internal {
            let host = self.hosts.reserve(incarnation, |_| true);
            let reason = || "all addresses of the internal network are in use".to_owned();
            attachment.host = Some(host.ok_or_else(|| EngineError::Full { reason: reason() })?);
        }
        Ok(())
    }

    /// Takes back what a removed sandbox had.
    pub(crate) async fn release(&self, incarnation: &Incarnation) -> Result<(), EngineError> {
        self.ports.release(incarnation);
        self.hosts.release(incarnation);
        // No sandbox joins it meanwhile.
        let _turn = self.internal.lock().await;
        match self.deletion() {
            Some(command) => run(Ok(command)).await,
            None => Ok(()),
        }
    }

    /// Deletes the network between sandboxes if a former process has left it and no sandbox needs it.
    pub(crate) fn delete_unused(&self) -> io::Result<()> {
        self.deletion().map_or(Ok(()), |mut command| command.output().and_then(finish))
    }

    fn deletion(&self) -> Option<std::process::Command> {
        internal::delete(&self.name).filter(|_| self.hosts.is_unused())
    }

    /// Gives the sandbox of process 1 `first` the network that it should have now. `note` stores each process that is started
    /// for it. What is there already stays.
    pub(crate) async fn connect(
        &self,
        first: Process,
        attachment: &mut Attachment,
        files: &Files,
        clock: &dyn Clock,
        note: impl FnMut(Process) -> io::Result<()> + Send,
    ) -> Result<(), EngineError> {
        let connected = self.connect_now(first, attachment, files, clock, note);
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, connected).await;
        connected.unwrap_or_else(|_| {
            Err(EngineError::unavailable(format!("its network was not ready within {CONNECT_TIMEOUT:?}")))
        })
    }

    async fn connect_now(
        &self,
        first: Process,
        attachment: &mut Attachment,
        files: &Files,
        clock: &dyn Clock,
        mut note: impl FnMut(Process) -> io::Result<()> + Send,
    ) -> Result<(), EngineError> {
        let present = attachment.present();
        let needs_pasta = attachment.needs_pasta();
        if present == Policy::None && !needs_pasta {
            return Ok(());
        }
        let netns = Netns::of(first).map_err(of_io)?;
        if needs_pasta {
            // The rules come before what they are for. An interrupted attempt has left the same ones, or a process was noted.
            let rules = if attachment.pasta.is_none() { rules::first(present) } else { rules::next(present) };
            run(netns.nft(&rules)).await?;
        }
        if needs_pasta && !(attachment.is_served() && files.is_ready()) {
            self.start_pasta(&netns, attachment, files, clock, &mut note).await?;
        }
        if let Some(host) = attachment.host.filter(|_| present == Policy::Internal) {
            let _turn = self.internal.lock().await;
            run(internal::join(&netns, &self.name, host)).await?;
        }
        Ok(())
    }

    async fn start_pasta(
        &self,
        netns: &Netns,
        attachment: &mut Attachment,
        files: &Files,
        clock: &dyn Clock,
        note: &mut (impl FnMut(Process) -> io::Result<()> + Send),
    ) -> Result<(), EngineError> {
        let limits =
            Limits { memory_bytes: PASTA_MEMORY_BYTES_MAX, pids: PASTA_PIDS_MAX, ..Limits::default() };
        if let Some(interrupted) = attachment.pasta {
            while interrupted.is_alive() {
                interrupted.kill().map_err(of_io)?;
                clock.sleep(LOOK_PAUSE).await;
            }
        }
        attachment.group.create(&limits).map_err(of_io)?;
        let command = pasta::command(netns, &attachment.ports, &attachment.group, files).map_err(of_io)?;
        let mut child = tokio::process::Command::from(command).spawn().map_err(of_io)?;
        if let Some(pasta) = child.id().and_then(|pid| Process::of(pid.try_into().ok()?).ok()) {
            attachment.pasta = Some(pasta);
            note(pasta).map_err(of_io)?;
        }
        while !files.is_ready() {
            if child.try_wait().map_err(of_io)?.is_some() {
                return Err(EngineError::unavailable(format!("pasta: {}", files.complaint())));
            }
            clock.sleep(LOOK_PAUSE).await;
        }
        Ok(())
    }
}

/// The name of the network between the sandboxes of a state folder: several nodes may be on one machine.
pub(crate) fn internal_name(fleet: &str, state: &Path) -> String {
    format!("{fleet}-{}", host::hash_of(state))
}

/// Runs a program to its end.
async fn run(command: io::Result<std::process::Command>) -> Result<(), EngineError> {
    let output = tokio::process::Command::from(command.map_err(of_io)?).kill_on_drop(true).output().await;
    output.and_then(finish).map_err(of_io)
}

/// The result of a program that has ended.
fn finish(output: Output) -> io::Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let reason = text.lines().next().unwrap_or("it said nothing");
    Err(io::Error::other(format!("a network cannot be made: {reason}")))
}
