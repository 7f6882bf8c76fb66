//! `broker table`: shows the data that the table keeps about itself, and changes parts of it.

use crate::deletions::client::Client;
use crate::fleet::Backends;
use crate::output::{self, Format};
use anyhow::{Context as _, bail};
use clap::Subcommand;
use contract::KnownMark;
use dynamodb::DynamoStore;
use ports::clock::SystemClock;
use ports::store::{Agreed, Store, TableMark};
use runtime::agreement::differences;
use runtime::restored::{TableFacts, TableWatch};
use runtime::settings::{Env, Settings};
use serde::Serialize;
use std::sync::Arc;

mod index;

/// The arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    format: Format,
    #[command(subcommand)]
    command: Table,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
enum Table {
    /// Print the data that the table keeps about itself, and what NATS knows about the table.
    Show,
    /// Store the shared settings of this process in the table.
    Agree {
        /// Do it. Running roles keep their settings until they are restarted; a role that starts with the old settings
        /// exits.
        #[arg(long)]
        yes: bool,
    },
    /// Accept a table that was restored to an earlier time, so that sandboxes are handed out and leases end again.
    /// Check it first: docs/recovery.md.
    Acknowledge,
    /// Replace LabIndex by GroupIndex, on a running fleet: docs/operations.md.
    #[command(subcommand)]
    Index(index::Index),
}

/// The printed state of a table.
#[derive(Serialize)]
struct Shown {
    settings: Agreed,
    /// Settings of this process that differ.
    differences: Vec<String>,
    mark: KnownMark,
    /// The highest mark that NATS knows.
    known_mark: Option<KnownMark>,
    /// The last event that was accepted although the table may be older.
    accepted_event: u64,
    last_event: Option<u64>,
    /// Why nothing is granted or ended on this table.
    problem: Option<String>,
}

// === impl Options ===

impl Options {
    /// Runs the subcommand and prints the resulting state.
    ///
    /// # Errors
    /// Mistakes in the environment; no answer of the table or of NATS; an order without `--yes`.
    pub(crate) async fn run(self, env: &dyn Env) -> anyhow::Result<()> {
        let mut settings = Settings::new(env);
        let backends = Backends::read_parts(&mut settings, true, false, false);
        let Backends { table, agreed, .. } = settings.finish(backends)?;
        let store = Arc::new(DynamoStore::connect(&table.context("no table")?).await);
        let client = Client::connect(env).await?;
        let bus = Arc::new(client.bus().clone());
        let watch = TableWatch::new(store.clone(), bus.clone(), bus, Arc::new(SystemClock));
        let shown = match self.command {
            Table::Index(index) => {
                index.run(store.as_ref(), client.bus()).await.map(|shown| output::Shown::fields(&shown))
            }
            command => match command.act(store.as_ref(), &watch, &agreed).await {
                Ok(()) => Shown::of(store.as_ref(), &watch, &agreed)
                    .await
                    .map(|shown| output::Shown::fields(&shown)),
                Err(error) => Err(error),
            },
        };
        client.close().await;
        self.format.print(&shown??);
        Ok(())
    }
}

// === impl Table ===

impl Table {
    async fn act(self, store: &dyn Store, watch: &TableWatch, own: &Agreed) -> anyhow::Result<()> {
        match self {
            Self::Show | Self::Index(_) => {}
            Self::Agree { yes: true } => drop(store.agree(own, true).await?),
            Self::Agree { yes: false } => bail!("{}", unconfirmed(own, &store.agreed().await?)),
            Self::Acknowledge => {
                if watch.look(true).await?.problem.is_none() {
                    bail!("nothing was changed: the table is as new as what NATS knows of it");
                }
                watch.accept().await?;
            }
        }
        Ok(())
    }
}

fn unconfirmed(own: &Agreed, kept: &Agreed) -> String {
    let differences = differences(own, kept);
    if differences.is_empty() {
        return "nothing was changed: the table has the settings of this process".to_owned();
    }
    format!(
        "nothing was changed. With --yes the table takes the settings of this process: {}. Running roles keep their settings \
         until they restart; a role that starts with the former settings exits",
        differences.join("; ")
    )
}

// === impl Shown ===

impl Shown {
    async fn of(store: &dyn Store, watch: &TableWatch, own: &Agreed) -> anyhow::Result<Self> {
        let settings = store.agreed().await?;
        let TableFacts { kept, known, last_event, problem } = watch.look(true).await?;
        let TableMark { number, at, accepted_event } = kept;
        Ok(Self {
            differences: differences(own, &settings),
            settings,
            mark: KnownMark { number, at: at.get() },
            known_mark: known,
            accepted_event,
            last_event,
            problem,
        })
    }
}
