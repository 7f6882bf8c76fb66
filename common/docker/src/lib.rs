//! The engine that drives Docker, or Podman by its Docker-compatible socket.
//!
//! A sandbox is a container with the supervisor as process 1, which makes its socket in a folder that only root inside and
//! this adapter see. What the engine does not know about a sandbox is in a record in that folder: whether its creation was
//! finished, and whether it was stopped on purpose. Containers outlive this process; `docs/isolation.md` says what separates
//! them.

#![cfg(target_os = "linux")]

mod client;
mod engine;
mod exec;
mod failure;
mod images;
mod network;
mod probe;
mod record;
mod spec;

pub use probe::{Config, ProbeError};

use client::Client;
use host::folders::Folders;
use host::published::PublishedPorts;
use host::turns::Turns;
use images::Pulls;
use network::Networks;
use ports::clock::Clock;
use ports::engine::EngineInfo;
use std::sync::Arc;

/// The sandboxes of one state folder on one engine.
#[derive(Clone, Debug)]
pub struct Docker(Arc<Shared>);

/// What calls have in common; a creation goes on without its caller.
#[derive(Debug)]
struct Shared {
    owner: Owner,
    client: Client,
    folders: Folders,
    ports: PublishedPorts,
    networks: Networks,
    pulls: Pulls,
    info: EngineInfo,
    /// How the engine calls what runs containers.
    runtimes: probe::Runtimes,
    /// The limit of processes of a user that containers get, if the engine's own choice is not possible.
    user_processes: Option<u64>,
    clock: Arc<dyn Clock>,
    turns: Turns,
}

/// Whose containers these are, as their labels say it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owner {
    /// The fleet.
    fleet: String,
    /// The state folder: several runners may share an engine.
    runner: String,
}
