use super::*;

const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn whole(name: &str) -> Result<String, &'static str> {
    ImageReference::parse(name).map(|image| image.to_string())
}

fn policy(entries: &[&str]) -> ImagePolicy {
    let allowed = entries.iter().map(|entry| AllowedImages::parse(entry).unwrap()).collect();
    ImagePolicy { allowed, is_digest_required: false }
}

#[test]
fn short_names_are_completed_as_docker_does() {
    for (name, expected) in [
        ("nginx", "docker.io/library/nginx:latest"),
        ("nginx:1.27", "docker.io/library/nginx:1.27"),
        ("nginx:V1_a.b-c", "docker.io/library/nginx:V1_a.b-c"),
        ("user/app", "docker.io/user/app:latest"),
        ("user/a/b", "docker.io/user/a/b:latest"),
        ("docker.io/nginx", "docker.io/library/nginx:latest"),
        ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
        ("index.docker.io/user/app", "docker.io/user/app:latest"),
        ("localhost/x", "localhost/x:latest"),
        ("localhost:5000/x", "localhost:5000/x:latest"),
        ("localhost:5000/x:1", "localhost:5000/x:1"),
        ("localhost:5000", "docker.io/library/localhost:5000"),
        ("registry.example.com/team/app:2", "registry.example.com/team/app:2"),
        ("10.0.0.1:443/a__b/c--d", "10.0.0.1:443/a__b/c--d:latest"),
        ("nginx:1/x", "nginx:1/x:latest"),
        // A word without dot and port is no registry.
        ("registry/app", "docker.io/registry/app:latest"),
    ] {
        assert_eq!(whole(name).as_deref(), Ok(expected), "{name}");
    }
    let digest = format!("docker.io/library/nginx@sha256:{HEX}");
    assert_eq!(whole(&format!("nginx@sha256:{HEX}")), Ok(digest.clone()));
    assert_eq!(whole(&format!("nginx:1.27@sha256:{HEX}")), Ok(digest), "the digest decides");
}

#[test]
fn what_no_registry_can_have_is_refused() {
    let upper = HEX.to_uppercase();
    for name in [
        "",
        "/",
        "/nginx",
        "nginx/",
        "a//b",
        "Nginx",
        "User/app",
        "Registry.example.com/app",
        "registry.example.com/App",
        "nginx:",
        "nginx:-1",
        "nginx:a b",
        "nginx:a:b",
        "nginx@1.27",
        "nginx@",
        "nginx@latest@sha256:1",
        "@sha256:1",
        ":latest",
        "nginx@sha256:0123",
        &format!("nginx@sha256:{upper}"),
        &format!("nginx@sha256:{HEX}0"),
        &format!("nginx@sha512:{HEX}"),
        &format!("nginx@sha256:{HEX}:1"),
        &format!("nginx@sha256:{HEX}@sha256:{HEX}"),
        &format!("nginx:@sha256:{HEX}"),
        "registry.example.com:/x",
        "registry.example.com:+80/x",
        "registry.example.com:123456/x",
        "registry.example.com:80:80/x",
        ".example.com/x",
        "example..com/x",
        "example.com./x",
        "-a.example.com/x",
        "[::1]:5000/x",
        "user@registry.example.com/x",
        "https://registry.example.com/x",
        "a/../b",
        "./a",
        "../a",
        "a___b",
        "a._b",
        "-a",
        "a-",
        "nginx\n",
        " nginx",
        "nginx\0",
        "ñginx",
        &"a".repeat(PATH_BYTES_MAX + 1),
        &format!("nginx:{}", "a".repeat(TAG_BYTES_MAX + 1)),
    ] {
        assert!(whole(name).is_err(), "{name:?}: {:?}", whole(name));
    }
}

#[test]
fn whole_name_reads_as_the_same_reference() {
    let set = ['a', '0', 'A', '.', ':', '/', '@', '-', '_', 'é'];
    let mut words = vec![String::new()];
    let mut start = 0;
    for _ in 0..5 {
        let end = words.len();
        for at in start..end {
            words.extend(set.map(|c| format!("{}{c}", words[at])));
        }
        start = end;
    }
    let mut valid = 0;
    for word in &words {
        for name in [word.clone(), format!("{word}@sha256:{HEX}"), format!("localhost{word}")] {
            let Ok(image) = ImageReference::parse(&name) else { continue };
            valid += 1;
            assert_eq!(ImageReference::parse(&image.to_string()).as_ref(), Ok(&image), "{name}");
            let registry = image.repository.split('/').next().unwrap();
            assert!(names_registry(registry) && image.repository.len() > registry.len() + 1, "{name}");
        }
        if let Ok(entry) = AllowedImages::parse(word) {
            assert_eq!(AllowedImages::parse(&entry.to_string()), Ok(entry), "{word}");
        }
    }
    assert!(valid > 5_000, "{valid}");
}

