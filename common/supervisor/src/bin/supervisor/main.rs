//! Process 1 of a sandbox. Its standard input is the listening socket that a runner made, or it makes one at a path
//! (`supervisor listen PATH`); see the library.
//!
//! The program executes itself for each job: as *keeper*, under which all processes of the job stay, and as *launcher*,
//! which gives up every right and becomes the job's command. So no code runs between fork and exec, and no `unsafe` is
//! needed.

use std::process::ExitCode;

#[cfg(target_os = "linux")]
mod confine;
#[cfg(target_os = "linux")]
mod connection;
#[cfg(target_os = "linux")]
mod descendants;
#[cfg(target_os = "linux")]
mod handover;
#[cfg(target_os = "linux")]
mod input;
#[cfg(target_os = "linux")]
mod keeper;
#[cfg(target_os = "linux")]
mod launcher;
#[cfg(target_os = "linux")]
mod output;
#[cfg(target_os = "linux")]
mod server;
#[cfg(target_os = "linux")]
mod supervised;

/// The argument that names the path of the socket to make.
#[cfg(target_os = "linux")]
const LISTEN: &[u8] = b"listen";

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    let mode = std::env::args_os().nth(1);
    let result = match mode.as_ref().map(|mode| mode.as_encoded_bytes()) {
        None => server::run(None),
        Some(LISTEN) => match std::env::args_os().nth(2) {
            Some(path) => server::run(Some(path.as_ref())),
            None => Err("`listen` needs the path of a socket".to_owned()),
        },
        Some(handover::KEEPER) => keeper::run(),
        Some(handover::LAUNCHER) => launcher::run(),
        Some(_) => {
            Err("the supervisor is started without arguments, on a listening socket, or with `listen PATH`"
                .to_owned())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("supervisor: {problem}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    eprintln!("supervisor: this program needs Linux");
    ExitCode::FAILURE
}
