//! Who reaches and removes a sandbox: its supervisor serves this adapter alone, and runners of one engine leave each other alone.

use crate::machine::{IMAGE, Machine, TIMEOUT};
use ports::engine::{ContainerSpec, EngineError};
use std::process::Command;
use std::time::Instant;
use supervisor::{Client, End, Job};
use testkit::engine::suite::{self, Failure, Subject as _, remove_all};

/// Connects to a Unix socket, and says whether the other side closes the connection.
const CONNECT: &str = "import socket, sys
stream = socket.socket(socket.AF_UNIX)
stream.settimeout(20)
stream.connect(sys.argv[1])
try:
    print('closed' if stream.recv(1) == b'' else 'answered')
except ConnectionResetError:
    print('closed')";

#[tokio::test]
async fn supervisor_serves_the_outside_only() -> Result<(), Failure> {
    let machine = Machine::new().await;
    let id = machine.create(|_| {}).await?;
    for user in [ContainerSpec::USER_DEFAULT, 0] {
        machine.text_as(user, &id, "! ls /run/control 2>/dev/null").await?;
        machine.text_as(user, &id, "! test -e /run/control/socket").await?;
    }
    // A process inside with all capabilities can connect, and gets no answer.
    let socket = machine.folder_of(&id).join("control/socket");
    let inside = |arguments: &[&str]| {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", machine.pid(&id))).args(arguments);
        let output = command.args(["python3", "-c", CONNECT]).arg(&socket).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(inside(&["--pid"]), "closed\n");
    // The same from the outside is a client.
    assert_eq!(inside(&["--uts"]), "answered\n");
    machine.text(&id, "true").await?;
    Ok(())
}

#[tokio::test]
async fn impostor_on_the_socket_of_the_supervisor_is_not_believed() -> Result<(), Failure> {
    let machine = Machine::new().await;
    let id = machine.create(|_| {}).await?;
    let engine = machine.engine();
    let client = Client::connect(engine.connect(&id).await?).await?;
    let elsewhere = machine.config().socket.display();
    // As if root inside could write there.
    std::os::unix::fs::chown(machine.folder_of(&id).join("control"), Some(0), Some(0))?;
    // The engine's own socket, which is there outside only.
    machine.text_as(0, &id, &format!("ln -sf {elsewhere} /run/control/socket")).await?;
    let refused = engine.connect(&id).await.err();
    assert!(
        matches!(&refused, Some(EngineError::Failed { reason }) if reason.contains("another process")),
        "{refused:?}"
    );
    // None.
    runs(&client, "rm /run/control/socket").await?;
    let refused = engine.connect(&id).await.err();
    assert!(matches!(refused, Some(EngineError::Unavailable { .. })), "{refused:?}");
    // A process that speaks the protocol.
    let mut impostor = Job::new(suite::fresh_job()?, ["/run/supervisor", "listen", "/run/control/socket"]);
    impostor.uid = Some(0);
    drop(client.start(impostor).await?);
    let deadline = Instant::now() + TIMEOUT;
    loop {
        match engine.connect(&id).await {
            Err(EngineError::Failed { reason }) if reason.contains("another process") => break,
            Err(EngineError::Unavailable { .. }) => assert!(Instant::now() < deadline),
            other => panic!("{:?}", other.err()),
        }
        tokio::task::yield_now().await;
    }
    // A start makes the socket again.
    engine.stop(&id).await?;
    engine.start(&id).await?;
    machine.text(&id, "true").await?;
    Ok(())
}

/// Runs a script as root on a connection that is there.
async fn runs(client: &Client, script: &str) -> Result<(), Failure> {
    let mut job = Job::new(suite::fresh_job()?, ["sh", "-c", script]);
    job.uid = Some(0);
    assert_eq!(client.run(job, &[]).await?.ended.end, End::Exited(0), "{script}");
    Ok(())
}

#[tokio::test]
async fn runners_of_one_engine_leave_each_other_alone() -> Result<(), Failure> {
    let (machine, other) = (Machine::new().await, Machine::new().await);
    let (id, of_other) = (machine.create(|_| {}).await?, other.create(|_| {}).await?);
    assert_eq!(other.docker(&["ps", "--all", "--filter", &other.filter(), "--format", "{{.Image}}"]), IMAGE);
    let listed: Vec<_> = other.engine().list().await?.into_iter().map(|one| one.incarnation).collect();
    assert_eq!(listed, [of_other]);
    assert_eq!(other.engine().stop(&id).await, Err(EngineError::Gone));
    assert_eq!(other.engine().connect(&id).await.err(), Some(EngineError::Gone));
    // For this runner it does not exist.
    other.engine().remove(&id).await?;
    other.reopened().await;
    remove_all(&other).await?;
    machine.text(&id, "true").await?;
    remove_all(&machine).await
}
