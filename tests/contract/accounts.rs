//! `nats/accounts.conf` on a real server: the subjects that each user may publish and subscribe to.

use async_nats::{Client, ConnectOptions, Event};
use broker::nats_server::NatsServer;
use contract::Subjects;
use harness::servers::{self, PASSWORD, accounts, broker_binary, nats_binary};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long the server may take to report a violation. Tests of allowed subjects do not wait for it.
const TIMEOUT: Duration = Duration::from_secs(20);

const ROLES: [&str; 6] = ["ingress", "allocator", "registry", "reaper", "reconciler", "scheduler"];

/// A user of the server, and the errors that the server sends to it.
struct User {
    name: &'static str,
    client: Client,
    said: mpsc::UnboundedReceiver<String>,
}

async fn server() -> NatsServer {
    let folder = servers::target_folder().join("test-nats").join(uuid::Uuid::now_v7().to_string());
    std::fs::create_dir_all(&folder).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    NatsServer::start_with(&nats_binary().await, &broker_binary(), &folder, any, &accounts()).await.unwrap()
}

impl User {
    async fn connect(server: &NatsServer, name: &'static str) -> Self {
        let (sender, said) = mpsc::unbounded_channel();
        let options = ConnectOptions::with_user_and_password(name.to_owned(), PASSWORD.to_owned())
            .custom_inbox_prefix(format!("_INBOX.{name}"))
            .event_callback(move |event| {
                let sender = sender.clone();
                async move {
                    if let Event::ServerError(error) = event {
                        let _ = sender.send(error.to_string());
                    }
                }
            });
        let client = options.connect(server.address.to_string()).await.unwrap();
        Self { name, client, said }
    }

    /// Whether the server lets this user publish there. After an allowed publish, the test makes a forbidden one, so
    /// that there is an answer to wait for in both cases.
    async fn may_publish(&mut self, subject: &str) -> bool {
        const DENIED: &str = "none.may.publish.here";
        self.client.publish(subject.to_owned(), "x".into()).await.unwrap();
        self.client.publish(DENIED, "x".into()).await.unwrap();
        self.client.flush().await.unwrap();
        let mut is_allowed = true;
        loop {
            let said = tokio::time::timeout(TIMEOUT, self.said.recv()).await.expect("a violation").unwrap();
            assert!(
                said.to_lowercase().contains("permissions violation for publish"),
                "{}: {said}",
                self.name
            );
            if said.to_lowercase().contains(DENIED) {
                return is_allowed;
            }
            assert!(said.contains(subject), "{}: {said}", self.name);
            is_allowed = false;
        }
    }
}

