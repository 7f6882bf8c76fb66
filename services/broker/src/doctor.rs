//! `broker doctor`: looks for faults of a fleet and of what it stands on, names each of them, and says what to do. It
//! changes nothing.

use crate::fleet::Backends;
use crate::output::{Format, Shown, columns, or_none};
use crate::transport::Ports;
use ports::clock::SystemClock;
use ports::random::Rng;
use runtime::settings::{Env, Mistakes, Settings};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

mod fault;
mod providers;
mod queue;
mod roles;
mod table;

pub use fault::Fault;

/// Variables of which one says that this environment is meant to reach the table.
const TABLE_VARIABLES: [&str; 6] =
    ["DYNAMODB_TABLE", "DYNAMODB_ENDPOINT", "AWS_REGION", "AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_ROLE_ARN"];
/// The variable that says that this environment is meant to reach the provider.
const PROVIDER_VARIABLE: &str = "CSP_BASE_URL";

/// The arguments.
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(after_help = fault::help())]
pub(crate) struct Options {
    #[command(flatten)]
    format: Format,
}

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// All is well.
    Ok,
    /// The fleet works, and something should be changed.
    Warn,
    /// Something does not work.
    Fail,
    /// Not checked.
    Skip,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check.
    pub check: &'static str,
    /// Its result.
    pub status: Status,
    /// The fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// What was found, in words.
    pub detail: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<&'static str>,
}

/// What all checks found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// In the order of the checks; a check may find several things.
    pub findings: Vec<Finding>,
}

// === impl Options ===

impl Options {
    /// Runs every check and prints the findings; true if there is no fault.
    ///
    /// # Errors
    /// When the findings cannot be printed.
    pub(crate) async fn run(self, env: &dyn Env) -> anyhow::Result<bool> {
        let ports = Ports { clock: Arc::new(SystemClock), random: Arc::new(Rng::unseeded()) };
        let findings = examine(env, &ports).await;
        self.format.print(&Shown::of(&findings, findings.table())?);
        Ok(findings.faults().is_empty())
    }
}

/// Runs every check with the settings of `env`.
pub async fn examine(env: &dyn Env, ports: &Ports) -> Findings {
    let mut findings = Findings::default();
    let has_table = TABLE_VARIABLES.iter().any(|name| env.get(name).is_some());
    let backends = match read(env) {
        Ok(backends) => backends,
        Err(mistakes) => {
            findings.fail("settings", Fault::SettingsInvalid, mistakes.to_string());
            return findings;
        }
    };
    findings.ok("settings", "can be read");
    if let Some(bus) = queue::examine(&backends.nats, ports, &mut findings).await {
        roles::examine(&bus, &mut findings).await;
        bus.close().await;
    }
    match &backends.table {
        Some(config) if has_table => table::examine(config, &backends.agreed, &mut findings).await,
        _ => findings.skip("table", "this environment names none (DYNAMODB_TABLE, DYNAMODB_ENDPOINT)"),
    }
    if backends.providers.is_empty() {
        findings.skip("provider", format!("this environment names none ({PROVIDER_VARIABLE})"));
    }
    for (name, config) in backends.providers {
        providers::examine(&name, config, ports, &mut findings).await;
    }
    findings
}

fn read(env: &dyn Env) -> Result<Backends, Mistakes> {
    let mut settings = Settings::new(env);
    let has_provider = env.get(PROVIDER_VARIABLE).is_some();
    let backends = Backends::read_parts(&mut settings, true, has_provider, false);
    settings.finish(backends)
}

// === impl Findings ===

impl Findings {
    /// Every fault that was found.
    #[must_use]
    pub fn faults(&self) -> BTreeSet<Fault> {
        self.findings.iter().filter_map(|finding| finding.fault).collect()
    }

    fn ok(&mut self, check: &'static str, detail: impl Into<String>) {
        self.add(check, Status::Ok, None, detail);
    }

    fn skip(&mut self, check: &'static str, detail: impl Into<String>) {
        self.add(check, Status::Skip, None, detail);
    }

    fn warn(&mut self, check: &'static str, fault: Fault, detail: impl Into<String>) {
        self.add(check, Status::Warn, Some(fault), detail);
    }

    fn fail(&mut self, check: &'static str, fault: Fault, detail: impl Into<String>) {
        self.add(check, Status::Fail, Some(fault), detail);
    }

    fn add(&mut self, check: &'static str, status: Status, fault: Option<Fault>, detail: impl Into<String>) {
        let remedy = fault.map(Fault::remedy);
        self.findings.push(Finding { check, status, fault, detail: detail.into(), remedy });
    }

    fn table(&self) -> String {
        let rows = self.findings.iter().map(|Finding { check, status, fault, detail, remedy: _ }| {
            let status: &str = status.into();
            [(*check).to_owned(), status.to_owned(), or_none(fault.map(Fault::as_str)), detail.clone()]
        });
        let mut text = columns(["CHECK", "STATUS", "FAULT", "DETAIL"], rows);
        for fault in self.faults() {
            // Writing to a string cannot fail.
            let _ = write!(text, "\n{}: {}\n", fault.as_str(), fault.remedy());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_is_named_once_with_its_remedy() {
        let mut findings = Findings::default();
        findings.ok("nats", "answers");
        findings.fail("streams", Fault::StreamMissing, "EVENTS");
        findings.fail("streams", Fault::StreamMissing, "TICKS");
        let text = findings.table();
        assert!(text.contains("streams  fail    stream-missing  TICKS"), "{text}");
        let remedy = format!("\nstream-missing: {}\n", Fault::StreamMissing.remedy());
        assert_eq!(text.matches(&remedy).count(), 1, "{text}");
        let json = serde_json::to_value(&findings).unwrap();
        assert_eq!(
            json["findings"][0],
            serde_json::json!({"check": "nats", "status": "ok", "detail": "answers"})
        );
        assert_eq!(json["findings"][1]["fault"], "stream-missing");
    }
}
