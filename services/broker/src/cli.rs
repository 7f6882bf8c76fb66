//! The command line.

use crate::role::Role;
use crate::up::Overlay;
use crate::views::View;
use crate::{
    child, client, context, deletions, doctor, nodes, operate, pools, provisions, store, table, templates,
    tick, token, up,
};
use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use runtime::policy::read_worker_threads;
use runtime::settings::{ProcessEnv, Settings};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// Most columns of a help text, on a terminal of any width.
const HELP_COLUMNS_MAX: usize = 100;
/// The name of the command.
const NAME: &str = "broker";

/// Hands out pre-created cloud sandboxes in milliseconds, takes them back, and deletes them without losing one.
#[derive(Debug, Parser)]
#[command(name = NAME, version, about, max_term_width = HELP_COLUMNS_MAX)]
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
    #[command(flatten)]
    View(View),
    /// Inspect and control the deletion queue, over NATS (`NATS_URL` …).
    Deletions(deletions::Options),
    /// List sandboxes that are being created or could not be, and try those again, over NATS (`NATS_URL` …).
    Provisions(provisions::Options),
    /// Show, change, drain and remove pools, over NATS (`NATS_URL` …).
    Pools(pools::Options),
    /// Show nodes, take them out of use and put them back, over NATS (`NATS_URL` …).
    Nodes(nodes::Options),
    /// Show, write and delete templates, over NATS (`NATS_URL` …).
    Templates(templates::Options),
    /// Inspect the table (`DYNAMODB_TABLE` …) and change the settings that its processes must share.
    Table(table::Options),
    /// Look for faults of NATS (`NATS_URL` …), the roles, the table (`DYNAMODB_TABLE` …) and the provider (`CSP_BASE_URL`
    /// …), name each of them, and say what to do. Changes nothing.
    Doctor(doctor::Options),
    /// Keep the addresses and credentials files of fleets by name, for commands whose environment names none.
    Context(context::Options),
    /// Print the completions for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
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
    match run(command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("{NAME}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a command; returns its exit code.
fn run(command: Command) -> anyhow::Result<u8> {
    match command {
        Command::Guard { parent, program, arguments } => child::become_guarded(parent, &program, &arguments)?,
        Command::Settings => print!("{}", operate::settings_page()),
        Command::Metrics => print!("{}", operate::metrics_page()?),
        Command::Definitions { folder } => operate::write_definitions(&folder, &ProcessEnv)?,
        Command::Contract { folder } => operate::write_contract(&folder)?,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), NAME, &mut std::io::stdout());
        }
        Command::Token(options) => options.run()?,
        Command::Context(options) => options.run(&ProcessEnv)?,
        Command::Up(options) => block_on(up::run(options, &ProcessEnv))?,
        Command::Role(role) => block_on(role.run(&ProcessEnv))?,
        Command::Store(options) => block_on(store::run(options, &ProcessEnv))?,
        Command::View(view) => block_on(view.run(&operator_env()?))?,
        Command::Deletions(options) => block_on(options.run(&operator_env()?))?,
        Command::Provisions(options) => block_on(options.run(&operator_env()?))?,
        Command::Pools(options) => block_on(options.run(&operator_env()?))?,
        Command::Nodes(options) => block_on(options.run(&operator_env()?))?,
        Command::Templates(options) => block_on(options.run(&operator_env()?))?,
        Command::Table(options) => block_on(options.run(&operator_env()?))?,
        Command::Client(options) => return Ok(block_on(options.run(&ProcessEnv))?.code()),
        Command::Tick(options) => return Ok(block_on(options.run(&operator_env()?))?.code()),
        Command::Doctor(options) => return Ok(u8::from(!block_on(options.run(&operator_env()?))?)),
    }
    Ok(0)
}

/// The environment, with the context in use.
fn operator_env() -> anyhow::Result<Overlay<'static>> {
    context::over(&ProcessEnv)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Every command with its subcommands; `help` has copies of them.
    fn collect(command: &clap::Command, all: &mut Vec<clap::Command>) {
        let subcommands = command.get_subcommands().filter(|command| command.get_name() != "help");
        subcommands.for_each(|command| collect(command, all));
        all.push(command.clone());
    }

    fn commands() -> Vec<clap::Command> {
        let mut root = Arguments::command();
        root.build();
        let mut all = Vec::new();
        collect(&root, &mut all);
        all
    }

    #[test]
    fn arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn help_is_at_most_100_columns_wide() {
        let all = commands();
        assert!(all.len() > 40, "{}", all.len());
        for mut command in all {
            for help in [command.render_help(), command.render_long_help()] {
                let help = help.to_string();
                let widest = help.lines().max_by_key(|line| line.chars().count()).unwrap_or_default();
                assert!(widest.chars().count() <= HELP_COLUMNS_MAX, "{}: {widest}", command.get_name());
            }
        }
    }

    #[test]
    fn mistyped_commands_and_values_get_a_suggestion() {
        for (arguments, expected) in [
            (&["broker", "deletion"][..], "'deletions'"),
            (&["broker", "stats", "--outpt", "json"], "'--output'"),
            (&["broker", "stats", "--output", "jsn"], "'json'"),
        ] {
            let error = Arguments::try_parse_from(arguments).unwrap_err().to_string();
            assert!(error.contains("similar") && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn every_listing_has_the_same_formats() {
        let names = |command: &clap::Command| -> Vec<String> {
            command.get_arguments().filter_map(|argument| argument.get_long().map(str::to_owned)).collect()
        };
        let all = commands();
        for name in [
            "stats",
            "sandboxes",
            "claims",
            "events",
            "fleet",
            "list",
            "parked",
            "doctor",
            "client",
            "tick",
            "show",
        ] {
            for command in all.iter().filter(|command| command.get_name() == name) {
                let found = names(command);
                for wanted in ["output", "json"] {
                    assert!(found.iter().any(|one| one == wanted), "{name}: {found:?}");
                }
            }
        }
    }

    #[test]
    fn completions_know_every_visible_command() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), NAME, &mut script);
            let script = String::from_utf8(script).unwrap();
            for name in ["doctor", "reconciler", "back-fill", "--watch"] {
                // fish writes options without dashes.
                assert!(script.contains(name.trim_start_matches('-')), "{shell}: {name}");
            }
        }
    }
}