#[tokio::test]
async fn roles_may_publish_only_their_own_subjects() {
    let server = server().await;
    let subjects = Subjects::default();
    let cases: [(&str, &[&str]); 44] = [
        ("sandbox.v1.allocate", &["ingress", "service", "operator"]),
        ("sandbox.v1.replay", &["ingress", "operator"]),
        ("sandbox.v1.put-template", &["ingress", "operator"]),
        ("sandbox.deletions.work.main.2000000", &["allocator", "reconciler"]),
        ("sandbox.deletions.retry.main.2000000", &["reaper"]),
        ("sandbox.parked.main.2000000", &["reaper", "reconciler"]),
        ("sandbox.provisions.lease.shells.ctr_1", &["allocator", "reconciler"]),
        ("sandbox.provisions.fill.shells.ctr_1", &["allocator", "reconciler"]),
        ("sandbox.provisions.retry.shells.ctr_1", &["runner"]),
        ("sandbox.provisions.parked.shells.ctr_1", &["runner"]),
        ("sandbox.node.node-a.remove", &["reaper"]),
        ("sandbox.node.node-a.lease", &["allocator"]),
        ("sandbox.node.node-a.execute", &["allocator"]),
        ("sandbox.node.node-a.inventory", &["allocator", "reconciler"]),
        ("sandbox.node.node-a.runtime", &["allocator"]),
        ("sandbox.v1.claim", &["ingress", "service", "operator"]),
        ("sandbox.v1.runtime", &["ingress", "service", "operator"]),
        ("sandbox.v1.drain-node", &["ingress", "operator"]),
        ("sandbox.v1.execute", &["ingress", "service", "operator"]),
        ("sandbox.node.node-a.other", &[]),
        ("sandbox.v1.register-node", &["runner"]),
        ("sandbox.v1.node-pools", &["runner"]),
        ("sandbox.v1.provision-wanted", &["runner"]),
        ("sandbox.v1.provisioned", &["runner"]),
        ("sandbox.v1.provision-failed", &["runner"]),
        ("sandbox.v1.held", &["runner"]),
        ("sandbox.v1.health", &["ingress", "service", "operator"]),
        ("$JS.API.CONSUMER.MSG.NEXT.PROVISIONS.runner-lease-shells", &["runner", "operator"]),
        ("$JS.ACK.PROVISIONS.runner-lease-shells.1.1.1.1.0", &["runner", "operator"]),
        (
            "$JS.API.CONSUMER.CREATE.PROVISIONS.runner-lease-shells",
            &["allocator", "reaper", "reconciler", "scheduler", "operator"],
        ),
        ("sandbox.ticks.sync", &["ingress", "reconciler", "scheduler", "operator"]),
        ("sandbox.events.claimed.2000000", &["allocator", "reaper", "reconciler"]),
        ("sandbox.reports.sync", &["reconciler"]),
        ("$KV.broker.deletions.pause", &["allocator", "reaper", "reconciler", "operator"]),
        ("$KV.broker.table.mark", &["allocator", "registry", "reaper", "reconciler", "operator"]),
        ("$KV.broker.tick.sync", &["scheduler", "operator"]),
        ("$KV.broker.period.sync", &["reconciler", "operator"]),
        ("$KV.broker.listing.csp", &["reconciler", "operator"]),
        ("$KV.broker.probe", &["allocator", "reaper", "reconciler", "scheduler", "operator"]),
        // A sender whose tick finds the stream full reads the tick that waits there.
        (
            "$JS.API.STREAM.MSG.GET.TICKS",
            &["ingress", "allocator", "reaper", "reconciler", "scheduler", "operator"],
        ),
        (
            "$JS.API.STREAM.INFO.TICKS",
            &["ingress", "allocator", "registry", "reaper", "reconciler", "scheduler", "operator"],
        ),
        ("$JS.API.STREAM.DELETE.DELETIONS", &["operator"]),
        ("$JS.API.CONSUMER.CREATE.EVENTS.books", &["auditor", "operator"]),
        ("$JS.API.CONSUMER.MSG.NEXT.DELETIONS.reaper-main", &["reaper", "operator"]),
    ];
    assert!(cases[0].0.starts_with(subjects.prefix()), "the file is about the default prefix");
    for name in ROLES.into_iter().chain(["runner", "service", "auditor", "operator"]) {
        let mut user = User::connect(&server, name).await;
        for (subject, allowed) in cases {
            assert_eq!(user.may_publish(subject).await, allowed.contains(&name), "{name} on {subject}");
        }
        for stream in ["EVENTS", "PARKED"] {
            let subject = format!("$JS.API.STREAM.PURGE.{stream}");
            let is_operator_on_parked = name == "operator" && stream == "PARKED";
            assert_eq!(user.may_publish(&subject).await, is_operator_on_parked, "{name} on {subject}");
        }
    }
    server.child.stop(TIMEOUT).await;
}

#[tokio::test]
async fn roles_may_subscribe_only_to_their_own_subjects() {
    let server = server().await;
    for name in ROLES.into_iter().chain(["runner", "service", "auditor"]) {
        let mut user = User::connect(&server, name).await;
        for subject in ["sandbox.>", "_INBOX.>", "sandbox.v1.allocate", "_INBOX.operator.>", "$JS.ACK.>"] {
            let _refused = user.client.subscribe(subject).await.unwrap();
            let said = tokio::time::timeout(TIMEOUT, user.said.recv()).await.expect("a violation").unwrap();
            let said = said.to_lowercase();
            let is_refused = said.contains("permissions violation for subscription");
            assert!(is_refused && said.contains(&subject.to_lowercase()), "{name} on {subject}: {said}");
        }
    }
    server.child.stop(TIMEOUT).await;
}

#[tokio::test]
async fn only_runners_may_subscribe_to_requests_of_nodes() {
    const REQUESTS: &str = "sandbox.node.node-a.remove";
    const DENIED: &str = "none.may.subscribe.here";
    let server = server().await;
    for name in ROLES.into_iter().chain(["runner", "service", "auditor"]) {
        let mut user = User::connect(&server, name).await;
        let _asked = user.client.subscribe(REQUESTS).await.unwrap();
        let _denied = user.client.subscribe(DENIED).await.unwrap();
        let first = tokio::time::timeout(TIMEOUT, user.said.recv()).await.expect("a violation").unwrap();
        // The server answers in the order of the subscriptions.
        let refused = if name == "runner" { DENIED } else { REQUESTS };
        assert!(first.to_lowercase().contains(refused), "{name}: {first}");
    }
    server.child.stop(TIMEOUT).await;
}

#[tokio::test]
async fn connection_without_a_valid_password_is_refused() {
    let server = server().await;
    let address = server.address.to_string();
    assert!(async_nats::connect(&address).await.is_err());
    let wrong = ConnectOptions::with_user_and_password("operator".to_owned(), "guess".to_owned());
    assert!(wrong.connect(&address).await.is_err());
    server.child.stop(TIMEOUT).await;
}
