use super::*;
use crate::options::{ENV_BYTES_MAX, ENV_MAX};

/// The field that a changed spec is refused for.
fn field(change: impl FnOnce(&mut TemplateSpec)) -> Option<&'static str> {
    let mut spec = TemplateSpec::of_image(Image::Host);
    change(&mut spec);
    spec.check().err().map(|mistake| mistake.field)
}

fn words(count: usize) -> Vec<String> {
    vec!["a".to_owned(); count]
}

fn env(variables: impl IntoIterator<Item = (String, String)>) -> BTreeMap<String, String> {
    variables.into_iter().collect()
}

#[test]
fn defaults_are_valid() {
    assert_eq!(field(|_| {}), None);
    assert_eq!(field(|spec| spec.image = Image::named("python/3.12.tar")), None);
}

#[test]
fn numbers_are_bounded_on_both_sides() {
    assert_eq!(field(|spec| spec.cpu_milli = 99), Some("cpu_milli"));
    assert_eq!(field(|spec| spec.cpu_milli = 8_001), Some("cpu_milli"));
    assert_eq!(field(|spec| spec.cpu_milli = 8_000), None);
    assert_eq!(field(|spec| spec.memory_mb = 63), Some("memory_mb"));
    assert_eq!(field(|spec| spec.memory_mb = 16_385), Some("memory_mb"));
    assert_eq!(field(|spec| spec.memory_mb = 64), None);
    assert_eq!(field(|spec| spec.tmpfs_mb = 0), Some("tmpfs_mb"));
    assert_eq!(field(|spec| spec.tmpfs_mb = 513), Some("tmpfs_mb"), "more than the memory");
    assert_eq!(field(|spec| spec.workspace_mb = 0), Some("workspace_mb"));
    assert_eq!(field(|spec| spec.workspace_mb = 102_401), Some("workspace_mb"));
    assert_eq!(field(|spec| spec.pids = 7), Some("pids"));
    assert_eq!(field(|spec| spec.pids = 32_769), Some("pids"));
    assert_eq!(field(|spec| spec.user = u32::MAX), Some("user"));
    assert_eq!(field(|spec| spec.user = 0), None);
    assert_eq!(field(|spec| spec.ready_within = Duration::ZERO), Some("readiness.timeout_seconds"));
    assert_eq!(field(|spec| spec.ready_within = Duration::from_secs(601)), Some("readiness.timeout_seconds"));
}

#[test]
fn other_kinds_are_refused_with_a_reason() {
    for (kind, reason) in [(PoolKind::Stack, "stacks yet"), (PoolKind::Account, "listed")] {
        let spec = TemplateSpec { kind, ..TemplateSpec::of_image(Image::Host) };
        let mistake = spec.check().unwrap_err();
        assert_eq!(mistake.field, "kind");
        assert!(mistake.problem.contains(reason), "{mistake}");
    }
}

#[test]
fn paths_and_images_lead_nowhere_else() {
    for path in ["", "workspace", "/", "/a/../b", "/a//b", "/a b", "/./a"] {
        assert_eq!(field(|spec| path.clone_into(&mut spec.workspace)), Some("workspace"), "{path:?}");
    }
    for name in ["", "/etc", "../x", "a/../b", "a b", "a/", &"a".repeat(PATH_BYTES_MAX + 1)] {
        assert_eq!(field(|spec| spec.image = Image::named(name)), Some("image"), "{name:?}");
    }
}

