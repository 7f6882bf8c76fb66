//! The three networks of a runner on its engine, and the rules that say what their containers may reach.
//!
//! Until its claim, a container that will have a network, or has published ports, is in the closed one: connections come in,
//! none goes out. Only those of the internal one reach each other. The rules are a table of nftables of this adapter, which containers cannot change without capabilities.
//! All of it is there only while a container needs it.

use crate::client::Client;
use crate::failure::status;
use bollard::models::{NetworkConnectRequest, NetworkCreateRequest, NetworkDisconnectRequest};
use host::{BLOCKED_V4, PROGRAM_PATH, of_io};
use ports::engine::{EngineError, Network};
use std::collections::HashMap;
use std::io;
use std::process::Stdio;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// The engine's name for no network.
pub(crate) const NONE: &str = "none";
/// Whether rules apply to what is sent between containers of one bridge.
const BRIDGED: [&str; 2] =
    ["/proc/sys/net/bridge/bridge-nf-call-iptables", "/proc/sys/net/bridge/bridge-nf-call-ip6tables"];
/// How Docker (by its status) and Podman say that a container is in a network that is to be deleted.
const IN_USE: u16 = 403;
const IN_USE_OF_PODMAN: &str = "being used";

/// The networks of a runner.
#[derive(Debug)]
pub(crate) struct Networks {
    /// What the names of interfaces begin with; they have at most 15 bytes.
    prefix: String,
    /// Held while the first container needs them, and while they are deleted after the last one.
    pub(crate) turn: tokio::sync::Mutex<()>,
}

/// One of the networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Closed,
    Internal,
    Open,
}

// === impl Kind ===

impl Kind {
    const ALL: [Self; 3] = [Self::Closed, Self::Internal, Self::Open];

    const fn letter(self) -> char {
        match self {
            Self::Closed => 'c',
            Self::Internal => 'i',
            Self::Open => 'o',
        }
    }
}

// === impl Networks ===

impl Networks {
    /// Those of the runner with this hash.
    pub(crate) fn new(hash: &str) -> Self {
        Self { prefix: format!("sbx{hash}"), turn: tokio::sync::Mutex::default() }
    }

    /// The network that a container begins in.
    pub(crate) fn first(&self, needs_network: bool) -> String {
        if needs_network { self.name(Kind::Closed) } else { NONE.to_owned() }
    }

    /// The network of a leased container; none if it stays where it begins.
    pub(crate) fn of(&self, network: Network) -> Option<String> {
        match network {
            Network::None => None,
            Network::Internal => Some(self.name(Kind::Internal)),
            Network::Open => Some(self.name(Kind::Open)),
        }
    }

    /// The name of a network, which is also that of its interface on the machine.
    fn name(&self, kind: Kind) -> String {
        format!("{}{}", self.prefix, kind.letter())
    }

    /// Finds out whether networks and rules can be made here.
    pub(crate) async fn why_not(&self, client: &Client) -> Option<String> {
        if !rustix::process::geteuid().is_root() {
            return Some("only root can make the rules of networks; the runner is another user".to_owned());
        }
        if let Err(error) = self.make(client).await {
            return Some(error.to_string());
        }
        let is_off = |file: &&&str| std::fs::read_to_string(file).unwrap_or_default().trim() != "1";
        if let Some(file) = BRIDGED.iter().find(is_off) {
            return Some(format!(
                "rules do not apply to neighbours: load the module `br_netfilter` and set {file} to 1"
            ));
        }
        (!client.shares("net").await).then(|| {
            "the engine is in another network namespace, where the runner cannot make rules; start it in that of the engine"
                .to_owned()
        })
    }

    /// Makes what is not there yet.
    pub(crate) async fn make(&self, client: &Client) -> Result<(), EngineError> {
        self.nft(&self.rules()).await.map_err(of_io)?;
        for kind in Kind::ALL {
            self.create(client, kind).await?;
        }
        Ok(())
    }

    /// Deletes all of it, when no container needs it any more.
    pub(crate) async fn delete(&self, client: &Client) -> Result<(), EngineError> {
        let engine = client.get().await?;
        for kind in Kind::ALL {
            match engine.remove_network(&self.name(kind)).await {
                // One that lost its folder is in it until it is removed.
                Err(error)
                    if status(&error) == Some(IN_USE) || error.to_string().contains(IN_USE_OF_PODMAN) =>
                {
                    return Ok(());
                }
                Err(error) if status(&error) != Some(404) => return Err(client.failed(error)),
                _ => {}
            }
        }
        let table = self.table();
        // There is a table to delete, even if there was none.
        self.nft(&format!("table {table}\ndelete table {table}\n")).await.map_err(of_io)
    }

