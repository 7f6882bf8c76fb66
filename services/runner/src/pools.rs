//! The pools that get their sandboxes from nodes, and which of them this node serves.

use crate::Node;
use crate::capacity::Demand;
use crate::spec::{find_image, why_not};
use contract::Verb;
use contract::nodes::{NodePool, NodePoolsReply, NodePoolsRequest};
use domain::{PoolName, TemplateSpec};
use parking_lot::Mutex;
use ports::bus::ServedPools;
use ports::engine::Image;
use runtime::telemetry::Chain;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::watch;

/// Time between two looks at the pools. A new pool is served within this time.
const REFRESH_PERIOD: Duration = Duration::from_secs(5);
/// Messages that one turn of a pool takes at most: enough to keep the node busy, few enough that other pools wait only for
/// seconds.
const TURN_MESSAGES: usize = 4;

/// The pools as they were read last.
#[derive(Debug, Default)]
pub(crate) struct Pools {
    read: Mutex<BTreeMap<PoolName, Judgement>>,
    served: watch::Sender<ServedPools>,
}

/// What a container of a pool uses, or why this node does not serve it.
type Judgement = Result<Demand, String>;

// === impl Pools ===

impl Pools {
    /// What a container of a pool uses; none if this node does not serve it.
    pub(crate) fn demand(&self, pool: &PoolName) -> Option<Demand> {
        self.read.lock().get(pool)?.as_ref().ok().copied()
    }

    /// The pools that this node serves, which change at any time.
    pub(crate) fn served(&self) -> watch::Receiver<ServedPools> {
        self.served.subscribe()
    }

    /// Replaces the pools, and logs what has changed.
    fn replace(&self, pools: BTreeMap<PoolName, Judgement>) {
        let mut read = self.read.lock();
        for (pool, judgement) in &pools {
            match (read.get(pool), judgement) {
                (Some(Err(former)), Err(reason)) if former == reason => {}
                (_, Err(reason)) => {
                    tracing::warn!(pool.name = pool.as_str(), reason, "pool {pool} is not served: {reason}");
                }
                (None | Some(Err(_)), Ok(_)) => {
                    tracing::info!(pool.name = pool.as_str(), "pool {pool} is served");
                }
                (Some(Ok(_)), Ok(_)) => {}
            }
        }
        for pool in read.keys().filter(|pool| !pools.contains_key(*pool)) {
            tracing::info!(
                pool.name = pool.as_str(),
                "pool {pool} is not served any more: it is gone, or this node is drained"
            );
        }
        let served: ServedPools = pools
            .iter()
            .filter(|(_, judgement)| judgement.is_ok())
            .map(|(pool, _)| (pool.clone(), TURN_MESSAGES))
            .collect();
        *read = pools;
        drop(read);
        self.served.send_if_modified(|current| {
            let has_changed = *current != served;
            if has_changed {
                *current = served;
            }
            has_changed
        });
    }
}

// === impl Node ===

impl Node {
    /// Reads the pools now and then.
    pub(crate) async fn refresh_pools(&self) -> Infallible {
        loop {
            self.refresh_pools_once().await;
            self.clock.sleep(REFRESH_PERIOD).await;
        }
    }

    /// Reads the pools. Without an answer the former ones stay.
    pub(crate) async fn refresh_pools_once(&self) {
        let node = self.control.node().to_string();
        let request = |generation| NodePoolsRequest { node: node.clone(), generation };
        match self.control.report::<_, NodePoolsReply>(Verb::NodePools, &request).await {
            Ok(NodePoolsReply { pools }) => {
                let judged = pools.into_iter().filter_map(|pool| self.judge(pool)).collect();
                self.pools.replace(judged);
            }
            // Reconciliation warns of an outage; this would every few seconds.
            Err(error) => tracing::debug!(error = %Chain(&error), "the pools cannot be read"),
        }
        self.metrics.show_capacity(&self.containers);
    }

    fn judge(&self, pool: NodePool) -> Option<(PoolName, Judgement)> {
        let NodePool { pool, template, settings } = pool;
        let name = match PoolName::parse(&pool) {
            Ok(name) => name,
            Err(problem) => {
                tracing::error!(problem = %problem, "the name of a pool cannot be used");
                return None;
            }
        };
        let judgement = settings
            .spec()
            .map_err(|mistake| format!("its template {template} is not valid here: {mistake}"))
            .and_then(|spec| self.image_for(&spec).map(|_| Demand::of(&spec)));
        Some((name, judgement))
    }

    /// The image of a template, or why this node cannot create its containers.
    pub(crate) fn image_for(&self, spec: &TemplateSpec) -> Result<Image, String> {
        if let Some(reason) = why_not(spec, &self.engine.info()) {
            return Err(reason);
        }
        let image = find_image(&self.config.images, &spec.image, spec.isolation)
            .ok_or_else(|| format!("the image `{}` is not on this node", spec.image.as_str()))?;
        if !Demand::of(spec).fits(self.containers.offered()) {
            return Err("it needs more than this node offers to all sandboxes together".to_owned());
        }
        Ok(image)
    }
}

#[cfg(test)]
mod tests;