#[test]
fn commands_and_variables_are_bounded() {
    assert_eq!(field(|spec| spec.command = words(COMMAND_PARTS_MAX)), None);
    assert_eq!(field(|spec| spec.command = words(COMMAND_PARTS_MAX + 1)), Some("command"));
    assert_eq!(field(|spec| spec.command = vec!["a".repeat(COMMAND_BYTES_MAX + 1)]), Some("command"));
    assert_eq!(field(|spec| spec.command = vec!["a\0".to_owned()]), Some("command"));
    assert_eq!(field(|spec| spec.command = vec![String::new()]), Some("command"));
    let many = |count: usize| env((0..count).map(|at| (format!("V{at}"), String::new())));
    assert_eq!(field(|spec| spec.env = many(ENV_MAX)), None);
    assert_eq!(field(|spec| spec.env = many(ENV_MAX + 1)), Some("env"));
    let large = env([("A".to_owned(), "a".repeat(ENV_BYTES_MAX))]);
    assert_eq!(field(|spec| spec.env = large), Some("env"));
    for (name, value) in [("", ""), ("1A", ""), ("A=B", ""), ("A-B", ""), ("A", "\0")] {
        let bad = env([(name.to_owned(), value.to_owned())]);
        assert_eq!(field(|spec| spec.env = bad), Some("env"), "{name:?}");
    }
}

#[test]
fn ports_are_few_and_need_no_network() {
    let with = |ports: &[u16]| field(|spec| spec.ports = ports.iter().copied().collect());
    assert_eq!(with(&[80]), None);
    assert_eq!(with(&[0]), Some("ports"));
    let many: Vec<u16> = (1..=17).collect();
    assert_eq!(with(&many), Some("ports"));
}

#[test]
fn readiness_says_what_it_looks_at() {
    let with = |readiness| field(|spec| spec.readiness = readiness);
    let http = |port, path: &str| Readiness::Http { port, path: path.to_owned() };
    assert_eq!(with(Readiness::Exec(Vec::new())), Some("readiness.command"));
    assert_eq!(with(Readiness::Exec(words(1))), None);
    assert_eq!(with(Readiness::Tcp { port: 0 }), Some("readiness.port"));
    assert_eq!(with(http(0, "/")), Some("readiness.port"));
    assert_eq!(with(http(80, "health")), Some("readiness.path"));
    assert_eq!(with(http(80, "/a b")), Some("readiness.path"));
    assert_eq!(with(http(80, "/health?x=1")), None);
}

#[test]
fn isolation_fits_image_runtime_and_trust() {
    let container = |change: fn(&mut TemplateSpec)| {
        field(|spec| {
            (spec.isolation, spec.image) = (Isolation::Container, Image::named("python:3.12"));
            change(spec);
        })
    };
    assert_eq!(container(|_| {}), None);
    assert_eq!(container(|spec| spec.image = Image::Host), Some("image"));
    assert_eq!(container(|spec| spec.is_untrusted = true), Some("untrusted"));
    assert_eq!(
        container(|spec| (spec.is_untrusted, spec.runtime) = (true, Some(Runtime::Runc))),
        Some("untrusted")
    );
    assert_eq!(container(|spec| (spec.is_untrusted, spec.runtime) = (true, Some(Runtime::Kata))), None);
    assert_eq!(container(|spec| spec.has_supervisor = false), None, "the image has a command");
    assert_eq!(field(|spec| spec.runtime = Some(Runtime::Runsc)), Some("runtime"));
    assert_eq!(field(|spec| spec.is_untrusted = true), Some("untrusted"));
    assert_eq!(field(|spec| spec.has_supervisor = false), Some("command"));
    assert_eq!(field(|spec| (spec.has_supervisor, spec.command) = (false, words(1))), None);
}

#[test]
fn head_keeps_the_start_and_numbers_go_on_after_a_removal() {
    let template = |version, at| Template {
        id: TemplateId::parse("python").unwrap(),
        version,
        created_at: UnixSeconds::new(at),
        by: Actor::nats(),
        spec: TemplateSpec::of_image(Image::Host),
    };
    let first = TemplateHead::with(None, &template(1, 10));
    let removed = TemplateHead { removed_at: Some(UnixSeconds::new(20)), ..first };
    let again = TemplateHead::with(Some(&removed), &template(2, 30));
    assert!(again.is_live() && !removed.is_live());
    assert_eq!((again.version, again.created_at.get(), again.updated_at.get()), (2, 10, 30));
}
