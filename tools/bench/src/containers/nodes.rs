//! Many leased containers in a steady state, and the loss of a node.

use super::claims::{claim, until_ready};
use super::fleet::{COLD_POOL, ContainerFleet, LOOK_PAUSE, WARM_POOL};
use crate::usage::{self, Memory, TICKS_PER_SECOND};
use crate::workers::work;
use anyhow::{Context as _, ensure};
use domain::{NodeId, Sandbox, StateName};
use ports::store::NodeItems as _;
use serde::Serialize;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Concurrent claims while the leases are made.
const CALLERS: usize = 16;
/// Time until the work of the last claims is done, before anything is measured.
const SETTLE_TIME: Duration = Duration::from_secs(5);
/// Time-out of the detection, and then of the replacement.
const LOSS_TIMEOUT: Duration = Duration::from_secs(180);

/// The cost of leases that last.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Steady {
    /// Leased containers.
    pub leased: u64,
    /// Nodes.
    pub nodes: usize,
    /// How long was measured.
    pub seconds: f64,
    /// Processor time of the fleet's process, in percent of a core.
    pub fleet_percent: f64,
    /// That of this process, which has the runners.
    pub runners_percent: f64,
    /// Memory of the fleet's process: allocators, all other roles and the table in memory.
    pub fleet_memory: Memory,
}

/// The loss of a node.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Loss {
    /// Free containers before.
    pub warm: u64,
    /// Those on the node that was stopped.
    pub on_lost_node: u64,
    /// From the stop until the node counted as lost.
    pub detected_seconds: f64,
    /// From then until as many containers were free on the other nodes.
    pub restored_seconds: f64,
    /// Containers of the other nodes that went meanwhile.
    pub others_gone: u64,
}

/// Leases containers and measures what they cost while nothing happens.
pub(super) async fn steady(fleet: &ContainerFleet, leased: u64, span: Duration) -> anyhow::Result<Steady> {
    let (caller, run) = (fleet.caller(Some(COLD_POOL))?, fleet.run.clone());
    work(CALLERS, leased, &Arc::default(), move |number| {
        let (caller, owner) = (caller.clone(), format!("{run}-steady-{number}"));
        async move {
            let sandbox_id = claim(&caller, &owner).await?;
            until_ready(&caller, &owner, &sandbox_id).await
        }
    })
    .await?;
    tokio::time::sleep(SETTLE_TIME).await;
    let own = i32::try_from(std::process::id())?;
    let ticks = || anyhow::Ok((usage::ticks(fleet.id())?, usage::ticks(own)?));
    let (began, before) = (Instant::now(), ticks()?);
    tokio::time::sleep(span).await;
    let (after, seconds) = (ticks()?, began.elapsed().as_secs_f64());
    let percent = |ticks: u64| 100.0 * ticks as f64 / (TICKS_PER_SECOND * seconds);
    let held = fleet.count(COLD_POOL, StateName::Allocated).await?;
    ensure!(held == leased, "{held} of {leased} leases are left");
    Ok(Steady {
        leased,
        nodes: fleet.nodes.len(),
        seconds,
        fleet_percent: percent(after.0.saturating_sub(before.0)),
        runners_percent: percent(after.1.saturating_sub(before.1)),
        fleet_memory: usage::memory(fleet.id())?,
    })
}

/// Stops the runner of a node, and waits until its free containers are replaced.
pub(super) async fn loss(fleet: &mut ContainerFleet, warm: u32) -> anyhow::Result<Loss> {
    fleet.fill(warm).await?;
    let free = fleet.sandboxes(WARM_POOL, StateName::Available).await?;
    let lost = fleet.nodes.pop().context("no node")?;
    let (id, others) = (lost.id.clone(), ids(&free, |node| node != Some(&lost.id)));
    let on_lost_node = free.len().saturating_sub(others.len()) as u64;
    let began = Instant::now();
    lost.stop().await;
    let detected = async {
        while fleet.store.node(&id).await?.is_none_or(|node| node.lost_at.is_none()) {
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(LOSS_TIMEOUT, detected).await.context("the loss is not detected")??;
    let (detected_seconds, began) = (began.elapsed().as_secs_f64(), Instant::now());
    let restored = async {
        loop {
            let free = fleet.sandboxes(WARM_POOL, StateName::Available).await?;
            if ids(&free, |node| node.is_some_and(|node| *node != id)).len() >= usize::try_from(warm)? {
                return anyhow::Ok(free);
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    };
    let free = tokio::time::timeout(LOSS_TIMEOUT, restored).await.context("the pool is not restored")??;
    let restored_seconds = began.elapsed().as_secs_f64();
    let left = ids(&free, |_| true);
    let others_gone = others.difference(&left).count() as u64;
    Ok(Loss { warm: u64::from(warm), on_lost_node, detected_seconds, restored_seconds, others_gone })
}

/// The ids of the sandboxes on some nodes.
fn ids(
    sandboxes: &[(Sandbox, Option<NodeId>)],
    is_wanted: impl Fn(Option<&NodeId>) -> bool,
) -> BTreeSet<String> {
    let wanted = sandboxes.iter().filter(|(_, node)| is_wanted(node.as_ref()));
    wanted.map(|(sandbox, _)| sandbox.id.to_string()).collect()
}
