//! `broker fleet`: every worker with its version and its work, and settings that differ.

use crate::deletions::client::{ANSWERS_TIMEOUT, Client};
use crate::output::{Shown, columns, moment, or_none};
use contract::{FleetReply, WorkView, WorkerView};
use ports::bus::Discovery as _;

/// Asks who works.
pub(super) async fn look(client: &Client) -> anyhow::Result<Shown> {
    let reply = FleetReply::of(client.bus().workers(ANSWERS_TIMEOUT).await?);
    Ok(Shown::of(&reply, table(&reply))?)
}

fn table(reply: &FleetReply) -> String {
    let headers = ["ROLE", "ID", "VERSION", "STARTED", "IN FLIGHT", "DONE", "FAILED"];
    let mut text = columns(headers, reply.workers.iter().map(row));
    for role in reply.missing_roles() {
        text.push_str(&format!("no {} answers\n", role.as_str()));
    }
    for (setting, values) in &reply.drift {
        let values: Vec<_> = values.iter().map(String::as_str).collect();
        text.push_str(&format!("{setting} differs: {}\n", values.join(", ")));
    }
    text
}

fn row(worker: &WorkerView) -> [String; 7] {
    let WorkerView { role, id, version, started_at, in_flight, work, numbers: _, settings: _ } = worker;
    let sum = |of: fn(&WorkView) -> u64| work.values().map(of).sum::<u64>().to_string();
    [
        role.as_str().to_owned(),
        id.clone(),
        version.clone(),
        moment(Some(*started_at)),
        or_none(*in_flight),
        sum(|work| work.requests),
        sum(|work| work.errors),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::WorkerRole;
    use std::collections::BTreeMap;

    #[test]
    fn missing_roles_and_drift_are_below_the_workers() {
        let worker = |id: &str, rate: &str| WorkerView {
            role: WorkerRole::Reaper,
            id: id.to_owned(),
            version: "1.2.3".to_owned(),
            started_at: 1_763_683_200,
            in_flight: None,
            work: BTreeMap::from([(
                "work".to_owned(),
                WorkView { requests: 3, errors: 1, ..WorkView::default() },
            )]),
            numbers: BTreeMap::new(),
            settings: BTreeMap::from([("DELETIONS_PER_MINUTE".to_owned(), rate.to_owned())]),
        };
        let text = table(&FleetReply::of(vec![worker("b", "10"), worker("a", "20")]));
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[1], "reaper  a   1.2.3    2025-11-21T00:00:00Z  -          3     1");
        assert!(text.contains("\nno ingress answers\n"), "{text}");
        assert!(text.ends_with("DELETIONS_PER_MINUTE differs: 10, 20\n"), "{text}");
    }
}
