//! A server with the users of `nats/accounts.conf`, and connections of them.

use crate::engines::{config, nats_config, until_connected};
use broker::nats_server::NatsServer;
use contract::Subjects;
use harness::servers::{self, PASSWORD};
use nats::NatsBus;
use ports::clock::SystemClock;
use ports::random::Rng;
use runtime::settings::Secret;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// A server with users. Its data are in the folder.
pub(crate) async fn server() -> (NatsServer, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let (binary, guard) = (servers::nats_binary().await, servers::broker_binary());
    let server = NatsServer::start_with(&binary, &guard, folder.path(), any, &servers::accounts()).await;
    (server.unwrap(), folder)
}

/// A connection of that user, to the fleet with the default prefix.
pub(crate) async fn connect(server: &NatsServer, user: &str) -> NatsBus {
    let mut config = nats_config(format!("nats://{}", server.address), config());
    config.subjects = Subjects::default();
    (config.user, config.password) = (Some(user.to_owned()), Some(Secret::new(PASSWORD)));
    config.clock_skew_max = Some(Duration::from_secs(10));
    let bus = NatsBus::connect(user, config, Arc::new(SystemClock), Arc::new(Rng::unseeded())).await;
    let bus = bus.expect("a connection");
    until_connected(&bus).await;
    bus
}
