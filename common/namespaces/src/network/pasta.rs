//! The way out and in: a process of `pasta` for each sandbox, which carries connections between the namespace of the sandbox and
//! the node without any rule or interface on the node.

use super::PROGRAM_PATH;
use super::netns::{Netns, STDIN};
use crate::launch::JOIN_GROUPS;
use host::cgroups::Group;
use host::published::Port;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The address of every sandbox on its side, the prefix of its network, and the gateway: as emulators of machines have them.
const ADDRESS: &str = "10.0.2.15";
const PREFIX_BITS: &str = "24";
const GATEWAY: &str = "10.0.2.2";
/// The same for IPv6, which is left out on a node without it.
const ADDRESS_V6: &str = "fd2b:7d3c:9a11::15";
const GATEWAY_V6: &str = "fd2b:7d3c:9a11::2";
/// Where sandboxes ask for names; the resolver of the node answers.
pub(crate) const RESOLVER: &str = "10.0.2.3";
/// The interface in the sandbox.
const INTERFACE: &str = "eth0";
/// The hardware address of that. Without it `pasta` waits for a first packet to learn it, which a sandbox without network
/// never sends.
const MAC_ADDRESS: &str = "02:00:00:00:00:01";
/// What it says when there is no system log.
const NOISE: &str = "Failed to send ";
/// After its group is joined, it becomes the program.
const SCRIPT: &str = r#"ulimit -c 0; exec "$@""#;

/// Where a process reports.
#[derive(Debug)]
pub(crate) struct Files {
    /// Its id, written when it is ready.
    pub(crate) pid: PathBuf,
    /// What it complains about.
    pub(crate) log: PathBuf,
}

/// A process that serves the sandbox in `netns`, and these ports.
pub(super) fn command(netns: &Netns, ports: &[Port], group: &Group, files: &Files) -> io::Result<Command> {
    remove(&files.pid)?;
    let mut command = netns.command("/bin/sh")?;
    command.arg("-c").arg(format!("{JOIN_GROUPS}{SCRIPT}")).arg("sh").args(group.joining_files()).arg("--");
    // As root it keeps only the capabilities that it needs and sees no file; another user could not enter the namespace.
    command.args(["pasta", "--foreground", "--quiet", "--runas", "0", "--pid"]).arg(&files.pid);
    command.args(["--netns", STDIN, "--no-netns-quit", "--config-net"]);
    command.args(["--ns-ifname", INTERFACE, "--ns-mac-addr", MAC_ADDRESS]);
    command.args(["--address", ADDRESS, "--netmask", PREFIX_BITS, "--gateway", GATEWAY]);
    command.args(["--address", ADDRESS_V6, "--gateway", GATEWAY_V6]);
    // Nothing reaches the loopback interface of the node, except for questions about names.
    command.args(["--no-map-gw", "--dns-forward", RESOLVER, "--tcp-ns", "none", "--udp-ns", "none"]);
    command.args(["--no-dhcp", "--no-dhcpv6", "--no-ra", "--udp-ports", "none"]);
    if ports.is_empty() {
        command.args(["--tcp-ports", "none"]);
    }
    for Port { inside, outside } in ports {
        command.args(["--tcp-ports", &format!("{}/{}:{inside}", outside.ip(), outside.port())]);
    }
    command.env("PATH", PROGRAM_PATH).stdout(Stdio::null()).stderr(Stdio::from(File::create(&files.log)?));
    Ok(command)
}

// === impl Files ===

impl Files {
    /// The files in this folder.
    pub(crate) fn of(folder: &Path) -> Self {
        Self { pid: folder.join("pasta.pid"), log: folder.join("pasta.log") }
    }

    /// Deletes them.
    pub(super) fn remove(&self) -> io::Result<()> {
        remove(&self.pid).and(remove(&self.log))
    }

    /// Whether the process is ready.
    pub(super) fn is_ready(&self) -> bool {
        std::fs::metadata(&self.pid).is_ok_and(|file| file.len() > 0)
    }

    /// What the process complained about.
    pub(super) fn complaint(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().map(str::trim).rfind(|line| !line.is_empty() && !line.starts_with(NOISE));
        line.unwrap_or("it said nothing").to_owned()
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaint_is_the_last_line_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::of(folder.path());
        assert_eq!(files.complaint(), "it said nothing");
        std::fs::write(&files.log, "Failed to bind any port\nFailed to send 51 bytes to syslog\n").unwrap();
        assert_eq!(files.complaint(), "Failed to bind any port");
        assert!(!files.is_ready());
        std::fs::write(&files.pid, "1\n").unwrap();
        assert!(files.is_ready());
    }
}
