//! A hundred containers, as many at a time as a busy node makes, leave nothing behind.

#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]

#[expect(dead_code, reason = "the other tests need more of it")]
#[path = "engine/machine.rs"]
mod machine;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use machine::{Machine, TIMEOUT, client};
use ports::engine::Network;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Instant;
use testkit::engine::suite::{Failure, Subject as _, assert_nothing_left, remove_all};

/// Containers.
const CONTAINERS: usize = 100;
/// Creations, runs and removals at the same time.
const AT_ONCE: usize = 8;
/// Every so many have a network.
const WITH_NETWORK: usize = 10;
/// Where control groups are, below the folders of controllers.
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

/// What the engine says about new containers.
struct Announced(Child);

// === impl Announced ===

impl Announced {
    /// Those of a machine from now on.
    fn of(machine: &Machine) -> Self {
        let since = machine.engine_time();
        let mut client = client(&machine.config().socket);
        client.args(["events", "--since", &since, "--format", "{{.ID}}"]);
        client.args(["--filter", "event=create", "--filter", &machine.filter()]);
        Self(client.stdout(Stdio::piped()).spawn().unwrap())
    }

    /// The ids of so many containers, all of which were created.
    fn ids(&mut self, count: usize) -> Vec<String> {
        let lines = BufReader::new(self.0.stdout.take().unwrap()).lines();
        lines.take(count).collect::<Result<_, _>>().unwrap()
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Control groups and processes of these containers.
fn left(ids: &[String]) -> Vec<String> {
    let controllers = fs::read_dir(CONTROL_GROUPS).unwrap().flatten().map(|entry| entry.path());
    let folders =
        controllers.flat_map(|controller| ids.iter().map(move |id| controller.join("docker").join(id)));
    let folders = folders.filter(|folder| folder.exists()).map(|folder| folder.display().to_string());
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let names = |process: &PathBuf| {
        let text =
            |file| String::from_utf8_lossy(&fs::read(process.join(file)).unwrap_or_default()).into_owned();
        let (line, groups) = (text("cmdline"), text("cgroup"));
        ids.iter().any(|id| line.contains(id.as_str()) || groups.contains(id.as_str()))
    };
    let processes = processes.filter(names).map(|process| process.display().to_string());
    folders.chain(processes).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_containers_leave_nothing() -> Result<(), Failure> {
    let machine = Machine::new().await;
    let mut announced = Announced::of(&machine);
    let began = Instant::now();
    let lives = (0..CONTAINERS).map(|number| {
        let machine = &machine;
        async move {
            let has_network = number.is_multiple_of(WITH_NETWORK);
            let network = if has_network { Network::Open } else { Network::None };
            let id = machine.create(|spec| spec.network = network).await?;
            machine.engine().attach_network(&id).await?;
            machine.text(&id, "true").await?;
            Ok::<_, Failure>(machine.engine().remove(&id).await?)
        }
    });
    stream::iter(lives).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    println!("{CONTAINERS} containers in {:.1?}", began.elapsed());
    remove_all(&machine).await?;
    let ids = announced.ids(CONTAINERS);
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let left = left(&ids);
        if left.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "left behind: {left:#?}");
        tokio::task::yield_now().await;
    }
    assert_nothing_left(&machine).await;
    Ok(())
}
