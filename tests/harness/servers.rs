//! The servers that a test binary shares: started at the first use, stopped with the process.

use broker::child;
use broker::nats_server::{self, NatsServer};
use runtime::settings::{Env as _, ProcessEnv, Secret};
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::sync::OnceCell;

/// Enables the users of `nats/accounts.conf` for every server of the tests.
pub const ACCOUNTS_SWITCH: &str = "TEST_NATS_ACCOUNTS";
/// The configuration with a user for each role.
const ACCOUNTS: &str = include_str!("../../nats/accounts.conf");
/// The password of every user.
pub const PASSWORD: &str = "not-a-secret";
/// The user of the tests, who may do everything.
const TEST_USER: &str = "test";

/// The addresses of the shared servers.
#[derive(Clone, Debug)]
pub struct Servers {
    /// URL of the NATS server for clients without a role; contains the unrestricted user if there are users.
    pub nats_url: String,
    /// The settings with which a role connects, as its user if there are users.
    pub nats_of_roles: Vec<(&'static str, String)>,
    /// Endpoint of the embedded table.
    pub table_endpoint: String,
}

static SERVERS: OnceCell<Servers> = OnceCell::const_new();

/// The shared servers.
pub async fn shared() -> &'static Servers {
    SERVERS
        .get_or_init(|| async {
            let (server, _folder) = start_nats().await;
            let nats_url = nats_url(server.address);
            let mut nats_of_roles = vec![("NATS_URL", format!("nats://{}", server.address))];
            if with_accounts() {
                nats_of_roles.push(("NATS_USER", "{role}".to_owned()));
                nats_of_roles.push(("NATS_PASSWORD", PASSWORD.to_owned()));
            }
            child::keep(server.child);
            let table_endpoint = crate::dynamodb::dynoxide_endpoint().to_owned();
            Servers { nats_url, nats_of_roles, table_endpoint }
        })
        .await
}

/// Whether servers have users.
pub fn with_accounts() -> bool {
    ProcessEnv.get(ACCOUNTS_SWITCH).is_some()
}

/// The URL of a test server for clients without a role.
pub fn nats_url(address: SocketAddr) -> String {
    as_test_user(&format!("nats://{address}"))
}

/// The URL of a role, changed for clients without a role.
pub fn as_test_user(url: &str) -> String {
    match url.strip_prefix("nats://").filter(|_| with_accounts()) {
        Some(address) => format!("nats://{TEST_USER}:{PASSWORD}@{address}"),
        None => url.to_owned(),
    }
}

/// A separate connection to the server of either URL.
pub async fn nats_client(url: &str) -> async_nats::Client {
    let address = url.rsplit('@').next().expect("an address");
    let mut options = async_nats::ConnectOptions::new();
    if with_accounts() {
        options = options.user_and_password(TEST_USER.to_owned(), PASSWORD.to_owned());
    }
    options.connect(address).await.expect("NATS answers")
}

/// User and password for a configuration that does not come from an environment.
pub fn test_user() -> (Option<String>, Option<Secret>) {
    if with_accounts() { (Some(TEST_USER.to_owned()), Some(Secret::new(PASSWORD))) } else { (None, None) }
}

/// The configuration with users, with their passwords.
pub fn accounts() -> String {
    let mut text = ACCOUNTS.to_owned();
    let roles = ["INGRESS", "ALLOCATOR", "REGISTRY", "REAPER", "RECONCILER", "SCHEDULER"];
    for user in roles.into_iter().chain(["RUNNER", "SERVICE", "AUDITOR", "OPERATOR", "SYSTEM"]) {
        text = text.replace(&format!("$NATS_PASSWORD_{user}"), PASSWORD);
    }
    text
}

/// The same for many fleets on one server: each has a separate prefix, so any first token, stream and bucket is
/// permitted. The other permissions stay.
fn accounts_of_any_fleet() -> String {
    let mut text =
        accounts().replace("sandbox.", "*.").replace("$KV.broker", "$KV.*").replace("KV_broker", "*");
    for stream in ["DELETIONS", "PROVISIONS", "PARKED", "TICKS", "EVENTS"] {
        text = text.replace(&format!(".{stream}"), ".*");
    }
    text.replacen("users: [", &format!("users: [ {{ user: {TEST_USER}, password: {PASSWORD} }}"), 1)
}

/// A separate NATS server, on a free port.
pub async fn start_nats() -> (NatsServer, PathBuf) {
    start_nats_on(SocketAddr::from(([127, 0, 0, 1], 0)), None).await
}

/// A NATS server on this address, with the folder of an earlier one if given.
pub async fn start_nats_on(address: SocketAddr, folder: Option<PathBuf>) -> (NatsServer, PathBuf) {
    let binary = nats_binary().await;
    // Kept in the target folder, so that its log can explain a failure and `cargo clean` removes it.
    let folder =
        folder.unwrap_or_else(|| target_folder().join("test-nats").join(uuid::Uuid::now_v7().to_string()));
    std::fs::create_dir_all(&folder).expect("the target folder can be written");
    let server = if with_accounts() {
        NatsServer::start_with(&binary, &broker_binary(), &folder, address, &accounts_of_any_fleet()).await
    } else {
        NatsServer::start(&binary, &broker_binary(), &folder, address).await
    };
    (server.expect("nats-server starts"), folder)
}

/// The `nats-server` for tests: the one that `make test` provides, or found otherwise.
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
    built("broker")
}

/// The load tool, which must have been built.
pub fn bench_binary() -> PathBuf {
    built("bench")
}

fn built(name: &str) -> PathBuf {
    let binary = target_folder().join(name);
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
