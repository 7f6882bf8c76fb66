//! The running roles: whether each of them answers, their versions, and settings that differ.

use super::{Fault, Findings};
use crate::deletions::client::ANSWERS_TIMEOUT;
use contract::{FleetReply, WorkerRole, WorkerView};
use nats::NatsBus;
use ports::bus::Discovery as _;
use runtime::telemetry::Chain;

/// The version of this build.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Checks the workers that answer.
pub(super) async fn examine(bus: &NatsBus, findings: &mut Findings) {
    match bus.workers(ANSWERS_TIMEOUT).await {
        Ok(workers) => report(&FleetReply::of(workers), findings),
        Err(error) => findings.skip("roles", Chain(&error).to_string()),
    }
}

fn report(fleet: &FleetReply, findings: &mut Findings) {
    let FleetReply { roles: _, workers, drift } = fleet;
    let missing: Vec<_> = fleet.missing_roles().map(WorkerRole::as_str).collect();
    if missing.is_empty() {
        findings.ok("roles", format!("{} workers answer", workers.len()));
    } else {
        findings.fail("roles", Fault::RoleMissing, format!("no answer of {}", missing.join(", ")));
    }
    let others = workers.iter().filter(|worker| worker.version != VERSION);
    let others: Vec<_> = others
        .map(|WorkerView { role, id, version, .. }| format!("{} {id} has {version}", role.as_str()))
        .collect();
    if others.is_empty() {
        findings.ok("versions", format!("this build and every worker have {VERSION}"));
    } else {
        let detail = format!("this build has {VERSION}; {}", others.join(", "));
        findings.warn("versions", Fault::VersionDiffers, detail);
    }
    for (setting, values) in drift {
        let values: Vec<_> = values.iter().map(String::as_str).collect();
        let detail = format!("{setting} is {} in different roles", values.join(" and "));
        findings.warn("drift", Fault::SettingsDrift, detail);
    }
}
