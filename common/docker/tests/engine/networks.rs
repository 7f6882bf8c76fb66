//! What a sandbox reaches.

use crate::machine::Machine;
use crate::outside::{
    MACHINE_ADDRESS, OUTSIDE_ADDRESS, addresses, answers, endpoint, fetch, listen, listen_outside, published,
    reaches, serve,
};
use ports::engine::{ContainerSpec, ContainerState, Feature, Network};
use std::net::TcpStream;
use testkit::engine::suite::{Failure, Subject as _, remove_all};

/// Where clouds answer with credentials.
const METADATA: [&str; 3] = ["169.254.169.254", "169.254.170.2", "100.100.100.200"];

#[tokio::test]
async fn open_network_reaches_the_outside_and_no_metadata() -> Result<(), Failure> {
    let machine = Machine::new().await;
    assert_eq!(machine.engine().info().why_not(Feature::OpenNetwork), None);
    let id = machine.create(|spec| spec.network = Network::Open).await?;
    let outside = listen_outside(OUTSIDE_ADDRESS);
    assert!(!reaches(&machine, &id, &outside).await?, "before it is attached");
    machine.engine().attach_network(&id).await?;
    assert!(reaches(&machine, &id, &outside).await?);
    for change in ["ip route flush table main", "ip link set eth0 down", "ip address add 10.9.9.9/8 dev eth0"]
    {
        machine.text_as(0, &id, &format!("! {change} 2>/dev/null")).await?;
    }
    for address in METADATA {
        let listener = listen_outside(address);
        // It is there for the machine.
        TcpStream::connect(listener.local_addr()?)?;
        listener.accept().await?;
        assert!(!reaches(&machine, &id, &listener).await?, "{address}");
    }
    // Nor the machine itself, at no address of it.
    let gateway = machine.text(&id, "ip route | sed -n 's/default via \\([0-9.]*\\).*/\\1/p'").await?;
    for address in [MACHINE_ADDRESS, &gateway, "10.88.99.1"] {
        let listener = listen(address);
        assert!(!reaches(&machine, &id, &listener).await?, "{address}");
    }
    assert!(reaches(&machine, &id, &outside).await?);
    // A firewall that was restarted has no rules any more; every look of the runner at a leased container makes them again.
    let table = format!("sbx{}", host::hash_of(&machine.config().state));
    let deleted = std::process::Command::new("nft").args(["delete", "table", "inet", &table]).status()?;
    assert!(deleted.success());
    let metadata = listen_outside(METADATA[0]);
    machine.engine().attach_network(&id).await?;
    assert!(!reaches(&machine, &id, &metadata).await? && reaches(&machine, &id, &outside).await?);
    Ok(())
}

#[tokio::test]
async fn internal_network_reaches_neighbours_only() -> Result<(), Failure> {
    let machine = Machine::new().await;
    let (outside, here) = (listen_outside(OUTSIDE_ADDRESS), listen(MACHINE_ADDRESS));
    let internal = |spec: &mut ContainerSpec| spec.network = Network::Internal;
    let (one, other) = (machine.create(internal).await?, machine.create(internal).await?);
    let (open, neighbour) = (
        machine.create(|spec| spec.network = Network::Open).await?,
        machine.create(|spec| spec.network = Network::Open).await?,
    );
    for id in [&one, &open, &neighbour] {
        machine.engine().attach_network(id).await?;
        serve(&machine, id).await?;
    }
    let (address, of_open) = (addresses(&machine, &one).await?, addresses(&machine, &open).await?);
    machine.text(&other, &format!("! {}", fetch(&address))).await?;
    machine.engine().attach_network(&other).await?;
    machine.text(&other, &fetch(&address)).await?;
    for id in [&one, &other] {
        assert!(!reaches(&machine, id, &outside).await? && !reaches(&machine, id, &here).await?);
        machine.text(id, &format!("! {}", fetch(&of_open))).await?;
    }
    // Those with an open network reach neither them nor each other.
    assert!(reaches(&machine, &open, &outside).await?);
    machine.text(&open, &format!("! {}", fetch(&address))).await?;
    machine.text(&neighbour, &format!("! {}", fetch(&of_open))).await?;
    // One that starts again serves its neighbours again.
    machine.engine().stop(&one).await?;
    machine.engine().start(&one).await?;
    serve(&machine, &one).await?;
    machine.text(&other, &fetch(&addresses(&machine, &one).await?)).await?;
    Ok(())
}

#[tokio::test]
async fn network_survives_restarts() -> Result<(), Failure> {
    let machine = Machine::new().await;
    let outside = listen_outside(OUTSIDE_ADDRESS);
    let id = machine
        .create(|spec| {
            spec.network = Network::Open;
            published(spec);
        })
        .await?;
    machine.engine().attach_network(&id).await?;
    let address = endpoint(&machine, &id).await;
    serve(&machine, &id).await?;
    assert!(reaches(&machine, &id, &outside).await? && answers(address));
    let engine = machine.reopened().await;
    engine.attach_network(&id).await?;
    assert!(reaches(&machine, &id, &outside).await? && answers(address));
    engine.stop(&id).await?;
    assert!(!answers(address));
    engine.start(&id).await?;
    serve(&machine, &id).await?;
    assert!(reaches(&machine, &id, &outside).await? && answers(address));
    machine.kill(&id).await;
    machine.settles(&id, ContainerState::Exited).await;
    engine.start(&id).await?;
    serve(&machine, &id).await?;
    assert!(reaches(&machine, &id, &outside).await? && answers(address));
    engine.remove(&id).await?;
    remove_all(&machine).await
}
