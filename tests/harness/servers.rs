//! The servers that a test binary shares: started at the first use, gone with the process.

use broker::child;
use broker::nats_server::{self, NatsServer};
use common::runtime::settings::{Env as _, ProcessEnv};
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::sync::OnceCell;

/// Where the shared servers are.
#[derive(Clone, Debug)]
pub struct Servers {
    /// URL of the NATS server.
    pub nats_url: String,
    /// Endpoint of the embedded table.
    pub table_endpoint: String,
}

static SERVERS: OnceCell<Servers> = OnceCell::const_new();

/// The shared servers.
pub async fn shared() -> &'static Servers {
    SERVERS
        .get_or_init(|| async {
            let (server, _folder) = start_nats().await;
            let nats_url = format!("nats://{}", server.address);
            child::keep(server.child);
            let table_endpoint = crate::dynamodb::dynoxide_endpoint().to_owned();
            Servers { nats_url, table_endpoint }
        })
        .await
}

/// A NATS server of one's own, on a free port.
pub async fn start_nats() -> (NatsServer, PathBuf) {
    start_nats_on(SocketAddr::from(([127, 0, 0, 1], 0)), None).await
}

/// A NATS server on a given address, over the folder of an earlier one if there is one.
pub async fn start_nats_on(address: SocketAddr, folder: Option<PathBuf>) -> (NatsServer, PathBuf) {
    let binary = nats_binary().await;
    // Kept: it is in the target folder, so `cargo clean` removes it, and its log explains a failure.
    let folder =
        folder.unwrap_or_else(|| target_folder().join("test-nats").join(uuid::Uuid::now_v7().to_string()));
    std::fs::create_dir_all(&folder).expect("the target folder can be written");
    let server =
        NatsServer::start(&binary, &broker_binary(), &folder, address).await.expect("nats-server starts");
    (server, folder)
}

/// The `nats-server` that tests use: the one that `make test` names or has fetched, or another way to have one.
pub async fn nats_binary() -> PathBuf {
    let fetched = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../.tools/nats-server");
    let named = ProcessEnv.get("NATS_SERVER").map(PathBuf::from);
    match named.or_else(|| fetched.canonicalize().ok()) {
        Some(path) => path,
        None => nats_server::find(&ProcessEnv).await.expect("a nats-server is to be had"),
    }
}

/// The `broker` binary that belongs to this test binary.
pub fn broker_binary() -> PathBuf {
    let binary = target_folder().join("broker");
    assert!(
        binary.exists(),
        "{} is not built; run `make test`, or `cargo build --bins` first",
        binary.display()
    );
    binary
}

/// The profile's folder in the target directory (`target/debug`).
pub fn target_folder() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows where it is");
    // target/debug/deps/flows-0123456789abcdef
    test.ancestors().nth(2).expect("a test lies in deps").to_owned()
}
