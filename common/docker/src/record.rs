//! What the engine does not know about a sandbox: a small file in its folder, replaced as a whole.

use domain::{SandboxId, UnixSeconds};
use host::folders::write;
use ports::engine::{Endpoint, Incarnation, Network};
use serde::{Deserialize, Serialize};
use std::io;
use std::net::SocketAddrV4;
use std::path::Path;

/// Name of the file.
const RECORD: &str = "record.json";
/// Only the adapter reads it.
const MODE_PRIVATE: u32 = 0o600;

/// What a sandbox should be doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// It is being created.
    Creating,
    /// It was ready.
    Running,
    /// It was stopped.
    Stopped,
}

/// A published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Port {
    pub(crate) inside: u16,
    pub(crate) outside: SocketAddrV4,
}

/// What is known about a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) sandbox: String,
    pub(crate) incarnation: String,
    pub(crate) created_at: u64,
    pub(crate) phase: Phase,
    /// The network of its template, by its public name.
    pub(crate) network: String,
    pub(crate) ports: Vec<Port>,
    /// Whether the supervisor is process 1.
    pub(crate) has_supervisor: bool,
    /// Whether it has a kernel of its own.
    pub(crate) has_own_kernel: bool,
}

// === impl Record ===

impl Record {
    pub(crate) fn read(folder: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(folder.join(RECORD))?)?)
    }

    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        write(&folder.join(RECORD), &serde_json::to_vec(self)?, MODE_PRIVATE)
    }

    /// Sandbox, incarnation and moment of creation; none if the record is damaged.
    pub(crate) fn labels(&self) -> Option<(SandboxId, Incarnation, UnixSeconds)> {
        let sandbox = SandboxId::parse(&self.sandbox).ok()?;
        Some((sandbox, Incarnation::parse(&self.incarnation).ok()?, UnixSeconds::new(self.created_at)))
    }

    /// Whether it needs the networks of the runner.
    pub(crate) fn needs_network(&self) -> bool {
        self.network() != Network::None || !self.ports.is_empty()
    }

    pub(crate) fn network(&self) -> Network {
        self.network.parse().unwrap_or_default()
    }

    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        let endpoints = self.ports.iter();
        endpoints.map(|port| Endpoint { port: port.inside, address: port.outside.into() }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let record = Record {
            sandbox: "s-1".to_owned(),
            incarnation: uuid::Uuid::nil().to_string(),
            created_at: 7,
            phase: Phase::Stopped,
            network: "open".to_owned(),
            ports: vec![Port { inside: 80, outside: "127.0.0.1:30000".parse().unwrap() }],
            has_supervisor: true,
            has_own_kernel: false,
        };
        record.write(folder.path()).unwrap();
        let read = Record::read(folder.path()).unwrap();
        assert_eq!((read.labels().is_some(), read.network()), (true, Network::Open));
        assert_eq!(read, record);
        assert_eq!(Record { sandbox: String::new(), ..record }.labels(), None);
    }
}
