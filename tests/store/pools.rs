//! The items of pools: written conditionally, read by every process, and identities of two providers.

use crate::engines::{Set, Shared};
use crate::fixtures::{NOW, new_sandbox, pool};
use domain::template::Runtime;
use domain::{
    AllowedImages, ExternalId, ImagePolicy, LeaseOverrides, NamePrefix, NewSandbox, PoolKind, PoolSpec,
    PoolState, ProviderName, SandboxId, WarmSizes,
};
use ports::store::{IDENTITY_SHARDS, Identity, Insert, Store};
use std::time::Duration;

fn provider() -> ProviderName {
    ProviderName::parse("csp-eu").unwrap()
}

fn plain() -> PoolSpec {
    PoolSpec::of_accounts(pool("labs"), ProviderName::csp(), None)
}

/// A pool with every field.
fn full() -> PoolSpec {
    let span = |seconds| Some(Duration::from_secs(seconds));
    PoolSpec {
        kind: PoolKind::Container,
        provider: provider(),
        template: Some("python".to_owned()),
        name_prefix: Some(NamePrefix::parse("lab-").unwrap()),
        leases: LeaseOverrides {
            duration: span(60),
            duration_max: span(120),
            total_max: span(180),
            grace: span(0),
            idle: span(240),
        },
        warm: Some(WarmSizes { min: 0, max: 7 }),
        deletions_in_flight_max: Some(3),
        sync_period: span(90),
        images: ImagePolicy {
            allowed: ["docker.io/library", "localhost:5000"].map(|e| AllowedImages::parse(e).unwrap()).into(),
            is_digest_required: true,
        },
        runtime: Some(Runtime::Kata),
        is_untrusted: true,
        state: PoolState::Draining,
        version: 2,
        ..plain()
    }
}

async fn process(table: &Shared) -> std::sync::Arc<dyn Store> {
    table.process(Set { shards: 2, index_lag_seconds: 0 }).await
}

pub(crate) async fn pool_changes_are_conditional_on_the_version(table: Shared) {
    let (one, other) = (process(&table).await, process(&table).await);
    assert_eq!(one.pool_specs().await.unwrap(), []);
    assert!(one.write_pool(None, &plain()).await.unwrap());
    assert!(!other.write_pool(None, &full()).await.unwrap(), "it is there");
    assert!(!other.write_pool(Some(2), &full()).await.unwrap(), "it has another version");
    assert_eq!(other.pool_spec(&pool("labs")).await.unwrap(), Some(plain()));
    assert!(other.write_pool(Some(1), &full()).await.unwrap());
    assert_eq!(one.pool_specs().await.unwrap(), [full()], "every field is stored");
    let bare = PoolSpec { version: 3, ..plain() };
    assert!(one.write_pool(Some(2), &bare).await.unwrap());
    assert_eq!(other.pool_spec(&pool("labs")).await.unwrap(), Some(bare), "and is removed again");
    assert!(!one.remove_pool(&pool("labs"), 2).await.unwrap());
    assert!(one.remove_pool(&pool("labs"), 3).await.unwrap());
    assert_eq!(other.pool_spec(&pool("labs")).await.unwrap(), None);
    assert!(other.pools().await.unwrap().contains(&pool("labs")), "its sandboxes are still maintained");
}

pub(crate) async fn two_providers_share_no_identity(table: Shared) {
    let store = process(&table).await;
    let own = new_sandbox(1);
    let theirs = NewSandbox {
        id: SandboxId::parse("csp-eu_1").unwrap(),
        external_id: ExternalId::of(&provider(), own.external_id.as_str()).unwrap(),
        ..new_sandbox(1)
    };
    for sandbox in [&own, &theirs] {
        let inserted = store.insert(sandbox, NOW).await.unwrap();
        assert!(matches!(inserted, Insert::Inserted(_)), "{inserted:?}");
        let read = store.sandbox(&sandbox.id).await.unwrap().unwrap();
        assert_eq!(read.external_id, sandbox.external_id);
        let identity = Identity::new(sandbox.external_id.clone(), sandbox.id.clone());
        assert_eq!(store.identity(&sandbox.external_id).await.unwrap(), Some(identity.clone()));
        let mut listed = Vec::new();
        for shard in 0..IDENTITY_SHARDS {
            let page = store.identities(&sandbox.external_id.provider(), shard, None, 10).await.unwrap();
            listed.extend(page.identities);
        }
        assert_eq!(listed, [identity], "the other provider's is not among them");
    }
}
