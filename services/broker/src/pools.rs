//! `broker pools`: shows and changes the pools of a fleet from a shell, over NATS.

use crate::deletions::client::Client;
use crate::output::{Format, Shown, Watch, columns, or_none};
use clap::Subcommand;
use contract::Verb;
use contract::pools::{
    LeaseSettings, PoolOrder, PoolRequest, PoolSettings, PoolView, PoolsReply, PutPoolRequest,
};
use domain::PoolName;
use runtime::pools::parse_file;
use runtime::settings::{Env, read_file};
use std::path::PathBuf;

/// The actor if the command names none.
const BY: &str = "broker-cli";

/// The arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    format: Format,
    #[command(subcommand)]
    command: Pools,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
enum Pools {
    /// List every pool with its state, its provider, its lease policy and the counts of the last census.
    List {
        #[command(flatten)]
        watch: Watch,
    },
    /// Print one pool.
    Show {
        /// The pool.
        #[arg(value_parser = PoolName::parse)]
        pool: PoolName,
    },
    /// Create or change every pool of a file (TOML, as `POOLS_FILE`). Pools that are not in the file stay as they are.
    Apply {
        /// The file.
        file: PathBuf,
        /// The operator; for the log.
        #[arg(long, default_value = BY)]
        by: String,
    },
    /// Let a pool grant no more leases and get no new sandboxes; leases and deletions run to their ends. `apply` puts it
    /// into use again.
    Drain {
        /// The pool.
        #[arg(value_parser = PoolName::parse)]
        pool: PoolName,
        /// The operator; for the log.
        #[arg(long, default_value = BY)]
        by: String,
    },
    /// Remove a pool that is drained and has no sandbox in use.
    Remove {
        /// The pool.
        #[arg(value_parser = PoolName::parse)]
        pool: PoolName,
        /// The operator; for the log.
        #[arg(long, default_value = BY)]
        by: String,
    },
}

// === impl Options ===

impl Options {
    /// Runs the subcommand and prints the result.
    ///
    /// # Errors
    /// When a setting or the file is invalid, no worker answers, or the reply is a failure.
    pub(crate) async fn run(self, env: &dyn Env) -> anyhow::Result<()> {
        let client = Client::connect(env).await?;
        let said = match self.command {
            Pools::List { watch } => watch.show(self.format, async || list(&client).await).await,
            command => command.say(&client).await.map(|shown| self.format.print(&shown)),
        };
        client.close().await;
        said
    }
}

// === impl Pools ===

impl Pools {
    async fn say(self, client: &Client) -> anyhow::Result<Shown> {
        let order = |pool: PoolName, by| PoolOrder { pool: pool.to_string(), version: None, by: Some(by) };
        Ok(match self {
            Self::List { .. } => list(client).await?,
            Self::Show { pool } => {
                let request = PoolRequest { pool: pool.to_string() };
                Shown::fields(&client.ask::<PoolView>(Verb::Pool, &request).await?)?
            }
            Self::Apply { file, by } => {
                let specs = read_file(&file).and_then(|text| parse_file(&text));
                let specs = specs.map_err(|problem| anyhow::anyhow!("{}: {problem}", file.display()))?;
                let mut applied = Vec::new();
                for spec in specs {
                    let (pool, settings) = (spec.name.to_string(), PoolSettings::of(&spec));
                    let request = PutPoolRequest { pool, settings, version: None, by: Some(by.clone()) };
                    applied.push(client.ask::<PoolView>(Verb::PutPool, &request).await?);
                }
                let line = |PoolView { pool, state, version, .. }: &PoolView| {
                    format!("{pool}: {state}, version {version}\n")
                };
                let lines = applied.iter().map(line).collect::<String>();
                Shown::of(&applied, lines)?
            }
            Self::Drain { pool, by } => {
                let view: PoolView = client.ask(Verb::DrainPool, &order(pool, by)).await?;
                let held = view.counts.as_ref().map_or_else(String::new, |counts| {
                    format!("; {} leased, {} being deleted", counts.allocated, counts.pending_deletion)
                });
                let line = format!("{}: {}, version {}{held}", view.pool, view.state, view.version);
                Shown::of(&view, line)?
            }
            Self::Remove { pool, by } => {
                let view: PoolView = client.ask(Verb::RemovePool, &order(pool, by)).await?;
                Shown::of(&view, format!("{}: removed", view.pool))?
            }
        })
    }
}

async fn list(client: &Client) -> anyhow::Result<Shown> {
    let reply: PoolsReply = client.ask(Verb::Pools, &serde_json::json!({})).await?;
    Ok(Shown::of(&reply, table(&reply))?)
}

/// The pools, one in a line.
fn table(reply: &PoolsReply) -> String {
    let headers = [
        "POOL", "STATE", "KIND", "PROVIDER", "PREFIX", "LEASE", "GRACE", "FREE", "LEASED", "DELETING",
        "VERSION",
    ];
    columns(headers, reply.pools.iter().map(row))
}

fn row(view: &PoolView) -> [String; 11] {
    let PoolView { pool, state, version, settings, lease, is_default, counts } = view;
    let LeaseSettings { duration_minutes, grace_minutes, .. } = *lease;
    let minutes = |minutes: Option<u32>| or_none(minutes.map(|minutes| format!("{minutes}m")));
    let count = |of: fn(&contract::PoolStats) -> u64| or_none(counts.as_ref().map(of));
    [
        if *is_default { format!("{pool} (default)") } else { pool.clone() },
        state.to_string(),
        or_none(settings.kind.as_deref()),
        or_none(settings.provider.as_deref()),
        or_none(settings.name_prefix.as_deref()),
        minutes(duration_minutes),
        minutes(grace_minutes),
        count(|counts| counts.available),
        count(|counts| counts.allocated),
        count(|counts| counts.pending_deletion),
        version.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_are_shown_in_aligned_columns() {
        let of = |pool: &str, counts| PoolView {
            pool: pool.to_owned(),
            state: "active".to_owned().into(),
            version: 2,
            settings: PoolSettings { kind: Some("account".to_owned()), ..PoolSettings::default() },
            lease: LeaseSettings { duration_minutes: Some(90), ..LeaseSettings::default() },
            is_default: pool == "main",
            counts,
        };
        let counts = contract::PoolStats { available: 1_000, ..contract::PoolStats::default() };
        let reply = PoolsReply { pools: vec![of("labs", Some(counts)), of("main", None)], counted_at: None };
        let text = table(&reply);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[1].find("active"), lines[2].find("active"));
        assert!(lines[1].contains("90m") && lines[1].contains("1000"), "{text}");
        assert!(lines[2].starts_with("main (default)  active  account  -"), "{text}");
    }
}
