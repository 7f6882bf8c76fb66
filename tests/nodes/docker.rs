//! The same nodes on Docker, if `tests/harness/with_docker.py` runs the tests: what its engine has for a node.

use crate::node::{Inside, Stored};
use runtime::settings::{Env as _, ProcessEnv};
use std::path::Path;
use std::process::Command;

/// Debian's client; another one on the PATH may be newer than the engine.
const CLIENT: &str = "/usr/bin/docker";

/// The socket of the engine; none if nodes run on namespaces.
pub(crate) fn socket() -> Option<String> {
    ProcessEnv.get("TEST_DOCKER_SOCKET")
}

/// What the client prints; it fails if there is no such container any more.
fn client(arguments: &[&str]) -> Option<String> {
    socket()?;
    let output = Command::new(CLIENT).args(arguments).output().expect("the client of Docker");
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn listed(state: &Path, format: &str) -> Vec<String> {
    let label = format!("label=sandbox-broker.runner={}", state.display());
    let text = client(&["ps", "--all", "--no-trunc", "--filter", &label, "--format", format]);
    text.unwrap_or_default().lines().map(str::to_owned).collect()
}

/// The containers of the runner with that state folder.
pub(crate) fn containers(state: &Path) -> Vec<Stored> {
    let lines =
        listed(state, r#"{{.Label "sandbox-broker.sandbox"}} {{.Label "sandbox-broker.incarnation"}}"#);
    let stored = lines.iter().filter_map(|line| line.split_once(' '));
    stored
        .map(|(sandbox, incarnation)| Stored {
            sandbox: sandbox.to_owned(),
            incarnation: incarnation.to_owned(),
        })
        .collect()
}

/// The processes of a container.
pub(crate) fn inside(incarnation: &str) -> Inside {
    let name = format!("sandbox-{incarnation}");
    let text = client(&["inspect", "--format", "{{.Id}} {{.State.Pid}}", &name]).expect("a container");
    let (id, pid) = text.split_once(' ').expect("its id and its process");
    Inside { group: id.to_owned(), first: pid.parse().expect("a number") }
}

/// Removes what a failed test has left.
pub(crate) fn remove_all(state: &Path) {
    for id in listed(state, "{{.ID}}") {
        client(&["rm", "--force", "--volumes", &id]);
    }
}
