//! The tool, run in this process.

use bench::calls::Call;
use bench::claim::{self, Report};
use bench::{Command, Ports, parse};
use harness::rig::Rig;
use harness::servers::as_test_user;
use ports::clock::SystemClock;
use ports::random::Rng;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;
use tempfile::NamedTempFile;

/// A transport of a test fleet.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Transport {
    Http,
    Nats,
}

pub(crate) const TRANSPORTS: [Transport; 2] = [Transport::Http, Transport::Nats];

/// The ports that the tool measures with.
pub(crate) fn ports() -> Ports {
    Ports { clock: Arc::new(SystemClock), random: Arc::new(Rng::seeded(7)) }
}

/// `bench` with these arguments.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let line = std::iter::once("bench").chain(arguments.iter().copied());
    parse(line).unwrap_or_else(|error| panic!("{error}"))
}

/// The arguments of `bench claim` over a transport of `rig`, and the file that holds the token.
pub(crate) fn claim_command(
    rig: &Rig,
    transport: Transport,
    more: &[&str],
) -> (claim::Options, NamedTempFile) {
    let mut token = NamedTempFile::new().unwrap();
    writeln!(token, "{}", rig.api.lab_token).unwrap();
    let file = token.path().to_str().unwrap().to_owned();
    let nats_url = as_test_user(&rig.env["NATS_URL"]);
    let mut arguments = vec!["claim"];
    match transport {
        Transport::Http => arguments.extend(["--http", &rig.api.root, "--token-file", &file]),
        Transport::Nats => {
            arguments.extend(["--nats", &nats_url, "--subject-prefix", &rig.env["SUBJECT_PREFIX"]]);
        }
    }
    arguments.extend(["--patience-ms", "30000"]);
    arguments.extend(more);
    let Command::Claim(options) = command(&arguments) else { panic!("{arguments:?}") };
    (options, token)
}

/// Runs `bench claim` over a transport of `rig`.
pub(crate) async fn claim(rig: &Rig, transport: Transport, more: &[&str]) -> Report {
    let (options, _token) = claim_command(rig, transport, more);
    claim::run(&options, &BTreeMap::new(), &ports()).await.unwrap()
}

/// The number of calls with that outcome.
pub(crate) fn count(report: &Report, call: Call, outcome: &str) -> u64 {
    let row = report.calls.iter().find(|row| row.call == call && row.outcome == outcome);
    row.map_or(0, |row| row.spread.count)
}
