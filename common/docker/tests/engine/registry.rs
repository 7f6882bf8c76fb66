//! Images that the engine does not have, and a registry that serves them slowly.

use crate::machine::{IMAGE, Machine, TIMEOUT, variable};
use ports::engine::LocalImage;
use std::time::Instant;
use testkit::engine::suite::{Subject as _, fresh};
use tokio::io::{AsyncReadExt as _, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What a connection passes on before the release: manifests, and the beginning of a layer.
const BYTES_BEFORE: u64 = 512 * 1024;

/// A registry that has what another one has. Until it is released it serves only the beginning of large layers.
pub(crate) struct Registry {
    /// The first part of the names of its images.
    pub(crate) address: String,
    gate: watch::Sender<bool>,
}

// === impl Registry ===

impl Registry {
    /// One that listens here and has what the registry of the test run has.
    pub(crate) fn slow(listener: std::net::TcpListener) -> std::io::Result<Self> {
        let listener = TcpListener::from_std(listener)?;
        let address = format!("localhost:{}", listener.local_addr()?.port());
        let (gate, released) = watch::channel(false);
        // It ends with the test.
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, released.clone()));
            }
        });
        Ok(Self { address, gate })
    }

    pub(crate) fn release(&self) {
        self.gate.send_replace(true);
    }
}

async fn pass(client: TcpStream, mut released: watch::Receiver<bool>) -> std::io::Result<()> {
    let server = TcpStream::connect(registry()).await?;
    let (mut from_client, mut to_client) = client.into_split();
    let (from_server, mut to_server) = server.into_split();
    tokio::spawn(async move { copy(&mut from_client, &mut to_server).await });
    let mut beginning = from_server.take(BYTES_BEFORE);
    copy(&mut beginning, &mut to_client).await?;
    let _ = released.wait_for(|is_released| *is_released).await;
    copy(&mut beginning.into_inner(), &mut to_client).await?;
    Ok(())
}

/// The address of the registry of the test run.
pub(crate) fn registry() -> String {
    variable("TEST_DOCKER_REGISTRY").into_string().unwrap()
}

/// What the adapter says of an image.
pub(crate) async fn image(machine: &Machine, name: &str) -> Option<LocalImage> {
    let images = machine.engine().images().await.unwrap();
    images.into_iter().find(|image| image.name == name)
}

/// Waits until some of an image has arrived, and the rest does not.
pub(crate) async fn arrives(machine: &Machine, name: &str) {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let pull = image(machine, name).await.and_then(|image| image.pull);
        if pull.is_some_and(|pull| pull.fetched_bytes > 0 && pull.fetched_bytes < pull.total_bytes) {
            return;
        }
        assert!(Instant::now() < deadline, "{pull:?}");
        tokio::task::yield_now().await;
    }
}

/// Gives the registry of the test run an image with a large layer that nothing else has, in the file `/fetched`; the name of the
/// image without that of the registry.
pub(crate) fn push(machine: &Machine, purpose: &str) -> String {
    let (path, container) = (format!("{purpose}/{}:1", fresh()), format!("source-{}", fresh()));
    let name = format!("{}/{path}", registry());
    machine.docker(&[
        "run",
        "--name",
        &container,
        "--network",
        "none",
        IMAGE,
        "sh",
        "-c",
        "head -c 4000000 /dev/urandom >/fetched",
    ]);
    machine.docker(&["commit", "--change", "CMD [\"sh\"]", &container, &name]);
    machine.docker(&["push", "--quiet", &name]);
    machine.docker(&["rm", &container]);
    machine.docker(&["rmi", &name]);
    path
}
