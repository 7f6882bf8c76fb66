//! A file and a secret of tokens that change one after the other.

use super::*;
use ports::secrets::SecretId;
use prometheus::Registry;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;
use testkit::secrets::MemorySecrets;

const FILE: usize = 0;
const SECRET: usize = 1;

struct Rig {
    refresher: TokenRefresher,
    registry: Registry,
    secrets: Arc<MemorySecrets>,
    id: SecretId,
    path: PathBuf,
    _folder: TempDir,
}

/// A list of these tokens, each with its name.
fn text(tokens: &[(&str, &str)]) -> String {
    let line = |(name, token): &(&str, &str)| {
        file::line(
            &super::super::parse_name(name).unwrap(),
            &[Scope::Lab],
            &fingerprint(token.as_bytes()),
            &[],
        )
    };
    tokens.iter().map(|token| line(token).unwrap() + "\n").collect()
}

impl Rig {
    async fn new(of_file: &[(&str, &str)], of_secret: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (path, id) = (folder.path().join("tokens"), SecretId::parse("tokens").unwrap());
        fs::write(&path, text(of_file)).unwrap();
        let secrets = Arc::new(MemorySecrets::default());
        secrets.put(&id, text(of_secret).as_bytes());
        let list = |place, bytes| TokenList { place, check_period: Duration::from_secs(1), bytes };
        let of_file = fs::read(&path).unwrap();
        let lists = vec![
            list(ListSource::File(path.clone()), Some(of_file)),
            list(ListSource::Secret(id.clone()), None),
        ];
        let mut config = TokenConfig { named: Vec::new(), lists, first: TokenSet::default() };
        config.fetch(Some(&*secrets)).await.unwrap();
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        let refresher = TokenRefresher::new(&config, Some(secrets.clone()), metrics);
        Self { refresher, registry, secrets, id, path, _folder: folder }
    }

    async fn look(&self, place: usize) {
        self.refresher.look(place, &self.refresher.lists[place]).await;
    }

    async fn file_is(&self, tokens: &[(&str, &str)]) {
        fs::write(&self.path, text(tokens)).unwrap();
        self.look(FILE).await;
    }

    async fn secret_is(&self, tokens: &[(&str, &str)]) {
        self.secrets.put(&self.id, text(tokens).as_bytes());
        self.look(SECRET).await;
    }

    /// Which of these tokens are good.
    fn good<'a>(&self, tokens: &[&'a str]) -> Vec<&'a str> {
        let set = self.refresher.tokens.now();
        tokens.iter().copied().filter(|token| set.find(token.as_bytes()).is_some()).collect()
    }

    /// Which lists cannot be used: the file, the secret.
    fn bad(&self) -> [bool; 2] {
        [FILE, SECRET].map(|place| self.refresher.lists[place].is_bad.load(Ordering::Relaxed))
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
async fn conflicting_list_is_accepted_once_the_other_allows_it() {
    const ALL: [&str; 4] = ["alice-1", "alice-2", "bob-1", "carol-1"];
    let (alice, alice_rotated) = (("alice", "alice-1"), ("alice", "alice-2"));
    let (bob, carol) = (("bob", "bob-1"), ("carol", "carol-1"));
    let rig = Rig::new(&[alice, carol], &[bob]).await;
    assert_eq!(rig.good(&ALL), ["alice-1", "bob-1", "carol-1"]);
    // Alice moves to the secret with a new token, and Bob leaves; the file has her still.
    rig.secret_is(&[alice_rotated]).await;
    assert_eq!((rig.good(&ALL), rig.bad()), (vec!["alice-1", "bob-1", "carol-1"], [false, true]));
    for _ in 0..3 {
        rig.look(SECRET).await;
    }
    assert_eq!(rig.reads(), [1, 0], "the same refusal is logged once");
    rig.file_is(&[carol]).await;
    assert_eq!((rig.good(&ALL), rig.bad()), (vec!["alice-2", "carol-1"], [false, false]));
    rig.look(SECRET).await;
    assert_eq!((rig.good(&ALL), rig.reads()), (vec!["alice-2", "carol-1"], [1, 1]));
}

#[tokio::test]
async fn lists_that_swap_tokens_are_accepted_together() {
    const ALL: [&str; 4] = ["alice-1", "alice-2", "bob-1", "bob-2"];
    let rig = Rig::new(&[("alice", "alice-1")], &[("bob", "bob-1")]).await;
    rig.file_is(&[("bob", "bob-2")]).await;
    assert_eq!((rig.good(&ALL), rig.bad()), (vec!["alice-1", "bob-1"], [true, false]));
    rig.secret_is(&[("alice", "alice-2")]).await;
    assert_eq!((rig.good(&ALL), rig.bad()), (vec!["alice-2", "bob-2"], [false, false]));
}

#[tokio::test]
async fn pending_list_is_dropped_when_it_becomes_invalid() {
    const ALL: [&str; 3] = ["alice-1", "alice-2", "carol-1"];
    let rig = Rig::new(&[("alice", "alice-1")], &[("bob", "bob-1")]).await;
    rig.secret_is(&[("alice", "alice-2")]).await;
    rig.secrets.put(&rig.id, b"no list");
    rig.look(SECRET).await;
    rig.file_is(&[("carol", "carol-1")]).await;
    assert_eq!((rig.good(&ALL), rig.good(&["bob-1"])), (vec!["carol-1"], vec!["bob-1"]));
    assert_eq!(rig.bad(), [false, true]);
    rig.secret_is(&[("alice", "alice-2")]).await;
    assert_eq!((rig.good(&ALL), rig.bad()), (vec!["alice-2", "carol-1"], [false, false]));
}

#[tokio::test]
async fn unrelated_change_leaves_the_conflict_pending() {
    const ALL: [&str; 4] = ["alice-1", "alice-2", "alice-3", "bob-1"];
    let rig = Rig::new(&[("alice", "alice-1")], &[("bob", "bob-1")]).await;
    rig.secret_is(&[("alice", "alice-2")]).await;
    rig.file_is(&[("alice", "alice-3")]).await;
    assert_eq!((rig.good(&ALL), rig.bad()), (vec!["alice-3", "bob-1"], [false, true]));
    rig.file_is(&[("carol", "carol-1")]).await;
    assert_eq!((rig.good(&ALL), rig.bad()), (vec!["alice-2"], [false, false]));
}
