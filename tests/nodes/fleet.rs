//! A fleet of the built binary without nodes of its own, and what has to hold on it whatever has happened.

use crate::docker;
use crate::node::{Inside, Node};
use domain::{Descriptor, PoolName, RuntimeState, Sandbox, SandboxId, StateName};
use dynamodb::{DynamoConfig, DynamoStore};
use harness::http::{Answer, answer};
use harness::process::Up;
use harness::wait::{TIMEOUT, eventually};
use ports::store::{Layout as _, SortRange, StateQuery, Store as _};
use reqwest::Method;
use runtime::settings::Settings;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// The pool, and its template.
const POOL: &str = "shells";
const TEMPLATE: &str = "shell";
/// Time for a reconciliation, which runners and reconcilers make every 30 seconds, and for what it removes.
const RECONCILED_WITHIN: Duration = Duration::from_secs(45);
/// Time for work to be delivered again after the ack wait of 15 seconds, and for a lost node to be replaced.
pub(crate) const AGAIN_WITHIN: Duration = Duration::from_secs(60);
/// Sandboxes on a page of the table.
const PAGE: u16 = 1_000;

/// A fleet.
pub(crate) struct Fleet {
    pub(crate) up: Up,
    store: DynamoStore,
    _folder: tempfile::TempDir,
}

/// The settings of a template whose sandboxes take a second until they are ready.
pub(crate) fn slow_template() -> Value {
    on_engine(&json!({
        "command": ["sh", "-c", "sleep 1; touch ready; exec sleep 1000000"],
        "readiness": {"kind": "exec", "command": ["test", "-f", "ready"]},
    }))
}

/// The settings of a template whose sandboxes are ready at once and run a process.
pub(crate) fn quick_template() -> Value {
    on_engine(&json!({"command": ["sleep", "1000000"]}))
}

/// A template with an image that the engine of this run has.
pub(crate) fn on_engine(settings: &Value) -> Value {
    let (image, isolation) = match docker::socket() {
        Some(_) => ("busybox:latest", "container"),
        None => ("host", "process"),
    };
    let mut settings = settings.clone();
    settings["image"] = json!(image);
    settings["isolation"] = json!(isolation);
    settings
}

// === impl Fleet ===

impl Fleet {
    /// A fleet with a pool of this template that keeps so many sandboxes free.
    pub(crate) async fn start(template: &Value, warm: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let soon = [("DELETION_RETRY_SECONDS_MIN", "1"), ("DELETION_RETRY_SECONDS_MAX", "1")];
        let up = Up::start(&folder.path().join("data"), &["--pool", "0"], &soon).await;
        let env = BTreeMap::from([("DYNAMODB_ENDPOINT".to_owned(), up.table.clone())]);
        let mut settings = Settings::new(&env);
        let config = DynamoConfig::read(&mut settings);
        let store = DynamoStore::connect(&settings.finish(config).unwrap()).await;
        let path = format!("/v1/templates/{TEMPLATE}");
        let put = up.api.admin_with(Method::PUT, &path, template).await;
        assert!(put.status == 200 || put.status == 201, "{put:?}");
        let pool = json!({
            "kind": "container",
            "provider": "nodes",
            "template": TEMPLATE,
            "warm": {"min": warm, "max": warm},
        });
        let put = up.api.admin_with(Method::PUT, &format!("/v1/pools/{POOL}"), &pool).await;
        assert!(put.status == 200 || put.status == 201, "{put:?}");
        Self { up, store, _folder: folder }
    }

    /// Claims a sandbox; its id.
    pub(crate) async fn claim(&self, owner: &str) -> String {
        let claim = eventually("a granted claim", TIMEOUT, || async {
            let claim = self.up.api.allocate_with(owner, &[("X-Sandbox-Pool", POOL)]).await;
            if matches!(claim.status, 200 | 201) { Ok(claim) } else { Err(claim) }
        })
        .await;
        claim.sandbox().to_owned()
    }

    /// Claims a sandbox that is ready.
    pub(crate) async fn claimed(&self, owner: &str) -> Sandbox {
        let id = self.claim(owner).await;
        self.until_state(&id, StateName::Allocated).await
    }

    /// Asks for the deletion of a sandbox.
    pub(crate) async fn release(&self, id: &str, owner: &str) {
        let release = self.up.api.release(id, owner).await;
        assert_eq!(release.status, 200, "{release:?}");
    }

    /// Runs a script in a sandbox.
    pub(crate) async fn sh(&self, id: &str, owner: &str, script: &str) -> Answer {
        let api = &self.up.api;
        let url = format!("{}/v1/sandboxes/{id}/executions", api.root);
        let request = api.client.post(url).bearer_auth(&api.lab_token);
        let body = json!({"command": ["sh", "-c", script]}).to_string();
        answer(request.header("X-Instruqt-Sandbox-ID", owner).body(body).send().await.unwrap()).await
    }

