//! The network between the sandboxes of a node: a bridge in a network namespace that has nothing else, and a pair of virtual
//! interfaces for each sandbox. The kernel deletes a pair with the namespace of its sandbox.

use super::netns::Netns;
use super::{INTERNAL_INTERFACE, PROGRAM_PATH, Programs, finish};
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

/// Where iproute2 keeps the names of network namespaces.
const NAMES: &str = "/run/netns";
/// The network, of which each sandbox has one address.
const NETWORK: [u8; 2] = [10, 1];
const PREFIX_BITS: u32 = 16;
/// The numbers of addresses: without that of the network and the broadcast address.
pub(super) const HOSTS: std::ops::RangeInclusive<u16> = 1..=u16::MAX - 1;
/// Joins a sandbox: `$1` is the name of the bridge's namespace, `$2` the interface there, `$3` the one inside, `$4` its address,
/// `$5` its hardware address: if that changed with a start, neighbours would not find it for some seconds. What an interrupted attempt has left is replaced.
const JOIN: &str = r#"set -e
join() {
    nsenter --net=/proc/self/fd/0 -- ip -batch /proc/self/fd/3 3<<END
link add $3 address $5 type veth peer name $2 netns $1
address add $4 dev $3
link set $3 up
END
}
ip -n "$1" link show bridge >/dev/null 2>&1 || {
    ip netns delete "$1" 2>/dev/null || :
    ip netns add "$1"
    ip -n "$1" link add bridge type bridge
}
join "$@" 2>/dev/null || {
    ip -n "$1" link delete "$2" 2>/dev/null || :
    nsenter --net=/proc/self/fd/0 -- ip link delete "$3" 2>/dev/null || :
    join "$@"
}
ip -n "$1" -batch /proc/self/fd/3 3<<END
link set bridge up
link set $2 master bridge up
END
"#;
/// Makes such interfaces where they vanish at once.
const TRY: &str = "set -e; ip link add bridge type bridge; ip link add veth type veth peer name peer";

/// The address of a sandbox.
fn address(host: u16) -> Ipv4Addr {
    let ([high, low], [one, two]) = (host.to_be_bytes(), NETWORK);
    Ipv4Addr::new(one, two, high, low)
}

/// Joins the sandbox that is in `netns` to the network `name`, with the address of this number.
pub(super) fn join(netns: &Netns, name: &str, host: u16) -> io::Result<Command> {
    let mut command = netns.command("/bin/sh")?;
    let [one, two, three, four] = address(host).octets();
    let hardware = format!("02:00:{one:02x}:{two:02x}:{three:02x}:{four:02x}");
    let address = format!("{}/{PREFIX_BITS}", address(host));
    command.args(["-c", JOIN, "sh", name, &format!("v{host}"), INTERNAL_INTERFACE, &address, &hardware]);
    Ok(command)
}

/// Deletes the network; none if there is none.
pub(super) fn delete(name: &str) -> Option<Command> {
    let mut command = Command::new("ip");
    command.env_clear().env("PATH", PROGRAM_PATH).args(["netns", "delete", name]);
    Path::new(NAMES).join(name).exists().then_some(command)
}

/// Why this machine cannot have such a network.
pub(super) fn why_not() -> Option<String> {
    Programs::Internal.missing().or_else(|| {
        let mut command = Command::new("unshare");
        command.env_clear().env("PATH", PROGRAM_PATH).args(["--net", "/bin/sh", "-c", TRY]);
        let tried = command.output().and_then(finish);
        tried.err().map(|error| format!("the kernel makes no bridge or no virtual interface: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_its_address() {
        assert_eq!(address(*HOSTS.start()).to_string(), "10.1.0.1");
        assert_eq!(address(*HOSTS.end()).to_string(), "10.1.255.254");
    }
}
