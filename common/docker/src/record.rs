//! What the engine does not know about a sandbox: a small file in its folder, replaced as a whole.

use domain::{SandboxId, UnixSeconds};
use host::published::Port;
use host::record::{Phase, labels, read_record, write_record};
use ports::engine::{Endpoint, Incarnation, Network};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

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
        read_record(folder)
    }

    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        write_record(folder, self)
    }

    /// Sandbox, incarnation and moment of creation; none if the record is damaged.
    pub(crate) fn labels(&self) -> Option<(SandboxId, Incarnation, UnixSeconds)> {
        labels(&self.sandbox, &self.incarnation, self.created_at)
    }

    /// Whether it needs the networks of the runner.
    pub(crate) fn needs_network(&self) -> bool {
        self.network() != Network::None || !self.ports.is_empty()
    }

    pub(crate) fn network(&self) -> Network {
        self.network.parse().unwrap_or_default()
    }

    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        self.ports.iter().map(|port| (*port).into()).collect()
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
