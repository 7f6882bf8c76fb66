//! `broker stats`: the sandboxes of each pool by state.

use crate::deletions::client::Client;
use crate::deletions::control::note;
use crate::output::{Shown, columns};
use contract::{Counted, PoolStats, StatsReply, Verb};

/// Name of the row that counts all pools together.
const ALL: &str = "(all)";

/// Counts the pools.
pub(super) async fn look(client: &Client) -> anyhow::Result<Shown> {
    let reply: StatsReply = client.ask(Verb::Stats, &serde_json::json!({})).await?;
    Ok(Shown::of(&reply, table(&reply))?)
}

fn table(reply: &StatsReply) -> String {
    let pools = reply.pools.iter().map(|(name, stats)| row(name, stats));
    let headers = ["POOL", "FREE", "LEASED", "DELETING", "STALE", "FAILED", "QUARANTINED", "TOTAL"];
    let mut text = columns(headers, pools.chain([row(ALL, &reply.all)]));
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
}