#[test]
fn entries_allow_whole_parts_only() {
    let allows = |entry: &str, name: &str| policy(&[entry]).admit(name).is_ok();
    for (entry, name) in [
        ("registry.example.com", "registry.example.com/x"),
        ("registry.example.com", "registry.example.com/team/app:1"),
        ("registry.example.com/team", "registry.example.com/team/app"),
        ("registry.example.com/team", "registry.example.com/team"),
        ("localhost:5000", "localhost:5000/x"),
        ("docker.io", "user/app"),
        ("docker.io/library", "nginx:1.27"),
        ("docker.io/library/nginx", "nginx"),
        ("index.docker.io/library", "docker.io/nginx"),
        ("docker.io/library", &format!("nginx@sha256:{HEX}")),
    ] {
        assert!(allows(entry, name), "{entry}: {name}");
    }
    for (entry, name) in [
        ("registry.example.com", "registry.example.com.evil.org/x"),
        ("registry.example.com", "registry.example.com:5000/x"),
        ("registry.example.com", "evil.org/registry.example.com/x"),
        ("registry.example.com", "registry.example.community/x"),
        ("registry.example.com", "REGISTRY.example.com/x"),
        ("registry.example.com", "registry.example.com"),
        ("registry.example.com/team", "registry.example.com/team2/app"),
        ("registry.example.com/team", "registry.example.com/other/team/app"),
        ("registry.example.com/team", "registry.example.com/team/../other/app"),
        ("registry.example.com/team", "team/app"),
        ("docker.io/library", "docker.io/librarything/x"),
        ("docker.io/library", "librarything/x"),
        ("docker.io/library", "user/app"),
        ("docker.io/library/nginx", "nginx-extra"),
        ("localhost:5000", "localhost:50001/x"),
        ("localhost:5000", "localhost/x"),
        ("docker.io", "localhost/x"),
    ] {
        assert!(!allows(entry, name), "{entry}: {name}");
    }
}

#[test]
fn entries_name_their_registry_and_no_tag() {
    for entry in [
        "",
        "nginx",
        "library/nginx",
        "docker.io/",
        "docker.io//library",
        "docker.io/library/nginx:1.27",
        "Docker.io",
        "registry.example.com/",
        "registry.example.com/*",
        "*.example.com",
        "localhost:5000:1",
        &format!("registry.example.com@sha256:{HEX}"),
        "registry.example.com/app@sha256:1",
    ] {
        assert!(AllowedImages::parse(entry).is_err(), "{entry:?}");
    }
}

#[test]
fn entry_with_a_digest_allows_exactly_that_image() {
    let other = HEX.replace('0', "1");
    let policy = policy(&[&format!("registry.example.com/app@sha256:{HEX}")]);
    assert!(policy.admit(&format!("registry.example.com/app@sha256:{HEX}")).is_ok());
    assert!(policy.admit(&format!("registry.example.com/app:1@sha256:{HEX}")).is_ok());
    for name in [
        "registry.example.com/app".to_owned(),
        format!("registry.example.com/app@sha256:{other}"),
        format!("registry.example.com/app/more@sha256:{HEX}"),
        format!("app@sha256:{HEX}"),
    ] {
        assert!(policy.admit(&name).is_err(), "{name}");
    }
}

#[test]
fn required_digest_refuses_tags_of_every_registry() {
    let policy = ImagePolicy { allowed: Vec::new(), is_digest_required: true };
    assert!(policy.admit(&format!("user/app@sha256:{HEX}")).is_ok());
    let reason = policy.admit("nginx:1.27").unwrap_err();
    assert_eq!(
        reason,
        "`docker.io/library/nginx:1.27` must have a digest (`@sha256:…`): the pool requires it"
    );
    let both = ImagePolicy { is_digest_required: true, ..super::tests::policy(&["docker.io/library"]) };
    assert!(both.admit(&format!("nginx@sha256:{HEX}")).is_ok());
    assert!(both.admit("nginx").is_err() && both.admit(&format!("user/app@sha256:{HEX}")).is_err());
}

#[test]
fn entries_are_bounded_in_number_and_bytes() {
    let many = |count: usize, length: usize| {
        let entry = format!("a.b/{}", "c".repeat(length));
        policy(&vec![entry.as_str(); count]).check()
    };
    assert!(many(IMAGES_ALLOWED_MAX, 1).is_ok());
    assert!(many(IMAGES_ALLOWED_MAX + 1, 1).is_err());
    assert!(many(IMAGES_ALLOWED_MAX, IMAGES_ALLOWED_BYTES_MAX / IMAGES_ALLOWED_MAX).is_err());
    assert!(AllowedImages::parse(&format!("a.b/{}", "c".repeat(PATH_BYTES_MAX))).is_err());
}
