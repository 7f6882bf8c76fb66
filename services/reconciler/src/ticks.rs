//! The ticks that a reconciler runs on: the one definition of each kind.

use super::Reconciler;
use contract::{Report, TickKind, TickOrder};
use futures_util::future::BoxFuture;
use runtime::ticks::{Rhythm, TickDefinition, read_offset, read_period};

/// A kind, and its run.
pub(crate) struct Tick {
    pub(crate) definition: TickDefinition,
    pub(crate) run: for<'a> fn(&'a Reconciler, &'a TickOrder) -> BoxFuture<'a, Report>,
}

/// Every kind. With the default offsets, no two are due in the same second after the first turns, except `nodes`: its turns
/// are too frequent for that, and read little.
pub(crate) static TICKS: [Tick; 7] = [
    Tick {
        definition: TickDefinition {
            kind: TickKind::SYNC,
            description: "compares the provider's listing with the table",
            read: |settings| Rhythm {
                period: read_period(
                    settings,
                    "SYNC_INTERVAL_SECONDS",
                    600,
                    "period of sync, which compares the provider's listing with the table",
                ),
                offset: read_offset(settings, "SYNC_OFFSET_SECONDS", 4),
            },
        },
        run: |reconciler, order| Box::pin(async { Report::Sync(reconciler.sync(order).await) }),
    },
    Tick {
        definition: TickDefinition {
            kind: TickKind::EXPIRY,
            description: "ends expired leases",
            read: |settings| Rhythm {
                period: read_period(
                    settings,
                    "EXPIRY_INTERVAL_SECONDS",
                    10,
                    "period of expiry, which ends expired leases",
                ),
                offset: read_offset(settings, "EXPIRY_OFFSET_SECONDS", 0),
            },
        },
        run: |reconciler, _| Box::pin(async { Report::Expiry(reconciler.expire_leases().await) }),
    },
    Tick {
        definition: TickDefinition {
            kind: TickKind::SWEEP,
            description: "repairs queue, parked copies and event log from the table",
            read: |settings| Rhythm {
                period: read_period(
                    settings,
                    "SWEEP_INTERVAL_SECONDS",
                    60,
                    "period of the sweep, which repairs queue, parked copies and event log",
                ),
                offset: read_offset(settings, "SWEEP_OFFSET_SECONDS", 33),
            },
        },
        run: |reconciler, _| Box::pin(async { Report::Sweep(reconciler.sweep().await) }),
    },
    Tick {
        definition: TickDefinition {
            kind: TickKind::CENSUS,
            description: "counts pools and labs and checks leases against claim items",
            read: |settings| Rhythm {
                period: read_period(
                    settings,
                    "CENSUS_INTERVAL_SECONDS",
                    15,
                    "period of the census, which counts the pools",
                ),
                offset: read_offset(settings, "CENSUS_OFFSET_SECONDS", 7),
            },
        },
        run: |reconciler, _| Box::pin(async { Report::Census(reconciler.take_census().await) }),
    },
    Tick {
        definition: TickDefinition {
            kind: TickKind::STALE,
            description: "turns records that were stale for long into tombstones",
            read: |settings| Rhythm {
                period: read_period(
                    settings,
                    "STALE_INTERVAL_SECONDS",
                    3_600,
                    "period of the removal of stale sandboxes",
                ),
                offset: read_offset(settings, "STALE_OFFSET_SECONDS", 58),
            },
        },
        run: |reconciler, order| Box::pin(async { Report::Stale(reconciler.remove_stale(order).await) }),
    },
    Tick {
        definition: TickDefinition {
            kind: TickKind::FILL,
            description: "creates free sandboxes in pools of containers, and gives up what is too many",
            read: |settings| Rhythm {
                period: read_period(
                    settings,
                    "FILL_INTERVAL_SECONDS",
                    5,
                    "period of fill, which keeps free sandboxes in pools of containers",
                ),
                offset: read_offset(settings, "FILL_OFFSET_SECONDS", 1),
            },
        },
        run: |reconciler, _| Box::pin(async { Report::Fill(reconciler.fill().await) }),
    },
    Tick {
        definition: TickDefinition {
            kind: TickKind::NODES,
            description: "finds out which nodes are there and what they have",
            read: |settings| Rhythm {
                period: read_period(
                    settings,
                    "NODES_INTERVAL_SECONDS",
                    2,
                    "period of the look at the nodes; one that does not answer for 30 s is lost",
                ),
                offset: read_offset(settings, "NODES_OFFSET_SECONDS", 1),
            },
        },
        run: |reconciler, _| Box::pin(async { Report::Nodes(reconciler.look_at_nodes().await) }),
    },
];

/// What a reconciler registers.
pub fn ticks() -> impl Iterator<Item = TickDefinition> {
    TICKS.iter().map(|tick| tick.definition)
}
