//! The same engine for a user who is not root: these tests run again in a process of their own.

use crate::machine::Machine;
use ports::engine::{EngineError, Feature, Workspace};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use testkit::engine::suite::{Failure, Subject as _};

/// A user without rights, and its group.
const USER: &str = "65534";
/// What does not depend on root or on control groups.
const FOR_EVERY_USER: [&str; 8] = [
    "containers_are_created_listed_and_removed",
    "two_incarnations_of_a_sandbox_are_separate",
    "dead_containers_are_exited",
    "a_removal_ends_a_creation",
    "isolation::files_of_the_machine_are_hidden",
    "isolation::workspaces_of_others_are_hidden",
    "isolation::network_is_only_loopback",
    "users::what_needs_root_is_reported",
];

#[test]
fn another_user_gets_the_same_isolation() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let program = folder.path().join("tests");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid", USER, "--regid", USER, "--clear-groups", "--"])
        .arg(program)
        .args(["--exact"])
        .args(FOR_EVERY_USER)
        .current_dir("/")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let all = format!("{} passed; 0 failed", FOR_EVERY_USER.len());
    assert!(output.status.success() && text.contains(&all), "{text}");
}

#[tokio::test]
async fn what_needs_root_is_reported() -> Result<(), Failure> {
    let machine = Machine::new();
    let info = machine.engine().info();
    let is_root = rustix::process::geteuid().is_root();
    for feature in [Feature::OtherUsers, Feature::WritableRoot] {
        assert_eq!(info.why_not(feature).is_none(), is_root, "{info:?}");
    }
    let id = machine.create(|spec| spec.workspace = Workspace::Memory).await?;
    machine.engine().stop(&id).await?;
    let started = machine.engine().start(&id).await;
    assert_eq!(matches!(started, Err(EngineError::Refused { .. })), !is_root, "{started:?}");
    Ok(())
}