    async fn create(&self, client: &Client, kind: Kind) -> Result<(), EngineError> {
        let engine = client.get().await?;
        let name = self.name(kind);
        match engine.inspect_network(&name, None).await {
            Ok(_) => return Ok(()),
            Err(error) if status(&error) == Some(404) => {}
            Err(error) => return Err(client.failed(error)),
        }
        let is = |yes: bool| yes.to_string();
        let options = [
            ("com.docker.network.bridge.name", name.clone()),
            ("com.docker.network.bridge.enable_icc", is(kind == Kind::Internal)),
            ("com.docker.network.bridge.enable_ip_masquerade", is(kind == Kind::Open)),
        ];
        let request = NetworkCreateRequest {
            name,
            driver: Some("bridge".to_owned()),
            enable_ipv6: Some(false),
            options: Some(options.map(|(name, value)| (name.to_owned(), value)).into()),
            labels: Some(HashMap::from([("sandbox-broker".to_owned(), "network".to_owned())])),
            ..NetworkCreateRequest::default()
        };
        engine.create_network(request).await.map(drop).map_err(|error| client.failed(error))
    }

    /// Changes rules, as one change.
    async fn nft(&self, rules: &str) -> io::Result<()> {
        let mut nft = Command::new("nft");
        nft.args(["-f", "-"]).env_clear().env("PATH", PROGRAM_PATH).kill_on_drop(true);
        nft.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut nft = nft.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                io::Error::other("there is no program `nft`: install the Debian package `nftables`")
            }
            _ => error,
        })?;
        if let Some(mut input) = nft.stdin.take() {
            input.write_all(rules.as_bytes()).await?;
        }
        let output = nft.wait_with_output().await?;
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(format!("nft: {}", text.lines().next().unwrap_or("it said nothing"))))
    }

    fn table(&self) -> String {
        format!("inet {}", self.prefix)
    }

    /// What containers may send. Replies to what comes in through published ports always go out.
    fn rules(&self) -> String {
        let [closed, internal, open] = Kind::ALL.map(|kind| self.name(kind));
        let table = self.table();
        format!(
            r#"table {table}
delete table {table}
table {table} {{
    chain forward {{
        type filter hook forward priority filter - 10; policy accept;
        ct state established,related accept
        iifname "{closed}" drop
        iifname "{internal}" oifname != "{internal}" drop
        iifname "{open}" oifname "sbx*" drop
        iifname "{open}" ip daddr {{ {BLOCKED_V4} }} reject with icmpx type no-route
    }}
    chain input {{
        type filter hook input priority filter - 10; policy accept;
        ct state established,related accept
        iifname "{open}" meta l4proto {{ tcp, udp }} th dport 53 accept
        iifname {{ "{closed}", "{internal}", "{open}" }} drop
    }}
}}
"#
        )
    }
}

/// Moves a container from the networks that it is in to `target`.
pub(crate) async fn move_to(
    client: &Client,
    container: &str,
    from: &[String],
    target: &str,
) -> Result<(), EngineError> {
    let engine = client.get().await?;
    // The engine publishes ports in the network that is connected when the container has no other one.
    for network in from {
        let request = NetworkDisconnectRequest { container: container.to_owned(), force: Some(false) };
        engine.disconnect_network(network, request).await.map_err(|error| client.failed(error))?;
    }
    let request = NetworkConnectRequest { container: container.to_owned(), endpoint_config: None };
    engine.connect_network(target, request).await.map_err(|error| client.failed(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_begins_where_it_reaches_nothing() {
        let networks = Networks::new("01234567");
        assert_eq!(
            (networks.first(false), networks.first(true)),
            ("none".to_owned(), "sbx01234567c".to_owned())
        );
        assert_eq!(networks.of(Network::None), None);
        assert_eq!(networks.of(Network::Open).as_deref(), Some("sbx01234567o"));
        assert!(networks.name(Kind::Internal).len() <= 15, "names of interfaces are short");
    }

    #[test]
    fn rules_replace_earlier_ones_and_block_the_metadata_of_clouds() {
        let rules = Networks::new("0").rules();
        assert!(
            rules.contains("delete table inet sbx0\n") && rules.contains(r#"iifname "sbx0c" drop"#),
            "{rules}"
        );
        assert!(rules.contains("169.254.0.0/16") && rules.contains("100.100.100.200"), "{rules}");
    }
}
