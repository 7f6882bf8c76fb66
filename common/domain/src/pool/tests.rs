use super::*;
use crate::image_policy::AllowedImages;

const HOUR: Duration = Duration::from_secs(3_600);
const LEASES: LeasePolicy = LeasePolicy {
    duration: HOUR,
    duration_max: HOUR.saturating_mul(4),
    total_max: HOUR.saturating_mul(8),
    grace: HOUR,
};

fn pools(text: &str) -> Pools {
    Pools::new(Pools::parse(text).unwrap(), LEASES)
}

fn spec(text: &str) -> PoolSpec {
    Pools::parse(text).unwrap().remove(0)
}

#[test]
fn longest_prefix_wins_and_the_pool_without_one_is_the_default() {
    let pools = pools("dns=lab-dns-,labs=lab-,main");
    let pool_of = |name: &str| {
        let name = SandboxName::parse(name).unwrap();
        pools.pool_of(&ProviderName::csp(), &name).unwrap().name.to_string()
    };
    assert_eq!(pool_of("lab-dns-1"), "dns");
    assert_eq!(pool_of("lab-1"), "labs");
    assert_eq!(pool_of("other"), "main");
    assert_eq!(pools.default_pool().unwrap().as_str(), "main");
    let other = ProviderName::parse("csp-eu").unwrap();
    assert_eq!(pools.pool_of(&other, &SandboxName::parse("lab-1").unwrap()), None, "of another provider");
}

#[test]
fn unreachable_repeated_and_missing_pools_are_refused() {
    for bad in ["", "a=x", "a,b", "a=x,a", "a=x,b=y", "a b", "a=x,b=x,c"] {
        assert!(Pools::parse(bad).is_err(), "{bad}");
    }
    let refused = Pools::parse("aws=lab-aws,gov=lab-aws-gov,main").unwrap_err();
    assert!(refused.contains("nothing can reach gov") && refused.contains("put gov before aws"), "{refused}");
}

#[test]
fn pool_overrides_parts_of_the_lease_policy() {
    let own = LeaseOverrides { duration: Some(6 * HOUR), ..LeaseOverrides::default() };
    let LeasePolicy { duration, duration_max, total_max, grace } = own.over(&LEASES);
    assert_eq!((duration, duration_max, total_max, grace), (6 * HOUR, 6 * HOUR, 8 * HOUR, HOUR));
    let short = LeaseOverrides { duration_max: Some(HOUR / 2), ..LeaseOverrides::default() };
    assert_eq!(short.over(&LEASES).duration, HOUR / 2, "no lease is longer than the maximum");
    let total = LeaseOverrides { total_max: Some(HOUR / 2), ..LeaseOverrides::default() };
    let LeasePolicy { duration, duration_max, total_max, grace: _ } = total.over(&LEASES);
    assert_eq!((duration, duration_max, total_max), (HOUR / 2, HOUR / 2, HOUR / 2), "the total limits all");
    assert_eq!(LeaseOverrides::default().over(&LEASES), LEASES);
}

#[test]
fn contradictions_are_refused_with_their_field() {
    let with = |change: fn(&mut PoolSpec)| {
        let mut spec = spec("main");
        change(&mut spec);
        spec.check().map_err(|error| error.field)
    };
    assert_eq!(with(|_| {}), Ok(()));
    assert_eq!(with(|spec| spec.leases.duration = Some(Duration::ZERO)), Err("lease.duration_minutes"));
    assert_eq!(
        with(|spec| {
            spec.leases.duration = Some(2 * HOUR);
            spec.leases.duration_max = Some(HOUR);
        }),
        Err("lease.duration_minutes")
    );
    assert_eq!(
        with(|spec| {
            spec.leases.duration_max = Some(2 * HOUR);
            spec.leases.total_max = Some(HOUR);
        }),
        Err("lease.total_minutes_max")
    );
    assert_eq!(with(|spec| spec.leases.idle = Some(HOUR)), Err("lease.idle_minutes"));
    assert_eq!(with(|spec| spec.template = Some("python".to_owned())), Err("template"));
    assert_eq!(with(|spec| spec.warm = Some(WarmSizes { min: 2, max: 1 })), Err("warm"));
    assert_eq!(with(|spec| spec.deletions_in_flight_max = Some(0)), Err("deletions_in_flight_max"));
    assert_eq!(with(|spec| spec.sync_period = Some(SYNC_PERIOD_MIN)), Ok(()));
    for period in [SYNC_PERIOD_MIN / 2, 2 * SYNC_PERIOD_MAX] {
        let mut spec = spec("main");
        spec.sync_period = Some(period);
        assert_eq!(spec.check().map_err(|error| error.field), Err("sync_seconds"));
    }
}

