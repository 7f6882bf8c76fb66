//! NATS: the connection, the user's permissions, JetStream, streams, and the clock.

use super::{Fault, Findings};
use crate::deletions::client::{CONNECT_TIMEOUT, OPERATOR};
use crate::transport::{Ports, until_connected};
use nats::{AssetFault, NatsBus, NatsConfig, without_credentials};
use runtime::telemetry::Chain;
use std::sync::Arc;

/// Words of the client library for refused credentials.
const REFUSED: &str = "authorization violation";

/// Checks NATS; returns the connection if there is one.
pub(super) async fn examine(config: &NatsConfig, ports: &Ports, findings: &mut Findings) -> Option<NatsBus> {
    let bus = connect(config, ports, findings).await?;
    let missing = bus.missing_rights().await;
    if missing.is_empty() {
        findings.ok("permissions", "the user may do what an operator does");
    } else {
        findings.fail("permissions", Fault::PermissionMissing, format!("may not {}", missing.join(", ")));
    }
    if missing.iter().any(|right| right.contains("$JS.API")) {
        findings.skip("jetstream", "the user may not look at JetStream");
        return Some(bus);
    }
    match bus.has_jetstream().await {
        Ok(true) => {
            findings.ok("jetstream", "is on");
            streams(&bus, findings).await;
            clock(&bus, findings).await;
        }
        Ok(false) => findings.fail("jetstream", Fault::JetstreamOff, "is off, or the account has none"),
        Err(error) => findings.fail("jetstream", Fault::NatsUnfit, Chain(&error).to_string()),
    }
    Some(bus)
}

async fn connect(config: &NatsConfig, ports: &Ports, findings: &mut Findings) -> Option<NatsBus> {
    const CHECK: &str = "nats";
    let url = without_credentials(&config.url);
    let (clock, random) = (Arc::clone(&ports.clock), Arc::clone(&ports.random));
    let bus = match NatsBus::connect(OPERATOR, config.clone(), clock, random).await {
        Ok(bus) => bus,
        Err(error) => {
            findings.fail(CHECK, Fault::NatsCredentialsRefused, Chain(&error).to_string());
            return None;
        }
    };
    if until_connected(&bus, CONNECT_TIMEOUT).await.is_err() {
        let cause = bus.connect_failure().unwrap_or_else(|| "no answer".to_owned());
        let is_refused = cause.contains(REFUSED);
        let fault = if is_refused { Fault::NatsCredentialsRefused } else { Fault::NatsUnreachable };
        findings.fail(CHECK, fault, format!("{url}: {cause}"));
        bus.close().await;
        return None;
    }
    match bus.round_trip().await {
        Ok(()) => findings.ok(CHECK, format!("{url} answers")),
        Err(problem) => findings.fail(CHECK, Fault::NatsUnfit, format!("{url}: {problem}")),
    }
    Some(bus)
}

async fn streams(bus: &NatsBus, findings: &mut Findings) {
    const CHECK: &str = "streams";
    let faults = match bus.asset_faults().await {
        Ok(faults) => faults,
        Err(error) => return findings.fail(CHECK, Fault::NatsUnfit, Chain(&error).to_string()),
    };
    if faults.is_empty() {
        findings.ok(CHECK, "all are there, with the settings of this environment");
    }
    for AssetFault { name, differing } in faults {
        match differing {
            None => findings.fail(CHECK, Fault::StreamMissing, format!("{name} is missing")),
            Some(settings) => {
                let detail = format!("{name} has other settings: {}", settings.join(", "));
                findings.warn(CHECK, Fault::StreamDiffers, detail);
            }
        }
    }
}

async fn clock(bus: &NatsBus, findings: &mut Findings) {
    const CHECK: &str = "clock";
    bus.measure_time().await;
    let time = bus.server_time();
    match (time.problem(), time.skew_ms()) {
        (Some(problem), _) => findings.fail(CHECK, Fault::ClockSkewed, problem),
        (None, Some(skew_ms)) => findings.ok(CHECK, format!("{skew_ms} ms ahead of that of NATS")),
        (None, None) if time.is_compared() => findings.skip(CHECK, "no stream tells the time"),
        (None, None) => findings.skip(CHECK, "CLOCK_SKEW_MAX_SECONDS is 0"),
    }
}
