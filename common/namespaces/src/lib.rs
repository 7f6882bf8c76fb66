//! The engine that needs no daemon: Linux namespaces and control groups, entered by Debian's `bubblewrap`.
//!
//! A sandbox is one wrapper process outside and the supervisor as process 1 inside. Its standard input is a listening socket
//! whose path only this adapter sees, so nothing of it is visible inside. Sandboxes outlive this process; `docs/isolation.md`
//! says what separates them.

#![cfg(target_os = "linux")]

mod arguments;
mod engine;
mod etc;
mod image;
mod launch;
mod network;
mod probe;
mod process;
mod record;

pub use probe::{Config, ProbeError};

use arguments::Starter;
use host::cgroups::Cgroups;
use host::folders::Folders;
use host::turns::Turns;
use image::Archives;
use network::Networks;
use ports::clock::Clock;
use ports::engine::EngineInfo;
use std::path::PathBuf;
use std::sync::Arc;

/// The sandboxes of one state folder.
#[derive(Debug)]
pub struct Namespaces {
    fleet: String,
    folders: Folders,
    /// The wrapper.
    wrapper: PathBuf,
    starter: Starter,
    cgroups: Cgroups,
    archives: Arc<Archives>,
    networks: Networks,
    info: EngineInfo,
    clock: Arc<dyn Clock>,
    turns: Turns,
}
