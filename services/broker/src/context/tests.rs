use super::*;
use crate::transport;
use clap::Parser;

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
}

fn env_of(folder: &Path) -> BTreeMap<String, String> {
    BTreeMap::from([("XDG_CONFIG_HOME".to_owned(), folder.display().to_string())])
}

fn context(env: &dyn Env, arguments: &[&str]) -> Result<(), String> {
    let arguments = Arguments::try_parse_from([&["context"], arguments].concat());
    let Arguments { options } = arguments.map_err(|error| error.to_string())?;
    options.run(env).map_err(|error| format!("{error:#}"))
}

fn no_transport() -> transport::Options {
    transport::Options { http: None, token_file: None, nats: None, subject_prefix: None }
}

#[test]
fn context_in_use_stands_in_for_an_empty_environment() {
    let folder = tempfile::tempdir().unwrap();
    let env = env_of(folder.path());
    let nats = ["--nats-url", "nats://one:4222", "--credentials-file", "/keys/one.creds"];
    context(&env, &[&["add", "one"], &nats[..]].concat()).unwrap();
    context(&env, &["add", "two", "--http-url", "http://two", "--token-file", "/keys/two"]).unwrap();
    let seen = over(&env).unwrap();
    assert_eq!(seen.get("NATS_URL").as_deref(), Some("nats://one:4222"), "the first one is used at once");
    assert_eq!(seen.get("NATS_CREDENTIALS_FILE").as_deref(), Some("/keys/one.creds"));
    let (options, _) = transport(no_transport(), &env).unwrap();
    assert_eq!((options.nats.as_deref(), options.http), (Some("nats://one:4222"), None));
    context(&env, &["use", "two"]).unwrap();
    let (options, _) = transport(no_transport(), &env).unwrap();
    assert_eq!((options.nats, options.http.as_deref()), (None, Some("http://two")));
    assert_eq!(options.token_file, Some(PathBuf::from("/keys/two")));
    context(&env, &["remove", "two"]).unwrap();
    assert_eq!(over(&env).unwrap().get("NATS_URL"), None);
}

#[test]
fn environment_and_arguments_come_before_the_context() {
    let folder = tempfile::tempdir().unwrap();
    let mut env = env_of(folder.path());
    let more =
        ["--http-url", "http://one", "--token-file", "/keys/one", "--credentials-file", "/keys/one.creds"];
    context(&env, &[&["add", "one", "--nats-url", "nats://one:4222"], &more[..]].concat()).unwrap();
    let named = transport::Options { nats: Some("nats://other".to_owned()), ..no_transport() };
    let (options, seen) = transport(named, &env).unwrap();
    assert_eq!((options.nats.as_deref(), options.http), (Some("nats://other"), None));
    assert_eq!(seen.get("NATS_CREDENTIALS_FILE"), None, "another server never gets these credentials");
    env.insert("NATS_URL".to_owned(), "nats://of-the-environment".to_owned());
    assert_eq!(over(&env).unwrap().get("NATS_CREDENTIALS_FILE"), None);
    let (options, _) = transport(no_transport(), &env).unwrap();
    assert_eq!((options.nats.as_deref(), options.http), (Some("nats://of-the-environment"), None));
}

#[test]
fn invalid_contexts_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let env = env_of(folder.path());
    context(&env, &["add", "one", "--nats-url", "nats://one:4222"]).unwrap();
    for (arguments, expected) in [
        (&["add", "one", "--nats-url", "nats://x"][..], "context remove one"),
        (&["add", "two", "--nats-url", "nats://user:password@x"], "no password"),
        (&["add", "two"], "required"),
        (&["add", "a b", "--nats-url", "nats://x"], "must be 1 to 64"),
        (&["add", "two", "--http-url", "http://x"], "--token-file"),
        (&["use", "three"], "there are: one"),
        (&["remove", "three"], "there are: one"),
    ] {
        let refusal = context(&env, arguments).unwrap_err();
        assert!(refusal.contains(expected), "{arguments:?}: {refusal}");
    }
    std::fs::write(folder.path().join("broker/contexts.json"), "{").unwrap();
    assert!(over(&env).err().unwrap().to_string().contains("correct or remove it"));
    let without_home = BTreeMap::<String, String>::new();
    assert!(over(&without_home).unwrap().get("NATS_URL").is_none());
    assert!(context(&without_home, &["list"]).unwrap_err().contains("XDG_CONFIG_HOME"));
}