#[test]
fn shortest_period_of_a_provider_counts() {
    let seconds = Duration::from_secs;
    let mut specs = Pools::parse("labs=lab-,tens=ten-,main").unwrap();
    specs[0].sync_period = Some(seconds(120));
    specs[2].sync_period = Some(seconds(60));
    let europe = ProviderName::parse("csp-eu").unwrap();
    specs.push(PoolSpec::of_accounts(PoolName::parse("eu").unwrap(), europe, None));
    let pools = Pools::new(specs, LEASES);
    assert_eq!(pools.sync_periods(), BTreeMap::from([(&ProviderName::csp(), seconds(60))]));
}

#[test]
fn two_pools_of_one_provider_never_select_the_same() {
    let pools = pools("labs=lab-,main");
    let twin = |name: &str, prefix: Option<&str>, provider: &str| {
        let prefix = prefix.map(|prefix| NamePrefix::parse(prefix).unwrap());
        let provider = ProviderName::parse(provider).unwrap();
        pools.check_beside(&PoolSpec::of_accounts(PoolName::parse(name).unwrap(), provider, prefix))
    };
    assert!(twin("other", Some("lab-"), "csp").is_err());
    assert!(twin("other", None, "csp").is_err());
    assert!(twin("main", None, "csp").is_ok(), "it is that pool");
    assert!(twin("other", None, "csp-eu").is_ok());
    assert!(twin("other", Some("lab-dns-"), "csp").is_ok());
}

const NAMED: &str = "registry.example.com/team/app:1";

/// A pool of containers with rules for its template.
fn restricted(change: impl FnOnce(&mut PoolSpec)) -> PoolSpec {
    let mut spec = PoolSpec {
        kind: PoolKind::Container,
        template: Some("app".to_owned()),
        ..PoolSpec::of_accounts(PoolName::parse("apps").unwrap(), ProviderName::nodes(), None)
    };
    change(&mut spec);
    spec
}

fn template(image: &str, runtime: Option<Runtime>) -> TemplateSpec {
    let isolation =
        if runtime.is_some() || image == NAMED { Isolation::Container } else { Isolation::Process };
    TemplateSpec { isolation, runtime, ..TemplateSpec::of_image(Image::named(image)) }
}

fn images(entries: &[&str]) -> ImagePolicy {
    let allowed = entries.iter().map(|entry| AllowedImages::parse(entry).unwrap()).collect();
    ImagePolicy { allowed, is_digest_required: false }
}

#[test]
fn pool_without_rules_takes_templates_as_they_are() {
    let spec = restricted(|_| {});
    assert!(!spec.restricts_templates());
    for template in [template("host", None), template("folder", None), template(NAMED, Some(Runtime::Runc))] {
        assert_eq!(spec.restrict(&template), Ok(template));
    }
}

