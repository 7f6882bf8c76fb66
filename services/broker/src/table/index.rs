//! `broker table index`: replaces `LabIndex` by `GroupIndex` on a live table, step by step.

use crate::deletions::client::ANSWERS_TIMEOUT;
use anyhow::{Context as _, bail};
use clap::Subcommand;
use contract::{WorkerRole, WorkerView};
use dynamodb::back_fill::{BackFill, PageEnd};
use dynamodb::indexes::{IndexView, OptionalIndex};
use dynamodb::{DynamoStore, READ_GROUP_INDEX};
use ports::bus::Discovery;
use ports::clock::{Clock, SystemClock};
use serde::Serialize;
use std::time::Duration;

/// Most items of a page: what is repeated after a stop.
const PAGE_ITEMS_MAX: u32 = 100;
/// Most items a second.
const RATE_MAX: i64 = 100_000;

/// The subcommands, in the order of the steps. Each prints the state after it, with the next step.
#[derive(Debug, Subcommand)]
pub(crate) enum Index {
    /// Print the indexes, how far the back-fill is, what each role lists labs from, and the next step.
    Show,
    /// Add GroupIndex and wait until it is active. Changes nothing if it is there.
    Add {
        /// Add LabIndex again instead, which `drop` removed: the way back to the previous build.
        #[arg(long)]
        lab_index: bool,
    },
    /// Give every sandbox that is held for a lab its group, and remove stale groups. Continues where it stopped; safe to
    /// repeat.
    BackFill {
        /// Items to read per second at most.
        #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=RATE_MAX))]
        items_per_second: u32,
        /// Begin with the first item again: necessary if the previous build ran after the back-fill began.
        #[arg(long)]
        restart: bool,
    },
    /// Remove LabIndex. Refused while a role reads it, or before the back-fill is complete.
    Drop {
        /// Do it. The previous build does not start on the table any more; `add --lab-index` is the way back.
        #[arg(long)]
        yes: bool,
    },
}

/// The printed state.
#[derive(Debug, Serialize)]
pub(crate) struct Shown {
    indexes: Vec<ShownIndex>,
    back_fill: ShownBackFill,
    /// The running roles that use the table.
    roles: Vec<Reader>,
    /// What to do next.
    next: String,
}

#[derive(Debug, Serialize)]
struct ShownIndex {
    name: &'static str,
    status: String,
    /// On AWS, up to six hours old.
    items: Option<i64>,
}

#[derive(Debug, Serialize)]
struct ShownBackFill {
    is_complete: bool,
    /// Whether a pass has begun and not ended.
    is_under_way: bool,
    /// Items that the pass read, of all kinds.
    scanned: u64,
    /// Sandboxes that got their group.
    set: u64,
    /// Sandboxes that lost a stale group.
    removed: u64,
    /// Sandboxes that this build cannot read; the log names them.
    unreadable: u64,
}

/// A running role that uses the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Reader {
    role: WorkerRole,
    id: String,
    /// None if its build does not know GroupIndex.
    reads_group_index: Option<bool>,
}

/// What decides about a step.
#[derive(Clone, Debug)]
struct Facts {
    group: IndexView,
    lab: IndexView,
    back_fill: BackFill,
    readers: Vec<Reader>,
}

// === impl Index ===

impl Index {
    /// Runs the subcommand and returns the resulting state.
    ///
    /// # Errors
    /// No answer of the table or of NATS; a step that is refused.
    pub(super) async fn run(self, store: &DynamoStore, bus: &dyn Discovery) -> anyhow::Result<Shown> {
        match self {
            Self::Show => {}
            Self::Add { lab_index: false } => store.add_index(OptionalIndex::Group).await?,
            Self::Add { lab_index: true } => store.add_index(OptionalIndex::Lab).await?,
            Self::BackFill { items_per_second, restart } => {
                back_fill(store, bus, items_per_second, restart).await?;
            }
            Self::Drop { yes } => {
                Facts::of(store, bus).await?.refuses_drop(yes)?;
                store.drop_index(OptionalIndex::Lab).await?;
            }
        }
        Ok(Facts::of(store, bus).await?.shown(store.indexes().await?))
    }
}

