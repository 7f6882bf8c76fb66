//! Amazon's DynamoDB Local, if it is installed: a second DynamoDB engine for the tests.
//!
//! It is expected in `.tools/dynamodb-local` at the workspace root (`make tools` installs it) or in the directory
//! `DYNAMODB_LOCAL_DIR`. Without it the tests report that they are skipped; if `CI` is `true` they fail.

use crate::wait;
use runtime::settings::{Env, ProcessEnv};
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc;
use std::time::Duration;

const JAR: &str = "DynamoDBLocal.jar";
const LIBRARIES: &str = "DynamoDBLocal_lib";
/// Directories between that directory and the jar; the npm package has five.
const DEPTH_MAX: usize = 7;
/// On a busy machine a JVM needs some seconds until it listens.
const START_MAX: Duration = Duration::from_secs(60);
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// Attempts, in case another process takes the chosen port.
const STARTS_MAX: usize = 3;
/// Kills the JVM when our end of the pipe closes, which happens however this process ends.
const WATCH: &str = r#""$@" & child=$!; cat >/dev/null; kill -9 $child"#;

/// The address of the engine, started at the first call; none if it is not installed.
///
/// # Panics
/// If it is installed and does not start, or is not installed although `CI` is `true`.
pub fn endpoint() -> Option<&'static str> {
    static ENDPOINT: OnceLock<Option<String>> = OnceLock::new();
    ENDPOINT.get_or_init(start).as_deref()
}

/// As [`endpoint`], an engine for tests that change indexes. Each table with time to live takes one of its ten threads for
/// ever, and without a free thread an index stays CREATING.
///
/// # Panics
/// As [`endpoint`].
pub fn endpoint_for_indexes() -> Option<&'static str> {
    static ENDPOINT: OnceLock<Option<String>> = OnceLock::new();
    ENDPOINT.get_or_init(start).as_deref()
}

/// As [`endpoint`], a new engine for one test. It runs as long as this process.
///
/// # Panics
/// As [`endpoint`].
pub fn fresh_endpoint() -> Option<&'static str> {
    start().map(|endpoint| &*endpoint.leak())
}

fn start() -> Option<String> {
    let place = ProcessEnv.get("DYNAMODB_LOCAL_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/dynamodb-local"),
        PathBuf::from,
    );
    let missing = match find_jar(&place, DEPTH_MAX) {
        None => format!("no {JAR} below {}", place.display()),
        Some(_) if !runs("java", &["-version"]) => "no java to run it with".to_owned(),
        Some(jar) => return Some(serve(jar)),
    };
    assert!(ProcessEnv.get("CI").as_deref() != Some("true"), "DynamoDB Local is missing: {missing}");
    // Not `eprintln!`, which the test runner hides as long as the test passes.
    let _ = writeln!(std::io::stderr(), "LEFT OUT: the tests on DynamoDB Local ({missing}; `make tools`)");
    None
}

fn find_jar(place: &Path, depth: usize) -> Option<PathBuf> {
    let jar = place.join(JAR);
    if jar.is_file() {
        return Some(jar);
    }
    let below = depth.checked_sub(1)?;
    let entries = std::fs::read_dir(place).ok()?;
    entries.flatten().filter(|entry| entry.path().is_dir()).find_map(|entry| find_jar(&entry.path(), below))
}

fn runs(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Starts the engine from a thread that lives as long as this process: the kernel's death signal is bound to the thread
/// that started the child, not to the process.
fn serve(jar: PathBuf) -> String {
    let (started, wait) = mpsc::channel();
    let keep = move || {
        let engine = (0..STARTS_MAX).find_map(|_| start_once(&jar));
        let _ = started.send(engine.as_ref().map(|(endpoint, _)| endpoint.clone()));
        while engine.is_some() {
            std::thread::park();
        }
    };
    std::thread::Builder::new().name("dynamodb-local".to_owned()).spawn(keep).expect("no thread");
    let endpoint = wait.recv().expect("the thread answers before it parks");
    endpoint.expect("DynamoDB Local is there and does not start")
}

fn start_once(jar: &Path) -> Option<(String, Child)> {
    let address = free_address();
    let mut child = command(jar, address.port()).spawn().expect("the engine cannot be started");
    let listens = wait::until(START_MAX, || {
        if TcpStream::connect_timeout(&address, CONNECT_MAX).is_ok() {
            return Some(true);
        }
        child.try_wait().is_ok_and(|ended| ended.is_some()).then_some(false)
    });
    if listens == Some(true) {
        return Some((format!("http://{address}"), child));
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("no port on the loopback interface");
    listener.local_addr().expect("the listener has no address")
}

fn command(jar: &Path, port: u16) -> Command {
    let mut command = if runs("setpriv", &["--pdeathsig", "KILL", "true"]) {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).stdin(Stdio::null());
        command
    } else {
        let mut command = Command::new("sh");
        command.args(["-c", WATCH, "sh"]).stdin(Stdio::piped());
        command
    };
    let libraries = jar.with_file_name(LIBRARIES);
    command
        // Settings for a short life on few cores: little heap, no second compiler.
        .args(["java", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
        .arg(format!("-Djava.library.path={}", libraries.display()))
        .arg("-jar")
        .arg(jar)
        .args(["-inMemory", "-sharedDb", "-disableTelemetry", "-port"])
        .arg(port.to_string())
        .stdout(Stdio::null());
    command
}
