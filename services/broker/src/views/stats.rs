//! `broker stats`: the sandboxes of each pool by state.

use crate::deletions::client::Client;
use crate::deletions::control::note;
use crate::output::{Shown, columns};
use contract::{Counted, PoolStats, StatsReply, Verb};

/// Name of the row that counts all pools together.
const ALL: &str = "(all)";
/// The headers while no sandbox is being created.
const HEADERS: [&str; 8] = ["POOL", "FREE", "LEASED", "DELETING", "STALE", "FAILED", "QUARANTINED", "TOTAL"];

/// Counts the pools.
pub(super) async fn look(client: &Client) -> anyhow::Result<Shown> {
    let reply: StatsReply = client.ask(Verb::Stats, &serde_json::json!({})).await?;
    Ok(Shown::of(&reply, table(&reply))?)
}

fn table(reply: &StatsReply) -> String {
    let pools = reply.pools.iter().map(|(name, stats)| (name.as_str(), stats));
    let rows = pools.chain([(ALL, &reply.all)]);
    let mut text = if reply.all.provisioning + reply.all.provision_failed > 0 {
        let row = |(name, stats): (&str, &PoolStats)| {
            let PoolStats { provisioning, provision_failed, .. } = *stats;
            let [name, free, leased, deleting, stale, failed, quarantined, total] = row(name, stats);
            let [creating, not_created] = [provisioning, provision_failed].map(|count| count.to_string());
            [name, free, leased, deleting, stale, failed, quarantined, creating, not_created, total]
        };
        let [pool, free, leased, deleting, stale, failed, quarantined, total] = HEADERS;
        let headers =
            [pool, free, leased, deleting, stale, failed, quarantined, "CREATING", "NOT CREATED", total];
        columns(headers, rows.map(row))
    } else {
        columns(HEADERS, rows.map(|(name, stats)| row(name, stats)))
    };
    if let Some(Counted { by, age_seconds, .. }) = &reply.counted {
        text.push_str(&format!("counted {age_seconds} s ago, by the {by}\n"));
    }
    if let Some(why) = reply.deletions.as_ref().and_then(note) {
        text.push_str(&format!("deletions wait: {why}\n"));
    }
    text
}

fn row(name: &str, stats: &PoolStats) -> [String; 8] {
    let PoolStats {
        total, available, allocated, pending_deletion, stale, deletion_failed, quarantined, ..
    } = *stats;
    let [free, leased, deleting, stale, failed, quarantined, total] =
        [available, allocated, pending_deletion, stale, deletion_failed, quarantined, total]
            .map(|count| count.to_string());
    [name.to_owned(), free, leased, deleting, stale, failed, quarantined, total]
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::CountedBy;
    use std::collections::BTreeMap;

    #[test]
    fn pools_are_rows_above_their_sum() {
        let stats = PoolStats { total: 7, available: 5, allocated: 2, ..PoolStats::default() };
        let reply = StatsReply {
            all: stats,
            pools: BTreeMap::from([("main".to_owned(), stats)]),
            counted: Some(Counted { by: CountedBy::Census.into(), at: 0, age_seconds: 12 }),
            ..StatsReply::default()
        };
        let text = table(&reply);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "POOL   FREE  LEASED  DELETING  STALE  FAILED  QUARANTINED  TOTAL");
        assert_eq!(lines[1], "main   5     2       0         0      0       0            7");
        assert!(
            lines[2].starts_with("(all)  5     2") && lines[3] == "counted 12 s ago, by the census",
            "{text}"
        );
    }

    #[test]
    fn creations_have_columns_while_there_are_any() {
        let (main, shells) = (
            PoolStats { total: 7, available: 7, ..PoolStats::default() },
            PoolStats {
                total: 3,
                available: 1,
                provisioning: 1,
                provision_failed: 1,
                ..PoolStats::default()
            },
        );
        let mut all = main;
        all.add(&shells);
        let pools = BTreeMap::from([("main".to_owned(), main), ("shells".to_owned(), shells)]);
        assert_eq!(
            table(&StatsReply { all, pools, ..StatsReply::default() }),
            "POOL    FREE  LEASED  DELETING  STALE  FAILED  QUARANTINED  CREATING  NOT CREATED  TOTAL\n\
             main    7     0       0         0      0       0            0         0            7\n\
             shells  1     0       0         0      0       0            1         1            3\n\
             (all)   8     0       0         0      0       0            1         1            10\n"
        );
    }
}
