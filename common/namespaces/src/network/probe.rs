//! Finds out which networks this machine allows.

use super::netns::Netns;
use super::{Files, PROGRAM_PATH, Policy, Programs, finish, internal, pasta, rules};
use crate::arguments::Starter;
use crate::process::Process;
use host::LOOK_PAUSE;
use host::cgroups::Group;
use host::published::why_no_ports;
use ports::engine::{Feature, Unsupported};
use std::io::{self, Read as _};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// Programs of a feature, and their Debian packages.
const OF_INTERNAL: [(&str, &str); 2] = [("ip", "iproute2"), ("nsenter", "util-linux")];
const OF_PASTA: [(&str, &str); 3] = [("pasta", "passt"), ("nft", "nftables"), ("nsenter", "util-linux")];

/// A process that is ended with this.
struct Tried(Child);

/// What this machine lacks, on whose address `address` ports are published. `folder` is for files of this call. Blocks for some
/// milliseconds.
pub(crate) fn unsupported(starter: Starter, address: Ipv4Addr, folder: &Path) -> Vec<Unsupported> {
    let of_user = (starter == Starter::User)
        .then(|| "only root can make networks; the adapter runs as another user".to_owned());
    let internal = of_user.clone().or_else(internal::why_not);
    let pasta = of_user.or_else(|| why_no_pasta(folder));
    let all = [
        (Feature::InternalNetwork, internal),
        (Feature::OpenNetwork, pasta.clone()),
        (Feature::PublishedPorts, pasta.or_else(|| why_no_ports(address))),
    ];
    all.into_iter().filter_map(|(feature, reason)| Some(Unsupported { feature, reason: reason? })).collect()
}

/// Why a sandbox here cannot reach the outside, nor be reached from there.
fn why_no_pasta(folder: &Path) -> Option<String> {
    let tried = || {
        Programs::Pasta.missing().map_or_else(|| try_pasta(folder), |missing| Err(io::Error::other(missing)))
    };
    tried().err().map(|error| error.to_string())
}

/// Connects a namespace that ends at once.
fn try_pasta(folder: &Path) -> io::Result<()> {
    let files = Files::of(folder);
    let tried = try_pasta_with(&files);
    files.remove().and(tried)
}

fn try_pasta_with(files: &Files) -> io::Result<()> {
    let mut holder = Command::new("unshare");
    holder.args(["--net", "/bin/sh", "-c", "echo; read line"]).env_clear().env("PATH", PROGRAM_PATH);
    let mut holder =
        Tried(holder.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?);
    // It says something when it is in its namespace.
    let mut said = [0];
    holder.0.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?.read_exact(&mut said)?;
    let netns = Netns::of(Process::of(holder.0.id().try_into().map_err(io::Error::other)?)?)?;
    for rules in [rules::first(Policy::Internal), rules::next(Policy::Open)] {
        finish(netns.nft(&rules)?.output()?)?;
    }
    let mut pasta = Tried(pasta::command(&netns, &[], &Group::None, files)?.spawn()?);
    let deadline = Instant::now() + super::CONNECT_TIMEOUT;
    while !files.is_ready() {
        if pasta.0.try_wait()?.is_some() || Instant::now() > deadline {
            return Err(io::Error::other(format!("pasta cannot connect a sandbox: {}", files.complaint())));
        }
        std::thread::sleep(LOOK_PAUSE);
    }
    Ok(())
}

// === impl Programs ===

impl Programs {
    /// What to install.
    pub(super) fn missing(self) -> Option<String> {
        let programs: &[_] = match self {
            Self::Internal => &OF_INTERNAL,
            Self::Pasta => &OF_PASTA,
        };
        let is_missing =
            |program: &str| !PROGRAM_PATH.split(':').any(|folder| Path::new(folder).join(program).exists());
        let (program, package) = programs.iter().find(|(program, _)| is_missing(program))?;
        Some(format!("there is no program `{program}`: install the Debian package `{package}`"))
    }
}

// === impl Tried ===

impl Drop for Tried {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_user_has_no_networks() {
        let folder = tempfile::tempdir().unwrap();
        let lacking = unsupported(Starter::User, Ipv4Addr::LOCALHOST, folder.path());
        assert!(lacking.len() == 3 && lacking.iter().all(|one| one.reason.contains("root")), "{lacking:?}");
    }
}
