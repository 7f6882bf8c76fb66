//! Commands for operators.

use crate::asyncapi;
use crate::role::{Role, build_info};
use anyhow::Context as _;
use contract::WorkerRole;
use nats::{Definition, NatsConfig};
use prometheus::Registry;
use runtime::metrics::{Collectors, describe};
use runtime::pools::read_pools;
use runtime::predecessor::metrics::describe_former;
use runtime::recorder::EventLogMetrics;
use runtime::restored::TableMetrics;
use runtime::settings::{Env, Settings, Variable, table_rows};
use runtime::skew::ClockMetrics;
use runtime::upkeep::UpkeepMetrics;
use std::collections::BTreeMap;
use std::path::Path;

/// An environment without variables, so that reading it shows every default.
struct NoEnv;

impl Env for NoEnv {
    fn get(&self, _name: &str) -> Option<String> {
        None
    }
}

/// `docs/configuration.md`: every variable of every role, once, under the roles that read it.
#[must_use]
pub fn settings_page() -> String {
    let mut readers: BTreeMap<Vec<Role>, Vec<Variable>> = BTreeMap::new();
    let mut order: Vec<Variable> = Vec::new();
    let mut roles_of: BTreeMap<&'static str, Vec<Role>> = BTreeMap::new();
    for role in Role::all() {
        for variable in role.variables(&NoEnv) {
            let roles = roles_of.entry(variable.name).or_default();
            if roles.is_empty() {
                order.push(variable);
            }
            roles.push(role);
        }
    }
    for variable in order {
        let roles = roles_of.get(variable.name).cloned().unwrap_or_default();
        readers.entry(roles).or_default().push(variable);
    }
    let mut groups: Vec<_> = readers.into_iter().collect();
    // The settings of most roles come first.
    groups.sort_by_key(|(roles, _)| (std::cmp::Reverse(roles.len()), roles.clone()));
    let mut page = String::from(INTRODUCTION);
    for (roles, variables) in groups {
        let names: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
        page.push_str(&format!("\n## {}\n\n{}", names.join(", "), table_rows(&variables)));
    }
    page
}

/// Writes one file for each stream and consumer, for a fleet with the settings of `env`.
///
/// # Errors
/// Mistakes in the settings, or a folder that is not writable.
pub fn write_definitions(folder: &Path, env: &dyn Env) -> anyhow::Result<()> {
    write(folder, definitions(env)?)
}

/// Writes the contract document and the schema of each message.
///
/// # Errors
/// A folder that is not writable.
pub fn write_contract(folder: &Path) -> anyhow::Result<()> {
    write(folder, asyncapi::files()?)
}

