//! Templates as containers, and the reasons against them.

use super::*;
use domain::template::{Isolation, Runtime};
use ports::engine::Unsupported;
use std::collections::{BTreeMap, BTreeSet};

fn template() -> TemplateSpec {
    TemplateSpec::of_image(NamedImage::Host)
}

fn created_from(template: &TemplateSpec) -> ContainerSpec {
    let incarnation = Incarnation::parse("0198c0de-0000-7000-8000-000000000001").unwrap();
    container_spec(
        template,
        Image::Host,
        SandboxId::parse("ctr_1").unwrap(),
        incarnation,
        template.env.clone(),
    )
}

#[test]
fn every_setting_of_a_template_reaches_its_containers() {
    let template = TemplateSpec {
        cpu_milli: 250,
        memory_mb: 128,
        tmpfs_mb: 16,
        workspace_mb: 2_048,
        pids: 64,
        ports: BTreeSet::from([80, 443]),
        env: BTreeMap::from([("LANG".to_owned(), "C".to_owned())]),
        user: 7,
        network: Network::Open,
        ..template()
    };
    let spec = created_from(&template);
    let Limits { cpu_milli, memory_bytes, pids, disk_bytes, tmp_bytes, file_bytes, files } = spec.limits;
    assert_eq!((cpu_milli, memory_bytes, pids), (250, 128 * MIB, 64));
    assert_eq!((disk_bytes, tmp_bytes, file_bytes), (2_048 * MIB, 16 * MIB, 2_048 * MIB));
    assert_eq!(files, Limits::default().files);
    assert_eq!((spec.user, spec.network, spec.env), (7, Network::Open, template.env));
    let ports: Vec<_> = spec.ports.iter().map(|port| (port.inside, port.outside)).collect();
    assert_eq!(ports, [(80, None), (443, None)]);
    assert!(spec.read_only_root);
}

#[test]
fn specs_pass_the_checks_of_every_engine() {
    assert_eq!(created_from(&template()).check(), Ok(()));
    let least = TemplateSpec {
        cpu_milli: *domain::template::CPU_MILLI.start(),
        memory_mb: *domain::template::MEMORY_MB.start(),
        tmpfs_mb: 1,
        workspace_mb: 1,
        pids: *domain::template::PIDS.start(),
        ..template()
    };
    assert_eq!(created_from(&least).check(), Ok(()));
}

#[test]
fn only_small_workspaces_are_in_memory() {
    let workspace = |workspace_mb, memory_mb| {
        created_from(&TemplateSpec { workspace_mb, memory_mb, tmpfs_mb: 16, ..template() }).workspace
    };
    assert_eq!(workspace(WORKSPACE_IN_MEMORY_MB_MAX, 512), Workspace::Memory);
    assert_eq!(workspace(WORKSPACE_IN_MEMORY_MB_MAX + 1, 512), Workspace::Disk);
    assert_eq!(workspace(64, 64), Workspace::Disk, "it would use up the memory");
}

#[test]
fn images_are_folders_or_archives_by_name() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("base/v1")).unwrap();
    std::fs::write(folder.path().join("python.tar"), b"").unwrap();
    let found = |name: &str| find_image(folder.path(), &NamedImage::named(name), Isolation::Process);
    assert_eq!(found("host"), Some(Image::Host));
    assert_eq!(found("base/v1"), Some(Image::Folder(folder.path().join("base/v1"))));
    assert_eq!(found("python"), Some(Image::Archive(folder.path().join("python.tar"))));
    assert_eq!(found("gone"), None);
    let fetched = find_image(folder.path(), &NamedImage::named("python"), Isolation::Container);
    assert_eq!(fetched, Some(Image::Reference("python".to_owned())), "the engine has images of its own");
}

#[test]
fn what_an_engine_lacks_is_a_reason() {
    let unsupported = [Feature::InternalNetwork, Feature::OpenNetwork, Feature::PublishedPorts];
    let unsupported = unsupported.map(|feature| Unsupported { feature, reason: "not here".to_owned() });
    let weak = EngineInfo {
        name: "fake",
        isolation: Isolation::Process,
        runtimes: Vec::new(),
        unsupported: unsupported.into_iter().collect(),
    };
    let able = EngineInfo { unsupported: Vec::new(), ..weak.clone() };
    assert_eq!(why_not(&template(), &weak), None);
    let open = TemplateSpec { network: Network::Open, ..template() };
    let published = TemplateSpec { ports: BTreeSet::from([80]), ..open.clone() };
    for (change, words) in [
        (TemplateSpec { network: Network::Internal, ..template() }, "internal_network"),
        (open, "open_network is not supported: not here"),
        (TemplateSpec { network: Network::None, ..published.clone() }, "published_ports"),
    ] {
        assert!(why_not(&change, &weak).is_some_and(|reason| reason.contains(words)), "{words}");
        assert_eq!(why_not(&change, &able), None, "{words}");
    }
    for (change, words) in [
        (TemplateSpec { isolation: Isolation::Container, ..template() }, "isolation `container`"),
        (TemplateSpec { runtime: Some(Runtime::Kata), ..template() }, "runtime `kata`"),
        (TemplateSpec { is_untrusted: true, ..template() }, "untrusted"),
        (TemplateSpec { has_supervisor: false, ..template() }, "supervisor"),
        (TemplateSpec { workspace: "/home".to_owned(), ..template() }, "workspace"),
        (TemplateSpec { readiness: Readiness::Tcp { port: 81 }, ..published }, "port 81"),
    ] {
        assert!(why_not(&change, &able).is_some_and(|reason| reason.contains(words)), "{words}");
    }
}

#[test]
fn an_engine_for_containers_has_runtimes_and_leaves_out_the_supervisor() {
    let runtimes = vec![Runtime::Runc, Runtime::Runsc];
    let (isolation, unsupported) = (Isolation::Container, Vec::new());
    let engine = EngineInfo { name: "docker", isolation, runtimes, unsupported };
    let container = |change: fn(&mut TemplateSpec)| {
        let mut template = TemplateSpec { isolation, ..template() };
        change(&mut template);
        why_not(&template, &engine)
    };
    assert_eq!(container(|_| {}), None);
    assert_eq!(container(|template| template.has_supervisor = false), None);
    let own_kernel = |template: &mut TemplateSpec| template.runtime = Some(Runtime::Runsc);
    assert!(container(own_kernel).unwrap().contains("set supervisor to false"));
    let untrusted = |runtime| {
        let has_supervisor = false;
        TemplateSpec { isolation, runtime, is_untrusted: true, has_supervisor, ..template() }
    };
    assert_eq!(why_not(&untrusted(Some(Runtime::Runsc)), &engine), None);
    for weak in [None, Some(Runtime::Runc)] {
        let reason = why_not(&untrusted(weak), &engine).unwrap();
        assert!(reason.contains("untrusted"), "{reason}");
    }
    assert!(why_not(&untrusted(Some(Runtime::Kata)), &engine).unwrap().contains("no runtime `kata`"));
}
