//! Pools and providers: settings of each pool, changes while the fleet runs, and two providers that do not affect each
//! other.

use contract::{Report, RunStatus, TickKind};
use domain::{NamePrefix, StateName};
use futures_util::StreamExt as _;
use harness::http::Answer;
use harness::process::run;
use harness::rig::{CSP_TOKEN, Plan, Rig};
use harness::wait::{TIMEOUT, eventually};
use ports::bus::Ticks as _;
use ports::random::Rng;
use reqwest::Method;
use runtime::settings::Secret;
use serde_json::{Value, json};
use simulator::{Fault, FaultKind, Operation, Simulator};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const MINUTE: u64 = 60;
/// Claims during changes of pools: fewer than there are sandboxes.
const CLAIMS_MAX: usize = 1_900;
const SERVER_ERROR: FaultKind =
    FaultKind::Status { status: 500, message: None, retry_after_seconds: None, retry_after_as_date: false };

async fn put(rig: &Rig, pool: &str, settings: &Value) -> Answer {
    rig.api.admin_with(Method::PUT, &format!("/v1/pools/{pool}"), settings).await
}

async fn allocate_in(rig: &Rig, owner: &str, pool: &str) -> Answer {
    rig.api.allocate_with(owner, &[("X-Sandbox-Pool", pool)]).await
}

fn length(claim: &Answer) -> u64 {
    claim.body["expires_at"].as_u64().unwrap() - claim.body["allocated_at"].as_u64().unwrap()
}

#[tokio::test]
async fn five_pools_have_five_lease_policies() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pools.toml");
    let pools = "[main]\n\
        [p0]\nname_prefix = \"p0\"\nlease = { duration_minutes = 1 }\n\
        [p1]\nname_prefix = \"p1\"\nlease = { duration_minutes_max = 30, grace_minutes = 0 }\n\
        [p2]\nname_prefix = \"p2\"\nlease = { duration_minutes = 6000 }\n\
        [p3]\nname_prefix = \"p3\"\nlease = { duration_minutes = 10, grace_minutes = 600 }\n";
    std::fs::write(&file, pools).unwrap();
    let rig = Plan::new(1).set("POOLS_FILE", file.display()).start().await;
    for prefix in ["p0", "p1", "p2", "p3"] {
        rig.csp.add_accounts(1, Some(&NamePrefix::parse(prefix).unwrap())).unwrap();
    }
    assert_eq!(rig.sync().await.inserted, 4);
    let mut held = Vec::new();
    for (pool, minutes) in [("main", 240), ("p0", 1), ("p1", 30), ("p2", 6_000), ("p3", 10)] {
        let claim = allocate_in(&rig, &format!("of-{pool}"), pool).await;
        assert_eq!(claim.status, 201, "{pool}: {claim:?}");
        assert_eq!(length(&claim), minutes * MINUTE, "{pool}: {claim:?}");
        held.push((pool, claim.sandbox().to_owned()));
    }
    let too_long = &[("X-Sandbox-Pool", "p1"), ("X-Lab-Duration", "1h")];
    let refused = rig.api.allocate_with("greedy", too_long).await;
    assert_eq!((refused.status, refused.code()), (400, "INVALID_REQUEST"), "{refused:?}");
    let refused = rig.api.extend(&held[2].1, "of-p1", 73).await;
    assert_eq!(refused.status, 400, "{refused:?}");

    // After 32 minutes p0 is over with its grace of 30, and p1 with none; p3 is over but in its grace.
    rig.clock.advance(Duration::from_secs(32 * MINUTE));
    rig.run(TickKind::EXPIRY).await;
    for (pool, id) in &held {
        let state = if matches!(*pool, "p0" | "p1") { StateName::Deleted } else { StateName::Allocated };
        rig.until_state(id, state).await;
    }
    rig.stop().await;
}

