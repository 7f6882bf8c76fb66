//! The network namespace of a sandbox, held open: the id of its process may belong to another one by now.

use super::PROGRAM_PATH;
use crate::process::Process;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

/// A network namespace.
#[derive(Debug)]
pub(crate) struct Netns(File);

/// The name by which a program finds the namespace that is its standard input.
pub(super) const STDIN: &str = "/proc/self/fd/0";

// === impl Netns ===

impl Netns {
    /// The namespace that a process is in.
    pub(super) fn of(process: Process) -> io::Result<Self> {
        let file = File::open(format!("/proc/{}/ns/net", process.pid()))?;
        // It was this process that had the id when the namespace was opened.
        if process.is_alive() { Ok(Self(file)) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    /// A program that finds the namespace as [`STDIN`].
    pub(super) fn command(&self, program: &str) -> io::Result<Command> {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", PROGRAM_PATH)
            .current_dir("/")
            .stdin(Stdio::from(self.0.try_clone()?))
            // Signals for the runner's terminal are not for it.
            .process_group(0);
        Ok(command)
    }

    /// Loads rules.
    pub(super) fn nft(&self, rules: &str) -> io::Result<Command> {
        let mut command = self.command("nsenter")?;
        command.arg(format!("--net={STDIN}")).args(["--", "nft", rules]);
        Ok(command)
    }
}
