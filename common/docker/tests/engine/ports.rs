//! Published ports: how a sandbox is reached.

use crate::machine::{Machine, TIMEOUT, config, variable};
use crate::outside::{
    MACHINE_ADDRESS, OUTSIDE_ADDRESS, PORT, addresses, answers, endpoint, fetch, listen, listen_outside,
    published, reaches, serve,
};
use docker::Config;
use host::Publish;
use ports::engine::{ContainerSpec, EngineError, PublishedPort};
use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;
use std::time::Instant;
use testkit::engine::suite::{Failure, Subject as _, remove_all};

/// A machine with these ports to publish.
async fn with_ports(ports: std::ops::RangeInclusive<u16>) -> Machine {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), variable("TEST_DOCKER_SOCKET").into());
    let publish = Publish { address: Ipv4Addr::LOCALHOST, ports };
    Machine::with(folder, Config { publish, ..config }).await
}

#[tokio::test]
async fn published_port_serves_and_nothing_goes_out() -> Result<(), Failure> {
    let machine = with_ports(29_000..=29_001).await;
    let (outside, here) = (listen_outside(OUTSIDE_ADDRESS), listen(MACHINE_ADDRESS));
    let id = machine.create(published).await?;
    let endpoint = endpoint(&machine, &id).await;
    assert_eq!(endpoint.ip(), Ipv4Addr::LOCALHOST);
    // Nothing listens inside yet.
    assert!(!answers(endpoint));
    serve(&machine, &id).await?;
    for _ in 0..2 {
        assert!(answers(endpoint));
        assert!(!reaches(&machine, &id, &outside).await? && !reaches(&machine, &id, &here).await?);
        machine.engine().attach_network(&id).await?;
    }
    // Another one, which has a port too, is no neighbour.
    let other = machine.create(published).await?;
    machine.text(&other, &format!("! {}", fetch(&addresses(&machine, &id).await?))).await?;
    let full = machine.create(published).await.unwrap_err();
    assert!(matches!(full.downcast_ref(), Some(EngineError::Full { .. })), "{full}");
    machine.engine().remove(&id).await?;
    TcpListener::bind(endpoint)?;
    remove_all(&machine).await
}

#[tokio::test]
async fn port_that_the_engine_refuses_is_passed_over() -> Result<(), Failure> {
    let machine = with_ports(29_010..=29_011).await;
    // A container of someone else has a port, but what listened there for it was killed.
    let name = format!("holder-{}", std::process::id());
    machine.docker(&[
        "run",
        "--detach",
        "--name",
        &name,
        "--publish",
        "127.0.0.1:29010:80",
        "busybox",
        "sleep",
        "600",
    ]);
    let killed = Command::new("pkill")
        .arg("--parent")
        .arg(variable("TEST_DOCKER_PID"))
        .args(["--full", "docker-proxy .* -host-port 29010 "])
        .status()?;
    assert!(killed.success());
    let deadline = Instant::now() + TIMEOUT;
    while let Err(error) = TcpListener::bind("127.0.0.1:29010") {
        assert!(Instant::now() < deadline, "{error}");
        tokio::task::yield_now().await;
    }
    let created = async {
        // Whichever port each one tries first.
        for _ in 0..4 {
            let id = machine.create(published).await?;
            assert_eq!(endpoint(&machine, &id).await.port(), 29_011);
            machine.engine().remove(&id).await?;
        }
        // It cannot have that port.
        let fixed = |spec: &mut ContainerSpec| {
            spec.ports = vec![PublishedPort { inside: PORT, outside: Some(29_010) }];
        };
        let full = machine.create(fixed).await.unwrap_err();
        assert!(matches!(full.downcast_ref(), Some(EngineError::Full { .. })), "{full}");
        Ok::<_, Failure>(())
    };
    let created = created.await;
    machine.docker(&["rm", "--force", &name]);
    created?;
    remove_all(&machine).await
}

#[tokio::test]
async fn port_that_is_asked_for_is_given_or_the_node_is_full() -> Result<(), Failure> {
    let machine = with_ports(29_020..=29_021).await;
    // Outside of the range too.
    let fixed = |spec: &mut ContainerSpec| {
        spec.ports = vec![PublishedPort { inside: PORT, outside: Some(29_100) }];
    };
    let taken = TcpListener::bind("127.0.0.1:29100")?;
    let full = machine.create(fixed).await.unwrap_err();
    assert!(matches!(full.downcast_ref(), Some(EngineError::Full { .. })), "{full}");
    drop(taken);
    let id = machine.create(fixed).await?;
    assert_eq!(endpoint(&machine, &id).await.port(), 29_100);
    let full = machine.create(fixed).await.unwrap_err();
    assert!(matches!(full.downcast_ref(), Some(EngineError::Full { .. })), "{full}");
    serve(&machine, &id).await?;
    assert!(answers(endpoint(&machine, &id).await));
    remove_all(&machine).await
}