#[test]
fn runtime_and_trust_of_pool_and_template_are_merged() {
    use Runtime::{Kata, Runc, Runsc};
    for (own, is_untrusted, other, expected) in [
        (Some(Runsc), false, None, Ok((Some(Runsc), false))),
        (Some(Runsc), false, Some(Runsc), Ok((Some(Runsc), false))),
        (Some(Runsc), false, Some(Runc), Err("runtime")),
        (Some(Runc), false, Some(Kata), Err("runtime")),
        (Some(Runc), false, None, Ok((Some(Runc), false))),
        (Some(Kata), true, None, Ok((Some(Kata), true))),
        (None, true, Some(Kata), Ok((Some(Kata), true))),
        (None, true, Some(Runc), Err("untrusted")),
        (None, true, None, Err("untrusted")),
    ] {
        let spec = restricted(|spec| (spec.runtime, spec.is_untrusted) = (own, is_untrusted));
        let result = spec.restrict(&template(NAMED, other));
        let merged = result.map(|spec| (spec.runtime, spec.is_untrusted)).map_err(|mistake| mistake.field);
        assert_eq!(merged, expected, "{own:?} {is_untrusted} {other:?}");
    }
    let untrusted = TemplateSpec { is_untrusted: true, ..template(NAMED, None) };
    let runtime = |own| restricted(|spec| spec.runtime = Some(own)).restrict(&untrusted);
    assert!(runtime(Runsc).is_ok_and(|spec| spec.is_untrusted), "the template says so");
    assert_eq!(runtime(Runc).map_err(|mistake| mistake.field), Err("untrusted"));
    for plain in [template("host", None), template("folder", None)] {
        let field = |change: fn(&mut PoolSpec)| restricted(change).restrict(&plain).unwrap_err().field;
        assert_eq!(field(|spec| spec.is_untrusted = true), "untrusted");
        assert_eq!(field(|spec| spec.runtime = Some(Runc)), "runtime", "plain namespaces have none");
        assert_eq!(field(|spec| (spec.runtime, spec.is_untrusted) = (Some(Kata), true)), "runtime");
    }
}

#[test]
fn restricted_images_come_from_a_registry_and_have_their_whole_name() {
    let spec = restricted(|spec| spec.images = images(&["docker.io/library", "registry.example.com"]));
    let image = |name: &str| {
        let template = TemplateSpec { isolation: Isolation::Container, ..template(name, None) };
        spec.restrict(&template).map(|spec| spec.image.as_str().to_owned())
    };
    assert_eq!(image("nginx").as_deref(), Ok("docker.io/library/nginx:latest"));
    assert_eq!(image(NAMED).as_deref(), Ok(NAMED));
    for name in ["user/app", "registry.example.com.evil.org/x", "Nginx", "host"] {
        assert_eq!(image(name).unwrap_err().field, "image", "{name}");
    }
    for name in ["host", "nginx", "registry.example.com/x"] {
        let mistake = spec.restrict(&template(name, None)).unwrap_err();
        assert!(mistake.to_string().contains("isolation `container`"), "a folder of a node: {mistake}");
    }
    // The whole name is longer than any image may be.
    assert_eq!(image(&"a".repeat(crate::template::PATH_BYTES_MAX)).unwrap_err().field, "image");
    let pinned = restricted(|spec| spec.images.is_digest_required = true);
    assert_eq!(pinned.restrict(&template(NAMED, None)).unwrap_err().field, "image");
}

#[test]
fn rules_for_templates_belong_to_containers() {
    let field = |change: fn(&mut PoolSpec)| {
        let of = |mut spec: PoolSpec| {
            change(&mut spec);
            spec.check().err().map(|error| error.field)
        };
        (of(spec("main")), of(restricted(|_| {})))
    };
    assert_eq!(field(|spec| spec.images.is_digest_required = true), (Some("images"), None));
    assert_eq!(field(|spec| spec.runtime = Some(Runtime::Runc)), (Some("runtime"), None));
    assert_eq!(field(|spec| spec.is_untrusted = true), (Some("untrusted"), None));
    let untrusted = restricted(|spec| (spec.runtime, spec.is_untrusted) = (Some(Runtime::Runc), true));
    assert_eq!(untrusted.check().map_err(|error| error.field), Err("runtime"));
    let entries = vec!["a.b"; crate::image_policy::IMAGES_ALLOWED_MAX + 1];
    let many = restricted(|spec| spec.images = images(&entries));
    assert_eq!(many.check().map_err(|error| error.field), Err("images.allowed"));
}
