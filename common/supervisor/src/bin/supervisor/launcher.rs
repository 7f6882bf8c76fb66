//! The launcher: takes a job from its keeper, gives up every right, and becomes the command.
//!
//! Its socket closes when the command is executed. Until then it can send the reason why that failed.

use crate::{confine, handover};
use nix::sys::signal::SigSet;
use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use supervisor::{Job, PATH_DEFAULT};

/// The variable with the folders of programs.
const PATH: &str = "PATH";

/// Returns only if the command could not be executed.
pub(crate) fn run() -> Result<(), String> {
    let keeper = handover::to_parent().map_err(|error| error.to_string())?;
    let (message, streams) = handover::receive(&keeper).map_err(|error| error.to_string())?;
    if message.is_empty() {
        // There will be no job.
        return Ok(());
    }
    let Err(reason) = launch(&message, streams);
    handover::send(&keeper, reason.as_bytes(), &[]).map_err(|_| reason)
}

fn launch(message: &[u8], streams: Vec<OwnedFd>) -> Result<Infallible, String> {
    let job: Job = serde_json::from_slice(message).map_err(|error| error.to_string())?;
    use_streams(streams)?;
    confine::confine(&job)?;
    SigSet::empty().thread_set_mask().map_err(|error| format!("signal mask: {error}"))?;
    let cwd = job.cwd.as_deref().unwrap_or("/");
    std::env::set_current_dir(cwd).map_err(|error| format!("{error}: {cwd}"))?;
    let (program, arguments) = job.command.split_first().ok_or("no command")?;
    let mut command = Command::new(program);
    // What the supervisor itself was given is that of the image.
    if std::env::var_os(PATH).is_none() {
        command.env(PATH, PATH_DEFAULT);
    }
    command.args(arguments).env("HOME", cwd).envs(&job.env);
    Err(format!("{}: {program}", command.exec()))
}

fn use_streams(streams: Vec<OwnedFd>) -> Result<(), String> {
    let [stdin, stdout, stderr] = <[OwnedFd; 3]>::try_from(streams).map_err(|_| "three streams expected")?;
    rustix::stdio::dup2_stdin(stdin)
        .and_then(|()| rustix::stdio::dup2_stdout(stdout))
        .and_then(|()| rustix::stdio::dup2_stderr(stderr))
        .map_err(|error| format!("streams: {error}"))
}
