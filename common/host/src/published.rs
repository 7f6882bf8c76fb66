//! The ports of the node that sandboxes have for themselves.

use crate::Publish;
use crate::numbers::Numbers;
use ports::engine::{Endpoint, EngineError, Incarnation, PublishedPort};
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};

/// A published port, as records say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// The port inside.
    pub inside: u16,
    /// Where it is reached.
    pub outside: SocketAddrV4,
}

/// The ports of a node, and who has which.
#[derive(Debug)]
pub struct PublishedPorts {
    address: Ipv4Addr,
    numbers: Numbers,
}

// === impl Port ===

impl From<Port> for Endpoint {
    fn from(Port { inside, outside }: Port) -> Self {
        Self { port: inside, address: outside.into() }
    }
}

// === impl PublishedPorts ===

impl PublishedPorts {
    /// Ports of which no sandbox has any.
    pub fn new(publish: Publish) -> Self {
        Self { address: publish.address, numbers: Numbers::new(publish.ports) }
    }

    /// Reserves what a sandbox of an earlier process has. Of two that have the same port, the one that is started last cannot be
    /// served, and says so.
    pub fn adopt(&self, incarnation: &Incarnation, ports: &[Port]) {
        for port in ports {
            self.numbers.take(incarnation, port.outside.port());
        }
    }

    /// Gives a sandbox ports that nothing else on the node uses and that `is_allowed` lets pass.
    ///
    /// # Errors
    /// [`EngineError::Full`] if a port is in use, or all are.
    pub fn reserve(
        &self,
        incarnation: &Incarnation,
        published: &[PublishedPort],
        is_allowed: impl Fn(u16) -> bool,
    ) -> Result<Vec<Port>, EngineError> {
        let full = |reason: &str| EngineError::Full { reason: reason.to_owned() };
        let is_free = |port: u16| is_allowed(port) && TcpListener::bind((self.address, port)).is_ok();
        let reserved = published.iter().map(|PublishedPort { inside, outside }| {
            let port = match outside {
                Some(port) if is_free(*port) && self.numbers.take(incarnation, *port) => *port,
                Some(port) => return Err(full(&format!("port {port} is in use"))),
                None => {
                    let reserved = self.numbers.reserve(incarnation, is_free);
                    reserved.ok_or_else(|| full("all ports that may be published are in use"))?
                }
            };
            Ok(Port { inside: *inside, outside: SocketAddrV4::new(self.address, port) })
        });
        reserved.collect()
    }

    /// Takes back what a removed sandbox had.
    pub fn release(&self, incarnation: &Incarnation) {
        self.numbers.release(incarnation);
    }
}

/// Why ports cannot be published on an address.
pub fn why_no_ports(address: Ipv4Addr) -> Option<String> {
    let error = TcpListener::bind((address, 0)).err()?;
    Some(format!(
        "ports cannot be published on {address} ({error}): set RUNNER_PUBLISH_ADDRESS to an address of this machine"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_of_another_machine_is_named() {
        assert_eq!(why_no_ports(Ipv4Addr::LOCALHOST), None);
        let reason = why_no_ports(Ipv4Addr::new(203, 0, 113, 1)).unwrap();
        assert!(reason.contains("203.0.113.1") && reason.contains("RUNNER_PUBLISH_ADDRESS"), "{reason}");
    }
}
