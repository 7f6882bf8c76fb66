//! Free sandboxes of pools whose sandboxes are created, on ports in memory.

use super::*;
use crate::tests::{HOUR, NOW, Rig, done};
use contract::{Report, TickKind};
use domain::template::Image;
use domain::{
    Actor, ClaimKey, Grant, IdempotencyKey, OwnerId, PoolKind, PoolName, PoolState, ProviderName, Template,
    TemplateId, TemplateSpec,
};
use ports::clock::Clock as _;
use ports::store::{SortRange, StateQuery};
use testkit::bus::{Call, Loss};

const POOL: &str = "shells";

pub(crate) fn pool() -> PoolName {
    PoolName::parse(POOL).unwrap()
}

/// Writes the next version of the template.
async fn write_template(rig: &Rig) {
    let id = TemplateId::parse("shell").unwrap();
    let seen = rig.store.template_head(&id).await.unwrap();
    let template = Template {
        version: seen.as_ref().map_or(1, |head| head.version + 1),
        id,
        created_at: NOW,
        by: Actor::nats(),
        spec: TemplateSpec::of_image(Image::Host),
    };
    assert!(rig.store.write_template(seen.as_ref(), &template).await.unwrap());
    rig.follow_pools().await;
}

/// Changes the pool.
async fn set_pool(rig: &Rig, change: impl FnOnce(&mut PoolSpec)) {
    let seen = rig.store.pool_spec(&pool()).await.unwrap();
    let version = seen.as_ref().map(|spec| spec.version);
    let mut spec = seen.unwrap_or_else(|| PoolSpec {
        kind: PoolKind::Container,
        template: Some("shell".to_owned()),
        ..PoolSpec::of_accounts(pool(), ProviderName::parse("nodes").unwrap(), None)
    });
    spec.version = version.unwrap_or_default() + 1;
    change(&mut spec);
    assert!(rig.store.write_pool(version, &spec).await.unwrap());
    rig.follow_pools().await;
}

/// A fleet with a pool that wants so many free sandboxes.
pub(crate) async fn rig(min: u32, max: u32) -> Rig {
    let rig = Rig::new();
    write_template(&rig).await;
    set_pool(&rig, |spec| spec.warm = Some(WarmSizes { min, max })).await;
    rig
}

