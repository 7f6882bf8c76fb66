//! A list of tokens that changes, in a file and in a secret.

use super::*;
use contract::Principal;
use ports::secrets::SecretId;
use prometheus::Registry;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;
use testkit::secrets::MemorySecrets;

struct Rig {
    refresher: TokenRefresher,
    registry: Registry,
    secrets: Arc<MemorySecrets>,
    id: SecretId,
    path: PathBuf,
    _folder: TempDir,
}

/// A list of these tokens, each of which is its name as well.
fn text(tokens: &[&str]) -> String {
    let line = |token: &&str| {
        let name = super::super::parse_name(token).unwrap();
        file::line(&Principal::of(name, &[Role::Lab]), &fingerprint(token.as_bytes())).unwrap() + "\n"
    };
    tokens.iter().map(line).collect()
}

impl Rig {
    async fn new(is_secret: bool, tokens: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (path, id) = (folder.path().join("tokens"), SecretId::parse("tokens").unwrap());
        fs::write(&path, text(tokens)).unwrap();
        let secrets = Arc::new(MemorySecrets::default());
        secrets.put(&id, text(tokens).as_bytes());
        let (name, value) =
            if is_secret { ("TOKENS_SECRET", "tokens") } else { ("TOKENS_FILE", path.to_str().unwrap()) };
        let env = BTreeMap::from([(name.to_owned(), value.to_owned())]);
        let mut settings = runtime::settings::Settings::new(&env);
        let config = TokenConfig::read(&mut settings);
        let mut config = settings.finish(config).unwrap();
        config.fetch(Some(&*secrets)).await.unwrap();
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        let refresher = TokenRefresher::new(&config, Some(secrets.clone()), metrics);
        Self { refresher, registry, secrets, id, path, _folder: folder }
    }

    async fn change(&self, text: &str) {
        fs::write(&self.path, text).unwrap();
        self.secrets.put(&self.id, text.as_bytes());
        self.look().await;
    }

    async fn look(&self) {
        self.refresher.look(self.refresher.watched.as_ref().unwrap()).await;
    }

    /// Which of these tokens are good.
    fn good<'a>(&self, tokens: &[&'a str]) -> Vec<&'a str> {
        let set = self.refresher.tokens.now();
        tokens.iter().copied().filter(|token| set.find(token.as_bytes()).is_some()).collect()
    }

    async fn is_bad(&self) -> bool {
        self.refresher.check().unwrap().note().await.is_some()
    }

    /// How often something was read: bad, and good.
    fn reads(&self) -> [u64; 2] {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == "broker_http_tokens_file_reads_total");
        ["bad", "read"].map(|outcome| {
            let mut counts = family.unwrap().get_metric().iter();
            let of_it = counts.find(|count| count.get_label()[0].value() == outcome);
            of_it.map_or(0, |count| count.get_counter().get_value() as u64)
        })
    }
}

#[tokio::test]
async fn changed_list_takes_effect_and_a_bad_one_does_not() {
    const ALL: [&str; 3] = ["alice", "bob", "carol"];
    for is_secret in [false, true] {
        let rig = Rig::new(is_secret, &["alice", "bob"]).await;
        assert_eq!(rig.good(&ALL), ["alice", "bob"]);
        rig.look().await;
        assert_eq!((rig.reads(), rig.is_bad().await), ([0, 0], false), "nothing has changed");
        rig.change(&text(&["bob", "carol"])).await;
        assert_eq!((rig.good(&ALL), rig.reads()), (vec!["bob", "carol"], [0, 1]));
        for bad in ["no list".to_owned(), text(&["alice"]) + &text(&["alice"])] {
            rig.change(&bad).await;
            assert_eq!((rig.good(&ALL), rig.is_bad().await), (vec!["bob", "carol"], true));
            rig.look().await;
        }
        assert_eq!(rig.reads(), [2, 1], "the same refusal is logged once");
        rig.change(&text(&["alice"])).await;
        assert_eq!((rig.good(&ALL), rig.reads()), (vec!["alice"], [2, 2]));
        assert!(!rig.is_bad().await);
    }
}

#[tokio::test]
async fn tokens_of_the_environment_are_not_watched() {
    let env = BTreeMap::from(
        [("BROKER_API_TOKEN", "a"), ("BROKER_ADMIN_TOKEN", "b")]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    let mut settings = runtime::settings::Settings::new(&env);
    let config = TokenConfig::read(&mut settings);
    let mut config = settings.finish(config).unwrap();
    config.fetch(None).await.unwrap();
    let metrics = Metrics::register(&Registry::new()).unwrap();
    assert!(TokenRefresher::new(&config, None, metrics).check().is_none());
}
