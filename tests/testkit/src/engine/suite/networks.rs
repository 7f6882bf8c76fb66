//! Networks and published ports, where a machine has them.

use super::{Failure, Subject, fresh, states};
use domain::SandboxId;
use ports::engine::{Container, ContainerSpec, ContainerState, EngineError, Feature, Network, PublishedPort};
use std::collections::BTreeSet;

/// A container with this network and these ports; none, with the reason on the terminal, if this machine lacks them.
///
/// # Errors
/// Never.
pub fn networked(
    subject: &dyn Subject,
    network: Network,
    ports: &[u16],
) -> Result<Option<ContainerSpec>, Failure> {
    let spec = subject.spec(SandboxId::parse("s-1")?, fresh());
    let ports = ports.iter().map(|port| PublishedPort { inside: *port, outside: None }).collect();
    let spec = ContainerSpec { network, ports, ..spec };
    Ok(match subject.engine().info().check(&spec) {
        Ok(()) => Some(spec),
        Err(refused) => {
            eprintln!("left out: {refused}");
            None
        }
    })
}

/// What a machine lacks is refused with its reason.
///
/// # Errors
/// A call failed.
pub async fn networks_that_a_machine_lacks_are_refused(subject: &dyn Subject) -> Result<(), Failure> {
    let engine = subject.engine();
    let spec = subject.spec(SandboxId::parse("s-1")?, fresh());
    let port = PublishedPort { inside: 80, outside: None };
    for (feature, spec) in [
        (Feature::OpenNetwork, ContainerSpec { network: Network::Open, ..spec.clone() }),
        (Feature::InternalNetwork, ContainerSpec { network: Network::Internal, ..spec.clone() }),
        (Feature::PublishedPorts, ContainerSpec { ports: vec![port], ..spec }),
    ] {
        if let Some(reason) = engine.info().why_not(feature) {
            let expected = EngineError::refused(format!("{feature}: {reason}"));
            assert_eq!(engine.create(&spec).await, Err(expected));
        }
    }
    assert_eq!(engine.list().await?, []);
    Ok(())
}

/// A network is attached by a call, which can be repeated, and stays attached. A container that does not run is attached
/// by its start.
///
/// # Errors
/// A call failed.
pub async fn networks_are_attached_once(subject: &dyn Subject) -> Result<(), Failure> {
    for network in [Network::None, Network::Internal, Network::Open] {
        let Some(spec) = networked(subject, network, &[])? else { continue };
        let (engine, id) = (subject.engine(), spec.incarnation);
        let created = engine.create(&spec).await?;
        for _ in 0..2 {
            engine.attach_network(&id).await?;
        }
        assert_eq!(engine.list().await?, std::slice::from_ref(&created));
        engine.stop(&id).await?;
        engine.attach_network(&id).await?;
        assert_eq!(states(engine.as_ref()).await?, [(id, ContainerState::Stopped)]);
        let engine = subject.reopened().await;
        engine.start(&id).await?;
        engine.attach_network(&id).await?;
        assert_eq!(engine.list().await?, [created]);
        engine.remove(&id).await?;

        // Never attached before it is stopped.
        let late = ContainerSpec { incarnation: fresh(), ..spec };
        engine.create(&late).await?;
        engine.stop(&late.incarnation).await?;
        engine.attach_network(&late.incarnation).await?;
        engine.start(&late.incarnation).await?;
        engine.remove(&late.incarnation).await?;
        assert_eq!(engine.attach_network(&late.incarnation).await, Err(EngineError::Gone));
    }
    Ok(())
}

/// Every published port has an address of its own, which it keeps until its container is removed.
///
/// # Errors
/// A call failed.
pub async fn published_ports_are_distinct_and_stay(subject: &dyn Subject) -> Result<(), Failure> {
    let engine = subject.engine();
    let (mut addresses, mut containers) = (BTreeSet::new(), Vec::new());
    for _ in 0..3 {
        let Some(spec) = networked(subject, Network::None, &[8_080, 9_090])? else { return Ok(()) };
        let created = engine.create(&spec).await?;
        let inside: Vec<u16> = created.endpoints.iter().map(|endpoint| endpoint.port).collect();
        assert_eq!(inside, [8_080, 9_090]);
        addresses.extend(created.endpoints.iter().map(|endpoint| endpoint.address));
        containers.push(created);
    }
    assert_eq!(addresses.len(), 6, "{containers:?}");
    let engine = subject.reopened().await;
    let sorted = |mut containers: Vec<Container>| {
        containers.sort_by_key(|container| container.incarnation);
        containers
    };
    let containers = sorted(containers);
    assert_eq!(sorted(engine.list().await?), containers);
    for container in &containers {
        engine.stop(&container.incarnation).await?;
        engine.start(&container.incarnation).await?;
    }
    assert_eq!(sorted(engine.list().await?), containers);
    Ok(())
}
