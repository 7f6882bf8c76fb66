//! Readiness depends on working dependencies: what a role reports while its servers refuse or drop requests, or lack
//! something.

use broker::nats_server::NatsServer;
use contract::Verb;
use harness::freezing_proxy::FreezingProxy;
use harness::process::Broker;
use harness::rig::{Plan, Rig};
use harness::servers;
use harness::wait::{TIMEOUT, eventually};
use serde_json::Value;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

/// A role in a separate process, with the table and the names of a rig.
pub(crate) struct Role {
    pub(crate) broker: Broker,
    ops: SocketAddr,
}

impl Role {
    async fn start(rig: &Rig, folder: &Path, role: &str, nats: &str) -> Self {
        let soon = [("NATS_PING_SECONDS", "1"), ("NATS_CONNECT_TIMEOUT_SECONDS", "1")];
        Self::start_with(rig, folder, role, &[[("NATS_URL", nats)].as_slice(), &soon].concat()).await
    }

    /// With other variables than the rig's.
    pub(crate) async fn start_with(rig: &Rig, folder: &Path, role: &str, more: &[(&str, &str)]) -> Self {
        let ops = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut env = rig.env.clone();
        env.insert("OPS_LISTEN".to_owned(), ops.to_string());
        env.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let variables: Vec<_> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        Self { broker: Broker::start(folder, &[role], &variables).await, ops }
    }

    async fn look(&self) -> Result<(u16, Value), String> {
        let url = format!("http://{}/readyz", self.ops);
        let answer = reqwest::get(url).await.map_err(|error| error.to_string())?;
        Ok((answer.status().as_u16(), answer.json().await.map_err(|error| error.to_string())?))
    }

    pub(crate) async fn until(&self, what: &str, is_so: impl Fn(u16, &Value) -> bool) -> Value {
        eventually(what, TIMEOUT, || async {
            match self.look().await {
                Ok((status, body)) if is_so(status, &body) => Ok(body),
                other => Err(format!("{other:?}\n{}", self.broker.output())),
            }
        })
        .await
    }

    pub(crate) async fn stop(self) {
        assert_eq!(self.broker.stop(TIMEOUT).await, Some(0), "{}", self.broker.output());
    }
}

#[tokio::test]
async fn claims_work_without_jetstream_and_other_roles_report_it() {
    let rig = Plan::new(2).start().await;
    let folder = tempfile::tempdir().unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let (binary, guard) = (servers::nats_binary().await, servers::broker_binary());
    // Without JetStream, as after a full disk.
    let text = "max_payload: 1MB\n";
    let server = NatsServer::start_with(&binary, &guard, folder.path(), any, text).await.unwrap();
    let nats = format!("nats://{}", server.address);
    let allocator = Role::start(&rig, folder.path(), "allocator", &nats).await;
    let body = allocator.until("an allocator that is ready", |status, _| status == 200).await;
    assert_eq!(body["checks"]["roles"], "ok", "{body}");
    let body = allocator.until("a note", |_, body| body["notes"]["streams"].is_string()).await;
    assert!(body["notes"]["streams"].as_str().unwrap().contains("JetStream"), "{body}");
    let client = async_nats::connect(server.address.to_string()).await.unwrap();
    let request = async_nats::Request::new().payload(r#"{"owner":"student-1"}"#.into());
    let subject = rig.bus.subjects().request(Verb::Allocate);
    let reply = client.send_request(subject, request.timeout(Some(TIMEOUT))).await.unwrap();
    let granted: Value = serde_json::from_slice(&reply.payload).unwrap();
    assert!(granted["sandbox_id"].is_string(), "{granted}");
    let reaper = Role::start(&rig, folder.path(), "reaper", &nats).await;
    let body = reaper
        .until("a reaper that says why", |status, body| {
            status == 503 && body["checks"]["streams"].as_str().is_some_and(|why| why.contains("JetStream"))
        })
        .await;
    assert!(body["checks"]["roles"].as_str().unwrap().contains("no streams"), "{body}");
    allocator.stop().await;
    reaper.stop().await;
    server.child.kill().await;
    rig.stop().await;
}

#[tokio::test]
async fn role_is_not_ready_while_its_server_is_silent() {
    let rig = Plan::new(1).start().await;
    let folder = tempfile::tempdir().unwrap();
    let upstream = rig.env["NATS_URL"].clone();
    let first = FreezingProxy::start(&upstream, None).await;
    let second = FreezingProxy::start(&upstream, None).await;
    // Both hang at the same time, so it does not matter which of them has the connection.
    let nats = format!("{},{}", first.address(), second.address());
    let reaper = Role::start(&rig, folder.path(), "reaper", &nats).await;
    reaper.until("a reaper that is ready", |status, _| status == 200).await;
    first.hold();
    second.hold();
    let (status, body) = reaper.look().await.unwrap();
    assert_eq!(status, 503, "at once, and not after some pings: {body}");
    assert!(body["checks"]["nats"].as_str().unwrap().contains("does not answer"), "{body}");
    reaper.until("the loss to be noticed", |_, body| body["checks"]["nats"] == "not connected to NATS").await;
    second.let_go();
    reaper.until("a connection to the other server", |status, _| status == 200).await;
    assert!(first.is_frozen());
    assert_eq!(reaper.broker.stop(Duration::from_secs(20)).await, Some(0), "{}", reaper.broker.output());
    rig.stop().await;
}
