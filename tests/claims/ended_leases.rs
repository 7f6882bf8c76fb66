//! A lease that has ended: its owner gets a new sandbox, and the old one is deleted as if its owner had released it.

use crate::engines::Engine;
use crate::settings::OWNER;
use crate::world::{GRACE, LEASE, START, World, key_of};
use async_trait::async_trait;
use contract::{DeletionWork, FaultCode, Outcome};
use domain::{DeletionCause, Extension, Sandbox, StateName};
use harness::wait::{TIMEOUT, eventually};
use ports::store::{Store, StoreError, Write};
use std::sync::Arc;
use std::time::Duration;
use testkit::interposed::{Call, InterposedStore, Interposer};

/// Extends the owner's lease just before another worker would end it as expired, as an allocator with a late clock
/// does.
#[derive(Debug)]
struct ExtendsInTime(Arc<dyn Store>);

#[async_trait]
impl Interposer for ExtendsInTime {
    async fn before(&self, call: Call) -> Result<(), StoreError> {
        if call.operation != "expire" {
            return Ok(());
        }
        let record = self.0.find_claim(&key_of(OWNER)).await?.expect("a claim");
        let seen = self.0.sandbox(&record.candidate.id).await?.expect("a sandbox");
        let extension = Extension {
            owner: record.claim.owner,
            epoch: seen.epoch,
            ended_by: START,
            expires_at: START.after(10 * LEASE),
            by: None,
        };
        let written = self.0.extend(&seen, &extension, START.after(LEASE)).await?;
        assert!(matches!(written, Write::Done(_)), "{written:?}");
        Ok(())
    }

    async fn after(&self, _call: Call) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Waits until the deletion of `sandbox` is in the queue and its claim item is closed or names another sandbox.
async fn announced(world: &World, sandbox: &Sandbox) -> DeletionWork {
    let record = sandbox.last_claim().expect("it was leased");
    eventually("the announcement", TIMEOUT, || async {
        let work = world.deletions.of(&sandbox.id).ok_or("not announced")?;
        let item = world.store.find_claim(&record.claim).await.unwrap();
        let stays = item.is_some_and(|item| item.candidate.is(&record.candidate) && !item.is_closed);
        if stays { Err("its claim item stays open") } else { Ok(work) }
    })
    .await
}

pub(crate) async fn lease_is_kept_until_its_grace_ends(engine: Engine) {
    let world = World::new(engine, 2, 1).await;
    let process = world.process();
    let first = process.claim(OWNER).await.unwrap();
    world.clock.advance(LEASE + GRACE - Duration::from_secs(1));
    let repeat = process.claim(OWNER).await.unwrap();
    assert_eq!((repeat.outcome, &repeat.body), (Outcome::Existing, &first.body));
    assert_eq!(world.deletions.queued(), []);
    world.clock.advance(Duration::from_secs(1));
    let next = process.claim(OWNER).await.unwrap();
    assert_eq!(next.outcome, Outcome::Created);
    assert_ne!(next.id(), first.id());
}

pub(crate) async fn ended_lease_is_deleted_like_a_released_one(engine: Engine) {
    let mut works = Vec::new();
    let mut ended = Vec::new();
    for cause in [DeletionCause::Expired, DeletionCause::Released] {
        let world = World::new(engine, 2, 1).await;
        let process = world.process();
        let first = process.claim(OWNER).await.unwrap();
        world.outlive_leases();
        if cause == DeletionCause::Released {
            process.release(&first.allocation.sandbox_id, OWNER).await.unwrap();
        } else {
            assert_eq!(process.claim(OWNER).await.unwrap().outcome, Outcome::Created);
        }
        let old = world.store.sandbox(&first.id()).await.unwrap().unwrap();
        assert_eq!(old.state.name(), StateName::PendingDeletion);
        let deletion = old.deletion().cloned().unwrap();
        assert_eq!(deletion.cause, cause);
        works.push(announced(&world, &old).await);
        assert_eq!((world.deletions.queued().len(), world.deletions.repeated()), (1, 0));
        assert_eq!(works.last(), DeletionWork::of(&old).as_ref());
        ended.push((deletion.lease, deletion.requested_at, deletion.attempts));
        // Either way the key can get one sandbox, and every repeat returns the same one.
        let next = process.claim(OWNER).await.unwrap();
        assert_ne!(next.id(), first.id());
        assert_eq!(world.process().claim(OWNER).await.unwrap().body, next.body);
    }
    assert_eq!(works[0], works[1]);
    assert_eq!(ended[0], ended[1]);
}

pub(crate) async fn ended_lease_is_closed_even_if_the_pool_is_exhausted(engine: Engine) {
    let world = World::new(engine, 1, 1).await;
    let process = world.process();
    let first = process.claim(OWNER).await.unwrap();
    world.outlive_leases();
    assert_eq!(process.claim(OWNER).await, Err(FaultCode::PoolExhausted));
    let old = world.store.sandbox(&first.id()).await.unwrap().unwrap();
    assert_eq!(old.state.name(), StateName::PendingDeletion);
    announced(&world, &old).await;
    // Another claim neither announces the deletion twice nor returns the old sandbox.
    assert_eq!(process.claim(OWNER).await, Err(FaultCode::PoolExhausted));
    assert_eq!((world.deletions.queued().len(), world.deletions.repeated()), (1, 0));
    let added = world.add().await;
    assert_eq!(process.claim(OWNER).await.unwrap().id(), added.id);
}

/// The queue only accelerates: without it the claim and the states are the same, and the sweep announces the deletion.
pub(crate) async fn queue_failure_does_not_block_the_claim(engine: Engine) {
    let world = World::new(engine, 2, 1).await;
    let process = world.process();
    let first = process.claim(OWNER).await.unwrap();
    world.outlive_leases();
    world.deletions.fail(1);
    let next = process.claim(OWNER).await.unwrap();
    assert_eq!(next.outcome, Outcome::Created);
    eventually("the failed announcement", TIMEOUT, || async {
        if world.deletions.failed() == 1 { Ok(()) } else { Err(world.deletions.failed()) }
    })
    .await;
    assert_eq!(world.deletions.queued(), []);
    let old = world.store.sandbox(&first.id()).await.unwrap().unwrap();
    assert_eq!(old.state.name(), StateName::PendingDeletion);
    world.assert_sound(&[&process, &world.process()]).await;
}

pub(crate) async fn lease_extended_at_its_end_is_kept(engine: Engine) {
    let world = World::new(engine, 2, 1).await;
    let first = world.process().claim(OWNER).await.unwrap();
    world.outlive_leases();
    let between = Arc::new(ExtendsInTime(Arc::clone(&world.store)));
    let process = world.process_over(Arc::new(InterposedStore::over(Arc::clone(&world.store), between)));
    let repeat = process.claim(OWNER).await.unwrap();
    assert_eq!((repeat.outcome, repeat.id()), (Outcome::Existing, first.id()));
    assert_eq!(world.held_by(OWNER).await.len(), 1);
    assert_eq!(world.deletions.queued(), []);
}
