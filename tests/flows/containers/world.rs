//! A fleet with nodes, and what has to hold on it whatever has happened.

use domain::{Descriptor, Lease, PoolName, RuntimeState, Sandbox, StateName};
use harness::http::{Answer, answer};
use harness::nodes::Node;
use harness::rig::{Plan, Rig};
use harness::wait::{TIMEOUT, eventually};
use ports::clock::Clock as _;
use ports::engine::{Container, ContainerState};
use ports::store::{SortRange, StateQuery};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

/// The pool, and its template.
pub(super) const POOL: &str = "shells";
pub(super) const TEMPLATE: &str = "shell";
/// The length of its leases.
pub(super) const LEASE: Duration = Duration::from_secs(20 * 60);
/// The grace after them.
pub(super) const GRACE: Duration = Duration::from_secs(60);
/// Longer than the period in which runners reconcile, and than the silence after which a node is lost.
pub(super) const HALF_A_MINUTE: Duration = Duration::from_secs(31);
const SECOND: Duration = Duration::from_secs(1);
/// Sandboxes on a page of the table.
const PAGE: u16 = 1_000;

/// A fleet with nodes.
pub(super) struct World {
    pub(super) rig: Rig,
    pub(super) nodes: Vec<Node>,
}

/// A container, as an engine or a record names it: node, sandbox, incarnation.
type Named = (String, String, String);

/// A fleet in which only the test starts runs.
pub(super) fn plan() -> Plan {
    let plan = Plan::new(0).set("FILL_INTERVAL_SECONDS", 3_600).set("NODES_INTERVAL_SECONDS", 3_600);
    // Each fill and each look of the test reads every shard.
    plan.set("STORE_SHARDS", 1)
}

// === impl World ===

impl World {
    /// A fleet with these nodes, each with room for so many sandboxes, and a pool with so many free containers.
    pub(super) async fn new(nodes: &[(&str, u64)], warm: u32) -> Self {
        Self::of(plan(), nodes, warm).await
    }

    /// The same, by a plan.
    pub(super) async fn of(plan: Plan, nodes: &[(&str, u64)], warm: u32) -> Self {
        let rig = Box::pin(plan.start()).await;
        let mut world = Self { rig, nodes: Vec::new() };
        world.put_template(&json!({"image": "host"})).await;
        world.put_pool(warm.max(1)).await;
        let nodes = nodes.iter().map(|(name, sandboxes_max)| Node::start(&world.rig, name, *sandboxes_max));
        world.nodes = nodes.collect();
        // The first container shows that every part knows the pool. Runners look at the pools every few seconds.
        eventually("the first container", TIMEOUT, || async {
            world.rig.clock.pass(SECOND);
            let report = world.rig.fill().await;
            let free = world.records(StateName::Available).await;
            if free.is_empty() { Err(report) } else { Ok(()) }
        })
        .await;
        if warm == 0 {
            world.put_pool(0).await;
        }
        world.until_free(warm as usize).await;
        world.settle().await;
        world
    }

    pub(super) async fn put_template(&self, settings: &Value) {
        let path = format!("/v1/templates/{TEMPLATE}");
        let put = self.rig.api.admin_with(Method::PUT, &path, settings).await;
        assert!(put.status == 200 || put.status == 201, "{put:?}");
    }

    pub(super) async fn put_pool(&self, warm: u32) {
        let settings = json!({
            "kind": "container",
            "provider": "nodes",
            "template": TEMPLATE,
            "warm": {"min": warm, "max": warm},
            "lease": {
                "duration_minutes": LEASE.as_secs() / 60,
                "total_minutes_max": 24 * 60,
                "grace_minutes": GRACE.as_secs() / 60,
            },
        });
        let put = self.rig.api.admin_with(Method::PUT, &format!("/v1/pools/{POOL}"), &settings).await;
        assert!(put.status == 200 || put.status == 201, "{put:?}");
    }