async fn back_fill(
    store: &DynamoStore,
    bus: &dyn Discovery,
    items_per_second: u32,
    restart: bool,
) -> anyhow::Result<()> {
    const OTHER: &str = "another back-fill is running; this one stopped";
    Facts::of(store, bus).await?.refuses_back_fill()?;
    let clock = SystemClock;
    let items = items_per_second.min(PAGE_ITEMS_MAX);
    // A second has room for this many pages.
    let pause = Duration::from_secs(1) * items / items_per_second;
    let mut progress = store.back_fill().await?;
    if restart || progress.after.is_none() {
        progress = progress.restarted();
    }
    loop {
        let began = clock.monotonic();
        match store.back_fill_page(&progress, u16::try_from(items)?).await?.context(OTHER)? {
            PageEnd::More(next) => progress = next,
            PageEnd::Last(last) => {
                // A role of the previous build that started meanwhile may have written behind the pass.
                Facts::of(store, bus).await?.refuses_back_fill()?;
                if !store.finish_back_fill(&last, clock.now()).await? {
                    bail!(OTHER);
                }
                return Ok(());
            }
        }
        clock.sleep(pause.saturating_sub(clock.monotonic().saturating_sub(began))).await;
    }
}

// === impl Reader ===

impl Reader {
    /// None for a role without the table.
    fn of(worker: &WorkerView) -> Option<Self> {
        let reads = match worker.role {
            WorkerRole::Allocator | WorkerRole::Registry | WorkerRole::Reaper | WorkerRole::Reconciler => {
                worker.settings.get(READ_GROUP_INDEX).map(|value| value == "true")
            }
            WorkerRole::Ingress | WorkerRole::Runner | WorkerRole::Scheduler => return None,
        };
        Some(Self { role: worker.role, id: worker.id.clone(), reads_group_index: reads })
    }
}

// === impl Facts ===

impl Facts {
    async fn of(store: &DynamoStore, bus: &dyn Discovery) -> anyhow::Result<Self> {
        let [_, lab, group] = store.indexes().await?;
        let workers = bus.workers(ANSWERS_TIMEOUT).await.context("the roles cannot be asked")?;
        let readers = workers.iter().filter_map(Reader::of).collect();
        Ok(Self { group, lab, back_fill: store.back_fill().await?, readers })
    }

    /// The readers of that kind, in words.
    fn named(&self, reads: impl Fn(Option<bool>) -> bool) -> Option<String> {
        let named = self.readers.iter().filter(|reader| reads(reader.reads_group_index));
        let named: Vec<_> = named.map(|reader| format!("{} {}", reader.role.as_str(), reader.id)).collect();
        (!named.is_empty()).then(|| named.join(", "))
    }

    /// The roles of the previous build.
    fn former(&self) -> Option<String> {
        self.named(|reads| reads.is_none())
    }

    /// The roles that list labs from LabIndex.
    fn lab_readers(&self) -> Option<String> {
        self.named(|reads| reads != Some(true))
    }

    fn refuses_back_fill(&self) -> anyhow::Result<()> {
        if let Some(former) = self.former() {
            bail!(
                "the back-fill is not complete: {former} run the previous build, which writes no groups; restart them with this one"
            );
        }
        Ok(())
    }

    fn refuses_drop(&self, is_confirmed: bool) -> anyhow::Result<()> {
        if !self.group.is_readable() {
            bail!("LabIndex stays: GroupIndex is {}", self.group.status);
        }
        if self.back_fill.completed_at.is_none() {
            bail!("LabIndex stays: the back-fill of GroupIndex is not complete");
        }
        if let Some(readers) = self.lab_readers() {
            bail!("LabIndex stays: {readers} may read it; restart them with {READ_GROUP_INDEX}=true");
        }
        if !is_confirmed {
            bail!(
                "nothing was changed. With --yes LabIndex is removed, and the previous build starts on this table no more"
            );
        }
        Ok(())
    }

    fn next_step(&self) -> String {
        if !self.group.is_there() {
            return "add GroupIndex: `broker table index add`".to_owned();
        }
        if !self.group.is_readable() {
            return format!("wait: GroupIndex is {}", self.group.status);
        }
        if self.back_fill.completed_at.is_none() {
            return match self.former() {
                Some(former) => format!("restart {former} with this build, then back-fill"),
                None => "give every held sandbox its group: `broker table index back-fill`".to_owned(),
            };
        }
        if !self.lab.is_there() {
            return format!("nothing: LabIndex is gone, and {READ_GROUP_INDEX} makes no difference any more");
        }
        match self.lab_readers() {
            Some(readers) => format!("restart {readers} with {READ_GROUP_INDEX}=true"),
            None => format!(
                "when every role has {READ_GROUP_INDEX}=true and no rollback is planned: `broker table index drop --yes`"
            ),
        }
    }