    /// Waits until a script succeeds in a sandbox: its node may just have come back.
    pub(crate) async fn until_sh(&self, id: &str, owner: &str, script: &str) {
        eventually("the holder to reach the sandbox", TIMEOUT, || async {
            let done = self.sh(id, owner, script).await;
            if done.status == 200 && done.body["exit_code"] == json!(0) { Ok(()) } else { Err(done) }
        })
        .await;
    }

    pub(crate) async fn sandbox(&self, id: &str) -> Sandbox {
        let id = SandboxId::parse(id).unwrap();
        self.store.sandbox(&id).await.unwrap().expect("the sandbox is there")
    }

    /// Waits until a sandbox is in a state.
    pub(crate) async fn until_state(&self, id: &str, state: StateName) -> Sandbox {
        eventually(&format!("{id} to be {state}"), AGAIN_WITHIN, || async {
            let sandbox = self.sandbox(id).await;
            if sandbox.state.name() == state { Ok(sandbox) } else { Err(sandbox.state) }
        })
        .await
    }

    /// The sandboxes of the pool in a state.
    pub(crate) async fn records(&self, state: StateName) -> Vec<Sandbox> {
        let mut found = Vec::new();
        for shard in 0..self.store.shards().await.unwrap() {
            let pool = PoolName::parse(POOL).unwrap();
            let query = StateQuery { pool, state, shard, range: SortRange::All };
            found.extend(self.store.page(&query, None, PAGE).await.unwrap().sandboxes);
        }
        found
    }

    /// Waits until so many sandboxes are free on a node.
    pub(crate) async fn until_free_on(&self, node: &str, count: usize) -> Vec<Sandbox> {
        eventually(&format!("{count} free on {node}"), AGAIN_WITHIN, || async {
            let mut free = self.records(StateName::Available).await;
            free.retain(|sandbox| node_of(sandbox) == node);
            if free.len() == count { Ok(free) } else { Err(free.len()) }
        })
        .await
    }

    /// Within one reconciliation the sandboxes of this machine are those that records name, each once.
    pub(crate) async fn until_consistent(&self, nodes: &[&Node]) {
        eventually("one record for each sandbox of the machine", RECONCILED_WITHIN, || async {
            let mut named = Vec::new();
            for state in [StateName::Available, StateName::Allocated] {
                // One that is lost is named by a record that its holder still has.
                let is_lost =
                    |sandbox: &&Sandbox| RuntimeState::of(&sandbox.descriptor) == Some(RuntimeState::Failed);
                named.extend(self.records(state).await.iter().filter(|one| !is_lost(one)).map(|sandbox| {
                    let incarnation = sandbox.descriptor.get(Descriptor::INCARNATION).unwrap_or_default();
                    (node_of(sandbox).to_owned(), sandbox.id.to_string(), incarnation.to_owned())
                }));
            }
            named.sort();
            let stored = nodes.iter().flat_map(|node| {
                let stored = node.sandboxes().into_iter();
                stored.map(|stored| (node.name.to_owned(), stored.sandbox, stored.incarnation))
            });
            let mut stored: Vec<_> = stored.collect();
            stored.sort();
            let moving = self.records(StateName::Provisioning).await.len()
                + self.records(StateName::PendingDeletion).await.len();
            if moving == 0 && named == stored { Ok(()) } else { Err((moving, named, stored)) }
        })
        .await;
    }

    /// Releases a sandbox and waits until nothing of it is left, in the table or on the machine.
    pub(crate) async fn released(&self, id: &str, owner: &str, inside: &Inside) {
        self.release(id, owner).await;
        self.until_gone(id, inside).await;
    }

    /// Waits until nothing is left of a sandbox whose deletion is wanted.
    pub(crate) async fn until_gone(&self, id: &str, inside: &Inside) {
        self.until_state(id, StateName::Deleted).await;
        eventually("the end of its processes", TIMEOUT, || async {
            let left = inside.processes();
            if left.is_empty() { Ok(()) } else { Err(left) }
        })
        .await;
    }

    /// Drains the pool and ends everything.
    pub(crate) async fn end(self, mut nodes: Vec<Node>) {
        let drained = self.up.api.admin(Method::POST, &format!("/v1/pools/{POOL}/drain")).await;
        assert_eq!(drained.status, 200, "{drained:?}");
        self.until_consistent(&nodes.iter().collect::<Vec<_>>()).await;
        for node in &mut nodes {
            eventually("the last sandbox to go", TIMEOUT, || async {
                let left = node.sandboxes();
                if left.is_empty() { Ok(()) } else { Err(left) }
            })
            .await;
            node.stop().await;
        }
        assert_eq!(self.up.broker.stop(TIMEOUT).await, Some(0), "{}", self.up.broker.output());
    }
}

/// The node that a record names.
pub(crate) fn node_of(sandbox: &Sandbox) -> &str {
    sandbox.descriptor.get(Descriptor::NODE).unwrap_or_default()
}
