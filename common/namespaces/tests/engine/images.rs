//! Images in folders and archives.

use crate::machine::Machine;
use ports::engine::{EngineError, Image};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use testkit::engine::suite::Failure;

/// A folder with a shell, what it needs, and a file.
fn image(machine: &Machine) -> PathBuf {
    let folder = machine.folder().join("image");
    fs::create_dir_all(folder.join("etc")).unwrap();
    fs::write(folder.join("etc/os-release"), "ID=tiny\n").unwrap();
    fs::create_dir_all(folder.join("proc/of-the-image")).unwrap();
    let copy = "set -e; cd \"$1\"; cp --parents -L /bin/dash $(ldd /bin/dash | grep -o '/[^ ]*') .; ln -s dash bin/sh; \
                cp --parents -L /bin/cat /bin/ls /bin/touch $(ldd /bin/cat /bin/ls /bin/touch | grep -o '/[^ :]*lib[^ :]*') .";
    let copied = Command::new("bash").args(["-c", copy, "bash"]).arg(&folder).status().unwrap();
    assert!(copied.success());
    folder
}

fn archive(folder: &Path) -> PathBuf {
    let path = folder.with_extension("tar.gz");
    let made = Command::new("tar").arg("-czf").arg(&path).arg("-C").arg(folder).arg(".").status().unwrap();
    assert!(made.success());
    path
}

#[tokio::test]
async fn image_is_the_root_folder() -> Result<(), Failure> {
    let machine = Machine::new();
    let folder = image(&machine);
    for image in [Image::Folder(folder.clone()), Image::Archive(archive(&folder))] {
        let id = machine.create(|spec| spec.image = image).await?;
        assert_eq!(machine.text(&id, "cat /etc/os-release").await?, "ID=tiny");
        machine.text(&id, "! test -e /usr/bin/perl && ! test -e /proc/of-the-image").await?;
        machine.text(&id, "touch /workspace/x /tmp/x && ! touch /etc/x && ! touch /x").await?;
    }
    Ok(())
}

#[tokio::test]
async fn writable_root_is_of_one_sandbox() -> Result<(), Failure> {
    let machine = Machine::new();
    let folder = image(&machine);
    let change = |spec: &mut ports::engine::ContainerSpec| {
        spec.image = Image::Folder(folder.clone());
        (spec.read_only_root, spec.user) = (false, 0);
    };
    let (id, other) = (machine.create(change).await?, machine.create(change).await?);
    machine.text(&id, "echo changed >/etc/os-release").await?;
    assert_eq!(machine.text(&id, "cat /etc/os-release").await?, "changed");
    assert_eq!(machine.text(&other, "cat /etc/os-release").await?, "ID=tiny");
    assert_eq!(fs::read_to_string(folder.join("etc/os-release"))?, "ID=tiny\n");
    Ok(())
}

#[tokio::test]
async fn image_that_cannot_be_used_is_refused() -> Result<(), Failure> {
    let machine = Machine::new();
    let file = machine.folder().join("file");
    fs::write(&file, "no archive")?;
    for image in [Image::Folder(file.clone()), Image::Archive(file), Image::Archive("/nonexistent".into())] {
        let error = machine.create(|spec| spec.image = image).await.unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(EngineError::Refused { .. })), "{error:?}");
    }
    let empty = machine.folder().join("empty");
    fs::create_dir(&empty)?;
    // The supervisor needs nothing of an image.
    let id = machine.create(|spec| spec.image = Image::Folder(empty)).await?;
    let outcome = machine.sh(&id, "true").await?;
    assert!(matches!(outcome.ended.end, supervisor::End::FailedToStart(_)), "{outcome:?}");
    Ok(())
}