    /// Fills the pool until it has so many free containers and creates no more.
    pub(super) async fn until_free(&self, count: usize) -> Vec<Sandbox> {
        eventually(&format!("{count} free containers"), TIMEOUT, || async {
            let report = self.rig.fill().await;
            let free = self.records(StateName::Available).await;
            let creating = self.records(StateName::Provisioning).await;
            let is_known = report.degraded.is_empty() || count == 0;
            if free.len() == count && creating.is_empty() && is_known {
                Ok(free)
            } else {
                Err((report, free.len(), creating.len()))
            }
        })
        .await
    }

    /// The sandboxes of the pool in a state.
    pub(super) async fn records(&self, state: StateName) -> Vec<Sandbox> {
        let mut found = Vec::new();
        for shard in 0..self.rig.store.shards().await.unwrap() {
            let pool = PoolName::parse(POOL).unwrap();
            let query = StateQuery { pool, state, shard, range: SortRange::All };
            found.extend(self.rig.store.page(&query, None, PAGE).await.unwrap().sandboxes);
        }
        found
    }

    /// Claims a sandbox of the pool.
    pub(super) async fn claim(&self, owner: &str) -> Answer {
        self.rig.api.allocate_with(owner, &[("X-Sandbox-Pool", POOL)]).await
    }

    /// Claims one. It takes some seconds until every allocator knows the pool.
    pub(super) async fn granted(&self, owner: &str) -> Answer {
        eventually("a granted claim", TIMEOUT, || async {
            let claim = self.claim(owner).await;
            if matches!(claim.status, 200 | 201) { Ok(claim) } else { Err(claim) }
        })
        .await
    }

    /// Claims a new one and waits until it is ready.
    pub(super) async fn claimed(&self, owner: &str) -> Sandbox {
        let claim = self.granted(owner).await;
        self.rig.until_state(claim.sandbox(), StateName::Allocated).await
    }

    /// Releases a sandbox, and waits for its tombstone.
    pub(super) async fn released(&self, sandbox: &Sandbox, owner: &str) {
        let release = self.rig.api.release(sandbox.id.as_str(), owner).await;
        assert_eq!(release.status, 200, "{release:?}");
        self.rig.until_state(sandbox.id.as_str(), StateName::Deleted).await;
    }

    /// Runs a command in a sandbox.
    pub(super) async fn execute(&self, sandbox: &Sandbox, owner: &str, command: &[&str]) -> Answer {
        let path = format!("/v1/sandboxes/{}/executions", sandbox.id);
        self.as_holder(Method::POST, &path, owner, json!({"command": command})).await
    }

    /// Sends a request of a holder.
    pub(super) async fn as_holder(&self, method: Method, path: &str, owner: &str, body: Value) -> Answer {
        let api = &self.rig.api;
        let request = api.client.request(method, format!("{}{path}", api.root)).bearer_auth(&api.lab_token);
        let request = request.header("X-Instruqt-Sandbox-ID", owner).body(body.to_string());
        answer(request.send().await.unwrap()).await
    }

    /// Claims a container by the native route and waits until it is ready.
    pub(super) async fn claimed_with(&self, owner: &str, settings: Value) -> Answer {
        eventually("a granted claim", TIMEOUT, || async {
            let claim = self.as_holder(Method::POST, "/v1/claims?wait=ready", owner, settings.clone()).await;
            if matches!(claim.status, 200 | 201) { Ok(claim) } else { Err(claim) }
        })
        .await
    }

    pub(super) fn node(&self, name: &str) -> &Node {
        self.nodes.iter().find(|node| node.name() == name).unwrap()
    }