#[tokio::test]
async fn pool_changes_take_effect_without_a_restart() {
    let rig = Plan::new(30).set("POOLS", "labs=lab-0000,main").start().await;
    let made = put(&rig, "tens", &json!({"name_prefix": "ten-", "lease": {"duration_minutes": 10}})).await;
    assert_eq!((made.status, &made.body["version"]), (200, &json!(1)), "{made:?}");
    rig.csp.add_accounts(3, Some(&NamePrefix::parse("ten-").unwrap())).unwrap();
    eventually("the new accounts in the new pool", TIMEOUT, || async {
        rig.sync().await;
        let claim = allocate_in(&rig, "first", "tens").await;
        if claim.status == 201 || claim.status == 200 { Ok(claim) } else { Err(claim) }
    })
    .await;
    let again = put(&rig, "tens", &json!({"name_prefix": "ten-", "lease": {"duration_minutes": 10}})).await;
    assert_eq!(again.body["version"], json!(1), "the same settings change nothing");
    let other = json!({"name_prefix": "ten-", "lease": {"duration_minutes": 20}});
    let late = rig.api.admin_with(Method::PUT, "/v1/pools/tens?version=7", &other).await;
    assert_eq!((late.status, late.code()), (409, "INVALID_STATE"), "{late:?}");
    assert_eq!(put(&rig, "tens", &other).await.body["version"], json!(2));
    eventually("the new length in every allocator", TIMEOUT, || async {
        for number in 0..2 {
            let claim = allocate_in(&rig, &format!("then-{number}"), "tens").await;
            assert!(claim.status == 201 || claim.status == 200, "{claim:?}");
        }
        let pools = rig.api.admin(Method::GET, "/v1/pools/tens").await;
        if pools.body["lease"]["duration_minutes"] == json!(20) { Ok(()) } else { Err(pools) }
    })
    .await;

    // Bad settings are refused with their field.
    for (settings, field) in [
        (json!({"kind": "container"}), "template"),
        (json!({"kind": "container", "provider": "csp", "template": "shell"}), "kind"),
        (json!({"provider": "csp-eu"}), "provider"),
        (json!({"name_prefix": "lab-0000"}), "name_prefix"),
        (json!({"lease": {"duration_minutes": 0}}), "lease.duration_minutes"),
        (json!({"prefix": "x"}), "the body"),
        (json!({"runtime": "runsc"}), "runtime does not apply"),
        (json!({"kind": "container", "template": "shell", "runtime": "crun"}), "runtime must be one of"),
        (
            json!({"kind": "container", "template": "shell", "images": {"allowed": ["nginx"]}}),
            "images.allowed",
        ),
    ] {
        let refused = put(&rig, "bad", &settings).await;
        assert_eq!((refused.status, refused.code()), (400, "INVALID_REQUEST"), "{settings}: {refused:?}");
        assert!(refused.body["detail"]["message"].as_str().unwrap().contains(field), "{refused:?}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn drained_pool_grants_nothing_and_is_removed_when_it_is_empty() {
    let rig = Plan::new(12).set("POOLS", "labs=lab-0000,main").start().await;
    let held = allocate_in(&rig, "student-1", "labs").await;
    assert_eq!(held.status, 201, "{held:?}");
    let early = rig.api.admin(Method::DELETE, "/v1/pools/labs").await;
    assert_eq!((early.status, early.code()), (409, "INVALID_STATE"), "{early:?}");
    let drained = rig.api.admin(Method::POST, "/v1/pools/labs/drain").await;
    assert_eq!((drained.status, &drained.body["state"]), (200, &json!("draining")), "{drained:?}");
    eventually("every allocator to refuse", TIMEOUT, || async {
        for number in 0..8 {
            let claim = allocate_in(&rig, &format!("late-{number}"), "labs").await;
            if claim.code() != "POOL_EXHAUSTED" {
                return Err(claim);
            }
        }
        Ok(())
    })
    .await;
    let repeat = allocate_in(&rig, "student-1", "labs").await;
    assert_eq!((repeat.status, &repeat.body), (200, &held.body), "a repeat is answered");
    rig.csp.add_accounts(2, Some(&NamePrefix::parse("lab-0000x").unwrap())).unwrap();
    let sync = rig.sync().await;
    assert_eq!((sync.status, sync.inserted), (RunStatus::Completed, 0), "{sync:?}");
    let busy = rig.api.admin(Method::DELETE, "/v1/pools/labs").await;
    assert_eq!((busy.status, busy.code()), (409, "INVALID_STATE"), "{busy:?}");

    let settled = rig.api.admin(Method::GET, "/v1/admin/sandboxes?pool=labs&status=allocated").await;
    for sandbox in settled.body["sandboxes"].as_array().unwrap() {
        let (id, owner) =
            (sandbox["sandbox_id"].as_str().unwrap(), sandbox["allocated_to_track"].as_str().unwrap());
        assert_eq!(rig.api.release(id, owner).await.status, 200);
        rig.until_state(id, StateName::Deleted).await;
    }
    let removed = eventually("the pool to be removed", TIMEOUT, || async {
        let removed = rig.api.admin(Method::DELETE, "/v1/pools/labs").await;
        if removed.status == 200 { Ok(removed) } else { Err(removed) }
    })
    .await;
    assert_eq!(removed.body["state"], json!("unknown"), "{removed:?}");
    let claim = rig.api.allocate("student-2").await;
    assert_eq!(claim.status, 201, "the other pool serves: {claim:?}");
    rig.stop().await;
}

#[tokio::test]
async fn pools_are_changed_by_the_command_line() {
    let rig = Plan::new(4).start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pools.toml");
    std::fs::write(&file, "[labs]\nname_prefix = \"x-\"\nlease = { duration_minutes = 7 }\n").unwrap();
    let say = |arguments: &[&str]| {
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let env: Vec<(String, String)> =
            rig.env.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        async move {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let env: Vec<(&str, &str)> =
                env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let output = run(&arguments, &env).await;
            let said = [output.stdout, output.stderr].concat();
            (output.status.success(), String::from_utf8_lossy(&said).into_owned())
        }
    };
    let (is_ok, said) = say(&["pools", "apply", file.to_str().unwrap()]).await;
    assert!(is_ok && said.contains("labs: active, version 1"), "{said}");
    let (is_ok, said) = say(&["pools", "list"]).await;
    assert!(is_ok && said.contains("main (default)") && said.contains("7m"), "{said}");
    let (is_ok, said) = say(&["pools", "drain", "labs"]).await;
    assert!(is_ok && said.contains("labs: draining, version 2"), "{said}");
    let (is_ok, said) = say(&["pools", "show", "labs"]).await;
    assert!(is_ok && said.lines().any(|line| line.split_whitespace().eq(["state", "draining"])), "{said}");
    let (is_ok, said) = say(&["pools", "show", "labs", "--json"]).await;
    assert!(is_ok && said.contains("\"state\": \"draining\""), "{said}");
    let (is_ok, said) = say(&["pools", "remove", "labs"]).await;
    assert!(is_ok && said.contains("labs: removed"), "{said}");
    let (is_ok, said) = say(&["pools", "show", "nonsense"]).await;
    assert!(!is_ok && said.contains("there is no such pool"), "{said}");
    rig.stop().await;
}

/// Claims and releases in a pool until it is stopped; returns how many were granted.
async fn claims_go_on(rig: &Rig, stop: &AtomicBool, per_second: u64) -> u64 {
    let granted = AtomicU64::new(0);
    let pace = tokio::time::interval(Duration::from_micros(1_000_000 / per_second));
    let paced = futures_util::stream::unfold((pace, 0_u64), |(mut pace, number)| async move {
        pace.tick().await;
        Some((number, (pace, number + 1)))
    });
    paced
        .take(CLAIMS_MAX)
        .take_while(|_| std::future::ready(!stop.load(Ordering::SeqCst)))
        .for_each_concurrent(64, |number| {
            let granted = &granted;
            async move {
                let owner = format!("steady-{number}");
                let claim = rig.api.allocate(&owner).await;
                assert_eq!(claim.status, 201, "{claim:?}");
                granted.fetch_add(1, Ordering::SeqCst);
            }
        })
        .await;
    granted.into_inner()
}

async fn is_done(change: impl Future<Output = Answer>) -> Result<(), Answer> {
    let answer = change.await;
    if answer.status == 200 { Ok(()) } else { Err(answer) }
}

#[tokio::test]
async fn pool_changes_fail_no_claim_of_other_pools() {
    let rig = Plan::new(2_000).set("TOKEN_RATE_PER_SECOND", 0).set("PEER_RATE_PER_SECOND", 0).start().await;
    let stop = AtomicBool::new(false);
    let changes = async {
        let mut pace = tokio::time::interval(Duration::from_millis(500));
        for round in 0..6 {
            pace.tick().await;
            let settings =
                json!({"name_prefix": format!("x{round}-"), "lease": {"duration_minutes": 5 + round}});
            let main = json!({"lease": {"duration_minutes": 100 + round}});
            // Under this load on a debug build an operator may have to repeat a change; a caller need not repeat a claim.
            eventually("a change of the other pool", TIMEOUT, || is_done(put(&rig, "other", &settings)))
                .await;
            eventually("a change of this pool", TIMEOUT, || is_done(put(&rig, "main", &main))).await;
            let drain = || is_done(rig.api.admin(Method::POST, "/v1/pools/other/drain"));
            eventually("the other pool to drain", TIMEOUT, drain).await;
        }
        stop.store(true, Ordering::SeqCst);
    };
    let (granted, ()) = tokio::join!(claims_go_on(&rig, &stop, 200), changes);
    assert!(granted > 100, "{granted}");
    rig.stop().await;
}

/// A fleet on two simulators: the pools `main` of the first one and `eu` of the other.
struct TwoProviders {
    rig: Rig,
    other: simulator::Running,
    _folder: tempfile::TempDir,
}

impl TwoProviders {
    async fn start(accounts: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = simulator::Config { accounts, ..simulator::Config::local(Secret::new(CSP_TOKEN)) };
        let plan = Plan::new(accounts);
        let clock = harness::clock::ShiftedClock::default();
        let other = Simulator::start(config, Arc::new(clock), Arc::new(Rng::unseeded())).await.unwrap();
        let (pools, providers) = (folder.path().join("pools.toml"), folder.path().join("providers.toml"));
        std::fs::write(&pools, "[main]\n[eu]\nprovider = \"csp-eu\"\n").unwrap();
        let section = format!(
            "[csp-eu]\nCSP_BASE_URL = \"{}\"\nCSP_API_TOKEN = \"{CSP_TOKEN}\"\nDELETIONS_PER_MINUTE = 1200\n\
             BREAKER_FAILURES_MAX = 1\nBREAKER_OPEN_SECONDS_MIN = 600\nBREAKER_OPEN_SECONDS_MAX = 600\n",
            other.base_url()
        );
        std::fs::write(&providers, section).unwrap();
        let rig = plan
            .set("POOLS_FILE", pools.display())
            .set("PROVIDERS_FILE", providers.display())
            .start_unsynced()
            .await;
        let two = Self { rig, other, _folder: folder };
        eventually("the accounts of both", TIMEOUT, || async {
            match two.rig.count(StateName::Available).await {
                count if count == 2 * accounts => Ok(()),
                count => Err(count),
            }
        })
        .await;
        two
    }

    async fn free_in(&self, pool: &str) -> u64 {
        self.rig.api.stats().await["pools"][pool]["available"].as_u64().unwrap()
    }

    async fn stop(self) {
        self.rig.stop().await;
        self.other.stop().await.unwrap();
    }
}

#[tokio::test]
async fn listing_of_one_provider_concerns_only_its_own_sandboxes() {
    let two = TwoProviders::start(6).await;
    let (rig, other) = (&two.rig, two.other.handle());
    let claim = allocate_in(rig, "student-1", "eu").await;
    assert!(claim.status == 201 && claim.sandbox().starts_with("csp-eu_"), "{claim:?}");
    let sandbox = rig.sandbox(claim.sandbox()).await.unwrap();
    assert!(other.exists(&sandbox.external_id) && sandbox.external_id.provider().as_str() == "csp-eu");

    // A provider that fails, and one whose accounts are gone, leave the other one's sandboxes as they are.
    other.fail(Operation::List, Fault::always(SERVER_ERROR)).unwrap();
    let sync = rig.sync().await;
    assert_eq!(sync.status, RunStatus::Failed, "{sync:?}");
    assert_eq!(sync.providers["csp"].status, RunStatus::Completed, "{sync:?}");
    assert_eq!(sync.providers["csp-eu"].status, RunStatus::Failed, "{sync:?}");
    assert_eq!((two.free_in("main").await, two.free_in("eu").await), (6, 5));
    other.clear_faults();
    for account in other.accounts().into_iter().take(3) {
        let url =
            format!("{}/sandbox/accounts/{}", two.other.base_url(), account.id.rsplit('/').next().unwrap());
        let request = rig.api.client.delete(url).header("Authorization", format!("Token {CSP_TOKEN}"));
        assert!(request.send().await.unwrap().status().is_success());
    }
    let sync = rig.sync().await;
    assert_eq!(sync.status, RunStatus::Completed, "{sync:?}");
    assert!(sync.marked_stale >= 2, "{sync:?}");
    assert_eq!(two.free_in("main").await, 6, "{sync:?}");
    two.stop().await;
}

#[tokio::test]
async fn open_breaker_of_one_provider_does_not_delay_the_other() {
    let two = TwoProviders::start(6).await;
    let (rig, other) = (&two.rig, two.other.handle());
    other.fail(Operation::Delete, Fault::always(SERVER_ERROR)).unwrap();
    let mut of_eu = Vec::new();
    for number in 0..3 {
        let owner = format!("eu-{number}");
        let claim = allocate_in(rig, &owner, "eu").await;
        assert_eq!(rig.api.release(claim.sandbox(), &owner).await.status, 200, "{claim:?}");
        of_eu.push(claim.sandbox().to_owned());
    }
    let status = eventually("the breaker of csp-eu to open", TIMEOUT, || async {
        let status = rig.api.stats().await["deletions"].clone();
        if status["providers"]["csp-eu"]["state"] == json!("breaker_open") { Ok(status) } else { Err(status) }
    })
    .await;
    assert_eq!(status["state"], json!("running"), "{status}");
    for number in 0..3 {
        let owner = format!("main-{number}");
        let claim = allocate_in(rig, &owner, "main").await;
        assert_eq!(rig.api.release(claim.sandbox(), &owner).await.status, 200, "{claim:?}");
        rig.until_state(claim.sandbox(), StateName::Deleted).await;
    }
    for id in &of_eu {
        assert_eq!(rig.sandbox(id).await.unwrap().state.name(), StateName::PendingDeletion, "{id}");
    }
    two.stop().await;
}

#[tokio::test]
async fn two_providers_may_use_the_same_numbers() {
    let two = TwoProviders::start(3).await;
    let rig = &two.rig;
    let listed = rig.api.admin(Method::GET, "/v1/admin/sandboxes?status=available&pool=eu").await;
    let of_eu = listed.body["sandboxes"].as_array().unwrap();
    assert_eq!(of_eu.len(), 3, "{listed:?}");
    for entry in of_eu {
        // Both simulators count from the same number.
        let id = entry["sandbox_id"].as_str().unwrap();
        let number = id.strip_prefix("csp-eu_").unwrap();
        let (there, here) = (rig.sandbox(id).await.unwrap(), rig.sandbox(number).await.unwrap());
        assert_eq!((there.pool.as_str(), here.pool.as_str()), ("eu", "main"));
        assert_ne!(there.external_id, here.external_id);
        for sandbox in [&there, &here] {
            let identity = rig.store.identity(&sandbox.external_id).await.unwrap().expect("an identity");
            assert_eq!(identity.sandbox_id, sandbox.id);
        }
    }
    let census = rig.census().await.census;
    assert_eq!(census.violations[&contract::Violation::IdentityTwice.into()], 0, "{census:?}");
    two.stop().await;
}

#[tokio::test]
async fn pool_has_its_listing_read_in_its_own_period() {
    let two = TwoProviders::start(2).await;
    let (rig, other) = (&two.rig, two.other.handle());
    let sync = || async {
        let report = rig.bus.last_report(TickKind::SYNC).await.unwrap().unwrap();
        let Report::Sync(sync) = report.report else { panic!("{report:?}") };
        (report.tick, sync)
    };
    let settings = json!({"provider": "csp-eu", "sync_seconds": 10});
    assert_eq!(put(rig, "eu", &settings).await.status, 200);
    other.add_accounts(1, None).unwrap();
    // The period of the settings is an hour.
    eventually("the new account", TIMEOUT, || async {
        match two.free_in("eu").await {
            3 => Ok(()),
            count => Err(count),
        }
    })
    .await;
    let (first, _) = sync().await;
    let second = eventually("a sync that leaves the other provider out", TIMEOUT, || async {
        match sync().await {
            (tick, sync) if tick > first => Ok(sync),
            (_, sync) => Err(sync),
        }
    })
    .await;
    assert_eq!((second.status, second.not_due.as_slice()), (RunStatus::Completed, &["csp".to_owned()][..]));
    assert_eq!((second.listed, second.providers["csp-eu"].listed), (3, 3), "{second:?}");
    let all = rig.sync().await;
    assert_eq!((all.listed, all.not_due.len()), (5, 0), "an operator's sync reads every listing: {all:?}");
    two.stop().await;
}