fn write(folder: &Path, files: BTreeMap<String, String>) -> anyhow::Result<()> {
    for (file, text) in files {
        let path = folder.join(file);
        let parent = path.parent().unwrap_or(folder);
        std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The names and texts of these files.
///
/// # Errors
/// Mistakes in the settings.
pub fn definitions(env: &dyn Env) -> anyhow::Result<BTreeMap<String, String>> {
    let mut settings = Settings::new(env);
    let read = (NatsConfig::read(&mut settings), read_pools(&mut settings));
    let (nats, pools) = settings.finish(read)?;
    let mut files = BTreeMap::new();
    for Definition { file, config } in nats.definitions(&pools.specs)? {
        files.insert(file, format!("{}\n", serde_json::to_string_pretty(&config)?));
    }
    Ok(files)
}

/// `docs/metrics.md`: every metric of every role, and those of the predecessor that are made from them.
///
/// # Errors
/// When two roles have metrics of the same name.
pub fn metrics_page() -> Result<String, prometheus::Error> {
    let mut page = String::from(METRICS_INTRODUCTION);
    let mut all = Vec::new();
    for (roles, collectors) in collectors(&Registry::new())? {
        let names: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
        let metrics = describe(&collectors);
        page.push_str(&format!("\n## {}\n\n{}", names.join(", "), runtime::metrics::table_rows(&metrics)));
        all.extend(metrics);
    }
    page.push_str(FORMER_METRICS_INTRODUCTION);
    page.push_str(&runtime::metrics::table_rows(&describe_former(&all)));
    page.push_str(DROPPED_METRICS);
    Ok(page)
}

/// The metrics of each role, and those that several roles have. The simulator has only those of the process, because it
/// represents an external system.
fn collectors(registry: &Registry) -> Result<Vec<(Vec<Role>, Collectors)>, prometheus::Error> {
    use WorkerRole::{Allocator, Ingress, Reaper, Reconciler, Registry as Registrar, Runner, Scheduler};
    let of = |roles: &[WorkerRole], collectors: Collectors| -> (Vec<Role>, Collectors) {
        (roles.iter().copied().map(Role::Worker).collect(), collectors)
    };
    let event_log = EventLogMetrics::register(registry)?;
    Ok(vec![
        of(&[Ingress], ingress::Metrics::register(registry)?.collectors()),
        of(&[Allocator], allocator::Metrics::register(registry)?.collectors()),
        of(&[Registrar], registry::Metrics::register(registry)?.collectors()),
        of(&[Runner], runner::Metrics::register(registry)?.collectors()),
        of(&[Reaper], reaper::Metrics::register(registry)?.collectors()),
        of(&[Reconciler], reconciler::Metrics::register(registry)?.collectors()),
        of(&[Scheduler], scheduler::Metrics::register(registry)?.collectors()),
        of(&[Allocator, Reaper, Reconciler], event_log.collectors()),
        of(&[Allocator, Registrar, Reaper, Reconciler], TableMetrics::register(registry)?.collectors()),
        of(&[Allocator, Reaper, Reconciler, Scheduler], UpkeepMetrics::register(registry)?.collectors()),
        of(
            &[Ingress, Allocator, Registrar, Reaper, Runner, Reconciler, Scheduler],
            ClockMetrics::register(registry)?.collectors(),
        ),
        (Role::all().collect(), build_info()?),
    ])
}

const METRICS_INTRODUCTION: &str = "# Metrics\n\n\
    Every role shows its metrics in the text format of Prometheus at `/metrics` of its own port (`OPS_LISTEN`); the\n\
    ingress does so on the port of its API as well. This page is what `broker metrics` prints; a test compares the\n\
    two, and another one finds every metric of a running fleet on this page.\n\n\
    A metric with labels has no series before something was counted, except where a rate needs the zero. A process\n\
    shows the metrics of the roles that it plays. Several workers of a role in one process count together. A\n\
    histogram has the series `_bucket` (label `le`), `_sum` and `_count`; its times are in seconds. On Linux a\n\
    process also shows `process_*`: CPU time, memory, file descriptors, threads, start.\n\n\
    * Saturation is what is in flight, divided by its limit: `broker_allocator_in_flight_requests` and\n  \
      `broker_allocator_in_flight_limit`, and likewise `broker_relay_…`, `broker_reaper_…` and\n  \
      `broker_http_connections`.\n\
    * Refusals: `broker_http_faults_total` by code, `broker_http_rate_limited_total` by limit,\n  \
      `broker_allocator_refused_requests_total` by when, `broker_allocator_requests_total` by outcome.\n\
    * Deletions: `broker_deletions_queued`; `broker_sandboxes` with the state `pending_deletion` counts all that are\n  \
      wanted, and with `deletion_failed` the parked ones. The age of the oldest one is\n  \
      `time() - broker_oldest_deletion_timestamp_seconds`.\n\
    * Lag: `time() - max by (kind) (broker_last_run_timestamp_seconds)` since the last completed run, the last sync\n  \
      among them, and likewise `broker_last_tick_timestamp_seconds` since the last tick.\n";

const FORMER_METRICS_INTRODUCTION: &str = "\n## Names of the predecessor\n\n\
    Metrics of the predecessor whose meaning is kept are exported under their former names as well, by the role that\n\
    has the metric they are made from. `METRICS_FORMER_NAMES=false` leaves them out.\n\n";

const DROPPED_METRICS: &str = "\nFive are gone. There are no cleanup runs any more (`broker_cleanup_total`,\n\
    `broker_cleanup_duration_seconds`): each deletion is worked on separately, see `broker_deletions_total` and\n\
    `broker_provider_delete_seconds`. A sign-in is part of a pre-clean and not counted (`broker_niosxaas_auth_total`).\n\
    The predecessor never observed `broker_request_latency_seconds` and `broker_niosxaas_cleanup_duration_seconds`;\n\
    `broker_http_request_duration_seconds` is the time of a request.\n";

const INTRODUCTION: &str = "# Configuration\n\n\
    Every role reads its settings from the environment. All mistakes are reported together, before anything\n\
    starts. This page is what `broker settings` prints; a test compares the two. A setting of the predecessor that\n\
    has another name here has no effect, and each start reports it with the new name.\n\n\
    `broker up` decides the addresses, the CSP's and the table's itself (see `broker up --help`), makes tokens\n\
    where the environment names none, and writes log lines as text; every other variable works there as well.\n";