    pub(super) fn node_mut(&mut self, name: &str) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.name() == name).unwrap()
    }

    /// The container of a sandbox, if an engine has it.
    pub(super) async fn container(&self, sandbox: &Sandbox) -> Option<Container> {
        let containers = self.node(node_of(sandbox)).containers().await;
        containers.into_iter().find(|container| {
            sandbox.descriptor.get(Descriptor::INCARNATION) == Some(&*container.incarnation.to_string())
        })
    }

    /// Waits until the container of a sandbox is in a state; none for one that is gone.
    pub(super) async fn until_container(&self, sandbox: &Sandbox, state: Option<ContainerState>) {
        eventually(&format!("the container of {} to be {state:?}", sandbox.id), TIMEOUT, || async {
            let found = self.container(sandbox).await.map(|container| container.state);
            if found == state { Ok(()) } else { Err(found) }
        })
        .await;
    }

    /// The containers of all engines.
    async fn in_engines(&self) -> Vec<Named> {
        let mut found = Vec::new();
        for node in &self.nodes {
            let containers = node.containers().await;
            found.extend(containers.iter().map(|container| {
                (node.name().to_owned(), container.sandbox.to_string(), container.incarnation.to_string())
            }));
        }
        found.sort();
        found
    }

    /// The containers that records name.
    async fn in_records(&self) -> Vec<Named> {
        let mut found = Vec::new();
        for state in [StateName::Available, StateName::Allocated] {
            // One that is lost is named by a record that its holder still has.
            let is_lost =
                |sandbox: &&Sandbox| RuntimeState::of(&sandbox.descriptor) == Some(RuntimeState::Failed);
            found.extend(self.records(state).await.iter().filter(|one| !is_lost(one)).map(|sandbox| {
                let value = |key| sandbox.descriptor.get(key).unwrap_or_default().to_owned();
                (node_of(sandbox).to_owned(), sandbox.id.to_string(), value(Descriptor::INCARNATION))
            }));
        }
        found.sort();
        found
    }

    /// Lets one reconciliation of every node and one run of every kind pass. Then every container has exactly one record and
    /// every record its container (invariant 11), and no lease is over for longer than its grace (invariant 15).
    pub(super) async fn settle(&self) {
        self.rig.clock.pass(HALF_A_MINUTE);
        self.rig.run(contract::TickKind::EXPIRY).await;
        self.rig.look_at_nodes().await;
        self.rig.sweep().await;
        eventually("one record for each container", TIMEOUT, || async {
            self.rig.fill().await;
            let creating = self.records(StateName::Provisioning).await.len();
            let leaving = self.records(StateName::PendingDeletion).await.len();
            let (engines, records) = (self.in_engines().await, self.in_records().await);
            let is_settled = creating + leaving == 0 && engines == records;
            if is_settled { Ok(()) } else { Err((creating, leaving, engines, records)) }
        })
        .await;
        let records = self.in_records().await;
        let sandboxes: BTreeSet<_> = records.iter().map(|(_, sandbox, _)| sandbox).collect();
        assert_eq!(sandboxes.len(), records.len(), "one container for each sandbox: {records:?}");
        for sandbox in self.records(StateName::Allocated).await {
            let lease = sandbox.lease().unwrap();
            assert!(!self.is_over(lease), "{} has ended: {lease:?}", sandbox.id);
        }
    }

    fn is_over(&self, lease: &Lease) -> bool {
        lease.is_over(self.rig.clock.now(), GRACE)
    }

    /// Gives everything back, and checks that nothing is left anywhere.
    pub(super) async fn end(mut self) {
        let drained = self.rig.api.admin(Method::POST, &format!("/v1/pools/{POOL}/drain")).await;
        assert_eq!(drained.status, 200, "{drained:?}");
        self.rig.clock.pass(Duration::from_secs(25 * 3_600));
        self.rig.run(contract::TickKind::EXPIRY).await;
        self.until_free(0).await;
        self.settle().await;
        assert_eq!(self.in_engines().await, [], "nothing is left");
        for node in &mut self.nodes {
            node.stop().await;
        }
        self.rig.stop().await;
    }
}

/// The node that a record names.
pub(super) fn node_of(sandbox: &Sandbox) -> &str {
    sandbox.descriptor.get(Descriptor::NODE).unwrap_or_default()
}
