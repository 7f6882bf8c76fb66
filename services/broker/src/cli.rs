//! The command line.

use crate::role::Role;
use crate::{child, client, deletions, operate, pools, store, table, tick, token, up};
use clap::{Parser, Subcommand};
use runtime::policy::read_worker_threads;
use runtime::settings::{ProcessEnv, Settings};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// Hands out pre-created cloud sandboxes in milliseconds, takes them back, and deletes them without losing one.
#[derive(Debug, Parser)]
#[command(name = "broker", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the whole fleet in one process, with embedded NATS, table and provider by default.
    Up(up::Options),
    #[command(flatten)]
    Role(Role),
    /// Run the embedded table alone, for roles and fleets that use it (`DYNAMODB_ENDPOINT`).
    Store(store::Options),
    /// Inspect and control the deletion queue, over NATS (`NATS_URL` …).
    #[command(subcommand)]
    Deletions(deletions::Deletions),
    /// Show, change, drain and remove pools, over NATS (`NATS_URL` …).
    #[command(subcommand)]
    Pools(pools::Pools),
    /// Inspect the table (`DYNAMODB_TABLE` …) and change the settings that its processes must share.
    #[command(subcommand)]
    Table(table::Table),
    /// Send the requests of a lab, over HTTP or NATS, repeat them where that helps, and print the reply as JSON. Exit
    /// codes: 0 answered, 3 refused for good, 4 the same call may succeed later.
    Client(client::Options),
    /// Start a run now, over NATS (`NATS_URL` …), and print its report as JSON. Exit codes: 0 completed, 3 refused to
    /// avoid harm, 4 failed, 5 no report in time.
    Tick(tick::Options),
    /// Make a token, and print its line for the token file (`TOKENS_FILE`).
    Token(token::Options),
    /// Print every setting of every role, as the table in docs/configuration.md.
    Settings,
    /// Print every metric of every role, as the tables in docs/metrics.md.
    Metrics,
    /// Write the definition of every stream and consumer into a folder, as JSON for the `nats` client (nats/definitions).
    Definitions {
        /// The folder; it must exist.
        folder: PathBuf,
    },
    /// Write the contract on NATS into a folder: asyncapi.json, and a JSON Schema for each message below schemas (nats).
    Contract {
        /// The folder; it must exist and contain a folder `schemas`.
        folder: PathBuf,
    },
    /// Execute a program that dies with its parent.
    #[command(name = child::GUARD_COMMAND, hide = true)]
    Guard {
        /// Process id of the parent.
        parent: i32,
        /// The program.
        program: PathBuf,
        /// Its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let Arguments { command } = Arguments::parse();
    let ended = match command {
        Command::Guard { parent, program, arguments } => child::become_guarded(parent, &program, &arguments),
        Command::Settings => {
            print!("{}", operate::settings_page());
            Ok(())
        }
        Command::Metrics => operate::metrics_page().map(|page| print!("{page}")).map_err(Into::into),
        Command::Definitions { folder } => operate::write_definitions(&folder, &ProcessEnv),
        Command::Contract { folder } => operate::write_contract(&folder),
        Command::Token(options) => options.run(),
        Command::Up(options) => block_on(up::run(options, &ProcessEnv)),
        Command::Deletions(deletions) => block_on(deletions.run(&ProcessEnv)),
        Command::Pools(pools) => block_on(pools.run(&ProcessEnv)),
        Command::Table(table) => block_on(table.run(&ProcessEnv)),
        Command::Role(role) => block_on(role.run(&ProcessEnv)),
        Command::Store(options) => block_on(store::run(options, &ProcessEnv)),
        Command::Client(options) => {
            let end = block_on(options.run(&ProcessEnv));
            return finish(end.map(|end| ExitCode::from(end.code())));
        }
        Command::Tick(options) => {
            let end = block_on(options.run(&ProcessEnv));
            return finish(end.map(|end| ExitCode::from(end.code())));
        }
    };
    finish(ended.map(|()| ExitCode::SUCCESS))
}

fn finish(ended: anyhow::Result<ExitCode>) -> ExitCode {
    match ended {
        Ok(code) => code,
        Err(error) => {
            eprintln!("broker: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a command on as many threads as `WORKER_THREADS` says.
///
/// # Errors
/// When the threads cannot be started, and the error of `run`.
pub fn block_on<T>(run: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    // A mistake in it is reported with all others, when the command reads the other settings.
    let worker_threads = read_worker_threads(&mut Settings::new(&ProcessEnv));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(worker_threads).enable_all().build()?;
    let ended = runtime.block_on(run);
    // A blocked helper thread (DNS, file system) must not delay the exit.
    runtime.shutdown_background();
    ended
}