    fn shown(self, indexes: impl IntoIterator<Item = IndexView>) -> Shown {
        let next = self.next_step();
        let BackFill { version: _, after, scanned, set, removed, unreadable, completed_at } = self.back_fill;
        let indexes = indexes.into_iter();
        Shown {
            indexes: indexes
                .map(|IndexView { name, status, items }| ShownIndex { name, status, items })
                .collect(),
            back_fill: ShownBackFill {
                is_complete: completed_at.is_some(),
                is_under_way: after.is_some(),
                scanned,
                set,
                removed,
                unreadable,
            },
            roles: self.readers,
            next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::UnixSeconds;

    fn index(name: &'static str, status: &str) -> IndexView {
        IndexView { name, status: status.to_owned(), items: None }
    }

    fn facts(group: &str, lab: &str, is_complete: bool, reads: &[Option<bool>]) -> Facts {
        let reader = |reads_group_index: &Option<bool>| Reader {
            role: WorkerRole::Allocator,
            id: "id-1".to_owned(),
            reads_group_index: *reads_group_index,
        };
        Facts {
            group: index("GroupIndex", group),
            lab: index("LabIndex", lab),
            back_fill: BackFill {
                completed_at: is_complete.then_some(UnixSeconds::new(7)),
                ..BackFill::default()
            },
            readers: reads.iter().map(reader).collect(),
        }
    }

    #[test]
    fn every_state_names_the_next_step() {
        let cases = [
            (facts("absent", "ACTIVE", false, &[]), "`broker table index add`"),
            (facts("CREATING", "ACTIVE", false, &[]), "wait: GroupIndex is CREATING"),
            (
                facts("ACTIVE", "ACTIVE", false, &[None, Some(false)]),
                "restart allocator id-1 with this build",
            ),
            (facts("ACTIVE", "ACTIVE", false, &[Some(false)]), "`broker table index back-fill`"),
            (facts("ACTIVE", "ACTIVE", true, &[Some(false)]), "with STORE_READ_GROUP_INDEX=true"),
            (facts("ACTIVE", "ACTIVE", true, &[Some(true)]), "`broker table index drop --yes`"),
            (facts("ACTIVE", "absent", true, &[Some(true)]), "nothing"),
        ];
        for (facts, wanted) in cases {
            let next = facts.next_step();
            assert!(next.contains(wanted), "{next:?} instead of {wanted:?}: {facts:?}");
        }
    }

    #[test]
    fn lab_index_stays_while_anything_needs_it() {
        let refused = [
            (facts("absent", "ACTIVE", true, &[]), "GroupIndex is absent"),
            (facts("CREATING", "ACTIVE", true, &[]), "GroupIndex is CREATING"),
            (facts("ACTIVE", "ACTIVE", false, &[]), "not complete"),
            (facts("ACTIVE", "ACTIVE", true, &[Some(true), Some(false)]), "allocator id-1 may read it"),
            (facts("ACTIVE", "ACTIVE", true, &[None]), "allocator id-1 may read it"),
        ];
        for (facts, wanted) in refused {
            let refusal = facts.refuses_drop(true).unwrap_err().to_string();
            assert!(refusal.contains(wanted), "{refusal:?} instead of {wanted:?}");
        }
        let ready = facts("ACTIVE", "ACTIVE", true, &[Some(true)]);
        assert!(ready.refuses_drop(false).unwrap_err().to_string().contains("nothing was changed"));
        ready.refuses_drop(true).unwrap();
    }

    #[test]
    fn previous_build_blocks_the_back_fill() {
        facts("ACTIVE", "ACTIVE", false, &[Some(false), Some(true)]).refuses_back_fill().unwrap();
        let refusal = facts("ACTIVE", "ACTIVE", false, &[None]).refuses_back_fill().unwrap_err().to_string();
        assert!(refusal.contains("allocator id-1 run the previous build"), "{refusal}");
    }

    #[test]
    fn roles_without_the_table_are_no_readers() {
        let worker = |role, settings: &[(&str, &str)]| WorkerView {
            role,
            id: "id-1".to_owned(),
            version: String::new(),
            started_at: 0,
            in_flight: None,
            work: Default::default(),
            numbers: Default::default(),
            settings: settings
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        };
        assert_eq!(Reader::of(&worker(WorkerRole::Ingress, &[])), None);
        let reads = |settings| Reader::of(&worker(WorkerRole::Reaper, settings)).unwrap().reads_group_index;
        assert_eq!(reads(&[]), None);
        assert_eq!(reads(&[(READ_GROUP_INDEX, "true")]), Some(true));
        assert_eq!(reads(&[(READ_GROUP_INDEX, "false")]), Some(false));
    }
}
