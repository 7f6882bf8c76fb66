//! A full disk: writers report it, no confirmed work is lost, and everything continues once there is space.

use harness::process::{Broker, Up};
use harness::wait::{TIMEOUT, eventually};
use reqwest::Method;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Mounts a separate disk over the folder `$1`, fills it if `$2` says so, and executes the rest of its arguments.
const ON_A_SMALL_DISK: &str = r#"mount -t tmpfs -o size=48m tmpfs "$1" || exit 9
    if [ "$2" = full ]; then dd if=/dev/zero of="$1/fill" bs=4k 2>/dev/null; fi
    shift 2; exec "$@""#;
/// The smallest streams, so that they fit.
const SMALL: [(&str, &str); 3] =
    [("EVENTS_BYTES_MAX", "1048576"), ("DELETIONS_PER_MINUTE", "6000"), ("NATS_CHECK_SECONDS", "1")];

/// A command that runs another one in a mount namespace in which `folder` is a small disk. The namespace and the disk
/// end with its last process.
fn on_a_small_disk<'a>(folder: &'a str, fill: &'a str) -> Vec<&'a str> {
    let mut words = vec!["unshare", "--mount"];
    // Other users need a user namespace, in which they are root.
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        words.push("--map-root-user");
    }
    words.extend(["sh", "-c", ON_A_SMALL_DISK, "sh", folder, fill]);
    words
}

/// Fills the rest of the disk.
fn fill(disk: &Path) -> PathBuf {
    let path = disk.join("fill");
    let mut file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
    while file.write_all(&[0; 4_096]).is_ok() {}
    path
}

#[tokio::test]
async fn full_disk_is_reported_and_service_resumes_with_space() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("disk");
    std::fs::create_dir(&data).unwrap();
    let wrapper = on_a_small_disk(data.to_str().unwrap(), "empty");
    let up = Up::start_within(&data, &wrapper, &["--pool", "20"], &SMALL).await;
    let held = up.api.allocate("student-0").await;
    assert_eq!(held.status, 201, "{held:?}");

    let disk = up.broker.view(&data);
    let filler = fill(&disk);
    let body = eventually("a readiness that says why", TIMEOUT, || async {
        let ready = up.api.open(Method::GET, "/readyz").await;
        let says = |check: &str, words: &str| {
            ready.body["checks"][check].as_str().is_some_and(|said| said.contains(words))
        };
        fill(&disk);
        if ready.status == 503 && says("disk", "is full") && says("store", "its disk is full") {
            Ok(ready.body)
        } else {
            Err(ready)
        }
    })
    .await;
    assert!(body["checks"]["disk"].as_str().unwrap().contains(data.to_str().unwrap()), "{body}");
    let refused = up.api.allocate("student-1").await;
    assert_eq!((refused.status, refused.code()), (503, "STORE_UNAVAILABLE"), "{refused:?}");
    assert!(refused.body["detail"]["message"].as_str().unwrap().contains("takes no writes"), "{refused:?}");
    let seen = up.api.get(held.sandbox(), "student-0").await;
    assert_eq!(seen.status, 200, "what was promised is still there: {seen:?}");

    std::fs::remove_file(filler).unwrap();
    eventually("readiness", TIMEOUT, || async {
        let ready = up.api.open(Method::GET, "/readyz").await;
        if ready.status == 200 { Ok(()) } else { Err(ready) }
    })
    .await;
    let claimed = up.api.allocate("student-1").await;
    assert_eq!(claimed.status, 201, "the refused claim had written nothing: {claimed:?}");
    // Deletions and events use the streams of NATS.
    for (owner, id) in [("student-0", held.sandbox()), ("student-1", claimed.sandbox())] {
        assert_eq!(up.api.release(id, owner).await.status, 200);
        eventually("the deletion and its events", TIMEOUT, || async {
            let events = up.api.events_of(id).await;
            if events.contains("sandbox.deleted") { Ok(()) } else { Err(events) }
        })
        .await;
    }
    assert_eq!(up.broker.stop(TIMEOUT).await, Some(0), "{}", up.broker.output());
}

#[tokio::test]
async fn start_on_a_full_disk_names_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("disk");
    std::fs::create_dir(&data).unwrap();
    let text = data.to_str().unwrap();
    let arguments = [&Up::ARGUMENTS[..], &["--data", text]].concat();
    let wrapper = on_a_small_disk(text, "full");
    let broker = Broker::start_within(folder.path(), &wrapper, &arguments, &SMALL).await;
    let ended = tokio::time::timeout(TIMEOUT, broker.child.ended()).await.expect("it ends by itself");
    assert_eq!(ended.and_then(|status| status.code()), Some(1), "{}", broker.output());
    let said = broker.output();
    assert!(said.contains(&format!("the disk of {text} is full")), "{said}");
}