async fn run(rig: &Rig) -> FillReport {
    match rig.run(TickKind::FILL).await {
        Report::Fill(report) => {
            assert_eq!((report.status, report.unannounced), (RunStatus::Completed, 0));
            report
        }
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn all(rig: &Rig, state: StateName) -> Vec<Sandbox> {
    let mut found = Vec::new();
    for shard in 0..rig.store.shards().await.unwrap() {
        let query = StateQuery { pool: pool(), state, shard, range: SortRange::All };
        found.extend(rig.store.page(&query, None, 100).await.unwrap().sandboxes);
    }
    found.sort_by(|one, other| one.id.as_str().cmp(other.id.as_str()));
    found
}

/// Creates everything that is wanted, as nodes would.
async fn create_all(rig: &Rig) {
    for sandbox in all(rig, StateName::Provisioning).await {
        let now = rig.clock.now();
        done(rig.store.finish_provision(&sandbox, &Descriptor::default(), now).await.unwrap());
    }
}

/// One attempt at everything that is wanted fails, and is the last one of each.
async fn fail_all(rig: &Rig, attempts: u32) {
    for sandbox in all(rig, StateName::Provisioning).await {
        let noted = rig.store.note_provision_failure(&sandbox, attempts, "no such image").await.unwrap();
        done(rig.store.park_provision(&done(noted), rig.clock.now()).await.unwrap());
    }
}

fn grant(rig: &Rig, owner: &str, candidate: domain::Candidate) -> Grant {
    let owner = OwnerId::parse(owner).unwrap();
    Grant {
        claim: ClaimKey { key: IdempotencyKey::from(&owner), owner },
        candidate,
        lab: None,
        by: None,
        request: None,
        granted_at: rig.clock.now(),
        expires_at: rig.clock.now().after(HOUR),
        options: None,
    }
}

#[tokio::test]
async fn pool_is_filled_in_bursts_and_stays_full() {
    let rig = rig(23, 30).await;
    let mut asked = Vec::new();
    for _ in 0..3 {
        asked.push(run(&rig).await.created);
    }
    assert_eq!(asked, [10, 10, 3]);
    let works = rig.bus.provisions();
    assert_eq!(works.len(), 23);
    assert!(works.iter().all(|work| work.template == "shell@1" && !work.is_leased && work.epoch == 0));
    assert_eq!(run(&rig).await.missing[POOL], 23, "they are asked for, and not free yet");
    create_all(&rig).await;
    let full = run(&rig).await;
    assert_eq!((full.created, full.retired, full.missing.len()), (0, 0, 0));
    let seen = all(&rig, StateName::Available).await;
    done(rig.store.grant(&grant(&rig, "p-1", seen[0].candidate())).await.unwrap());
    assert_eq!(run(&rig).await.created, 1, "for the one that was claimed");
    assert_eq!(rig.metric("broker_reconciled_total", &["fill", "created"]), 24);
}

#[tokio::test]
async fn smaller_target_gives_up_the_oldest_and_no_claimed_one() {
    let rig = rig(4, 4).await;
    run(&rig).await;
    create_all(&rig).await;
    rig.clock.advance(Duration::from_secs(60));
    set_pool(&rig, |spec| spec.warm = Some(WarmSizes { min: 6, max: 6 })).await;
    assert_eq!(run(&rig).await.created, 2);
    let late: Vec<_> = all(&rig, StateName::Provisioning).await;
    create_all(&rig).await;
    let claimed = all(&rig, StateName::Available).await.into_iter().find(|one| one.id != late[0].id).unwrap();
    let held = done(rig.store.grant(&grant(&rig, "p-1", claimed.candidate())).await.unwrap());
    set_pool(&rig, |spec| spec.warm = Some(WarmSizes { min: 2, max: 2 })).await;
    let report = run(&rig).await;
    assert_eq!((report.created, report.retired), (0, 3));
    let kept: Vec<_> = all(&rig, StateName::Available).await.iter().map(|one| one.id.clone()).collect();
    assert_eq!(kept, late.iter().map(|one| one.id.clone()).collect::<Vec<_>>(), "the youngest");
    assert_eq!(rig.store.sandbox(&held.id).await.unwrap(), Some(held));
    let gone = all(&rig, StateName::PendingDeletion).await;
    assert_eq!(gone.len(), 3);
    assert!(gone.iter().all(|one| one.history.last().unwrap().cause == Cause::Retired));
    for sandbox in &gone {
        let queued = ports::bus::Upkeep::queued_of(&rig.bus, &pool(), &sandbox.id).await.unwrap();
        assert_eq!(queued.len(), 1, "its deletion is announced");
    }
    let over = run(&rig).await;
    assert_eq!((over.created, over.retired), (0, 0));
}

#[tokio::test]
async fn drained_pool_gives_up_all_that_nobody_holds() {
    let rig = rig(3, 3).await;
    run(&rig).await;
    create_all(&rig).await;
    let seen = all(&rig, StateName::Available).await;
    done(rig.store.grant(&grant(&rig, "p-1", seen[0].candidate())).await.unwrap());
    assert_eq!(run(&rig).await.created, 1);
    set_pool(&rig, |spec| spec.state = PoolState::Draining).await;
    assert_eq!(run(&rig).await.retired, 3, "two free ones and one that is being created");
    assert_eq!(all(&rig, StateName::Allocated).await.len(), 1);
    assert_eq!(run(&rig).await, FillReport { status: RunStatus::Completed, ..FillReport::default() });
}

#[tokio::test]
async fn new_version_of_the_template_replaces_the_free_ones_without_a_gap() {
    let rig = rig(3, 3).await;
    run(&rig).await;
    create_all(&rig).await;
    let cold = grant(&rig, "p-9", domain::Candidate::absent(SandboxId::parse("ctr_cold").unwrap(), pool()));
    let provider = ProviderName::parse("nodes").unwrap();
    let old = TemplateVersion::parse("shell@1").unwrap();
    let new = NewSandbox::to_create(cold.candidate.id.clone(), pool(), &provider, Some(&old)).unwrap();
    rig.store.create(&new.provision(Some(&cold), NOW)).await.unwrap();
    write_template(&rig).await;
    let report = run(&rig).await;
    assert_eq!((report.created, report.retired), (3, 0), "the old ones serve until the new ones are free");
    let first = all(&rig, StateName::Provisioning).await;
    let fresh = first.iter().find(|one| one.lease().is_none()).unwrap();
    done(rig.store.finish_provision(fresh, &Descriptor::default(), NOW).await.unwrap());
    assert_eq!(run(&rig).await.retired, 1);
    assert_eq!(all(&rig, StateName::Available).await.len(), 3);
    create_all(&rig).await;
    assert_eq!(run(&rig).await.retired, 2);
    let versions: Vec<_> = all(&rig, StateName::Available).await;
    assert!(versions.iter().all(|one| one.descriptor.get(Descriptor::TEMPLATE) == Some("shell@2")));
    assert_eq!(all(&rig, StateName::Allocated).await.len(), 1, "a claim keeps its version");
}

#[tokio::test]
async fn creation_of_an_older_version_that_nobody_holds_is_given_up() {
    let rig = rig(2, 2).await;
    run(&rig).await;
    write_template(&rig).await;
    let report = run(&rig).await;
    assert_eq!((report.created, report.retired), (2, 2));
}

#[tokio::test]
async fn lost_work_is_announced_again_and_waiting_work_is_not() {
    let rig = rig(2, 2).await;
    rig.bus.lose(Call::Announce, Loss::Message);
    let Report::Fill(report) = rig.run(TickKind::FILL).await else { panic!("a fill") };
    assert_eq!((report.created, report.unannounced), (2, 1));
    assert_eq!(rig.bus.provisions().len(), 1);
    assert_eq!(run(&rig).await.reannounced, 0, "it may be under way");
    rig.clock.advance(REANNOUNCE_AFTER);
    assert_eq!(run(&rig).await.reannounced, 1);
    assert_eq!(run(&rig).await.reannounced, 0, "each has its message");
    assert_eq!(rig.bus.provisions().len(), 2);
}

#[tokio::test]
async fn pool_whose_creations_fail_is_degraded_and_tried_once_a_minute() {
    let rig = rig(2, 2).await;
    run(&rig).await;
    fail_all(&rig, 3).await;
    let report = run(&rig).await;
    assert_eq!((report.created, report.retired), (0, 0));
    assert_eq!(report.degraded[POOL], "6 attempts have failed: no such image");
    rig.clock.advance(Duration::from_secs(59));
    assert_eq!(run(&rig).await.created, 0);
    rig.clock.advance(Duration::from_secs(2));
    assert_eq!(run(&rig).await.created, 1, "one try");
    assert_eq!(run(&rig).await.created, 0, "not a second beside it");
    for _ in 0..8 {
        fail_all(&rig, 3).await;
        rig.clock.advance(Duration::from_secs(61));
        assert_eq!(run(&rig).await.created, 1);
    }
    let kept = all(&rig, StateName::ProvisionFailed).await.len();
    assert!(kept <= 6, "{kept} are kept for operators");
    rig.clock.advance(Duration::from_secs(1));
    create_all(&rig).await;
    let report = run(&rig).await;
    assert_eq!((report.created, report.degraded.len()), (1, 0), "a success ends it");
    assert_eq!(all(&rig, StateName::ProvisionFailed).await, []);
}

#[tokio::test]
async fn parked_creation_is_no_stock_until_it_is_replayed() {
    let rig = rig(1, 1).await;
    run(&rig).await;
    fail_all(&rig, 1).await;
    assert_eq!(run(&rig).await.created, 1, "another one takes its place");
    fail_all(&rig, 1).await;
    let by = Actor::parse("alice").unwrap();
    let parked = all(&rig, StateName::ProvisionFailed).await;
    done(rig.store.replay_provision(&parked[0], &by, NOW, rig.clock.now()).await.unwrap());
    let report = run(&rig).await;
    assert_eq!((report.created, report.retired), (0, 0), "it is on its way again");
    set_pool(&rig, |spec| spec.state = PoolState::Draining).await;
    assert_eq!(run(&rig).await.retired, 2);
    assert_eq!(all(&rig, StateName::ProvisionFailed).await, [], "a drained pool keeps none");
}

#[tokio::test]
async fn work_that_no_node_takes_is_reported() {
    let rig = rig(1, 1).await;
    run(&rig).await;
    rig.clock.advance(UNTAKEN_AFTER - Duration::from_secs(1));
    assert_eq!(run(&rig).await.degraded.len(), 0);
    rig.clock.advance(Duration::from_secs(1));
    let reason = &run(&rig).await.degraded[POOL];
    assert!(reason.contains("no node has created 1 of its sandboxes within 30 s"), "{reason}");
}

#[tokio::test]
async fn pool_without_a_template_is_reported() {
    let rig = rig(1, 1).await;
    let id = TemplateId::parse("shell").unwrap();
    let head = rig.store.template_head(&id).await.unwrap().unwrap();
    assert!(rig.store.mark_template(&head, Some(NOW)).await.unwrap());
    rig.follow_pools().await;
    let report = run(&rig).await;
    assert_eq!(
        (report.created, report.degraded[POOL].as_str()),
        (0, "its template is not known, or was removed")
    );
}

#[tokio::test]
async fn busy_pool_keeps_more_free_ones_up_to_its_maximum() {
    let rig = rig(2, 20).await;
    let mut targets = Vec::new();
    for turn in 0..60 {
        run(&rig).await;
        rig.clock.advance(Duration::from_secs(20));
        create_all(&rig).await;
        let free = all(&rig, StateName::Available).await;
        targets.push(free.len());
        for (number, sandbox) in free.iter().enumerate() {
            let owner = format!("p-{turn}-{number}");
            done(rig.store.grant(&grant(&rig, &owner, sandbox.candidate())).await.unwrap());
        }
    }
    assert_eq!(targets[0], 2);
    assert!(targets.iter().any(|target| *target >= 10), "{targets:?}");
    assert!(targets.iter().all(|target| *target <= 20), "{targets:?}");
    create_all(&rig).await;
    rig.clock.advance(Duration::from_secs(301));
    run(&rig).await;
    create_all(&rig).await;
    rig.clock.advance(Duration::from_secs(301));
    run(&rig).await;
    assert_eq!(all(&rig, StateName::Available).await.len(), 2, "without claims, its minimum");
}

#[tokio::test]
async fn pool_that_does_not_allow_its_template_keeps_what_it_has_and_is_reported() {
    let rig = rig(1, 1).await;
    run(&rig).await;
    create_all(&rig).await;
    set_pool(&rig, |spec| {
        spec.is_untrusted = true;
        spec.warm = Some(WarmSizes { min: 2, max: 2 });
    })
    .await;
    let report = run(&rig).await;
    assert_eq!((report.created, report.retired), (0, 0));
    let reason = &report.degraded[POOL];
    assert!(reason.starts_with("it does not allow its template shell@1: untrusted needs"), "{reason}");
}
