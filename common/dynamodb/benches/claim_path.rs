//! The CPU-only parts of a claim: their time and their allocations.
//!
//! `make bench` measures them; `cargo test` skips them. They use public items only. `dynamodb::baseline` exposes the
//! stored item for this purpose.

use contract::subjects::Subjects;
use contract::{AllocateRequest, Allocation, Verb};
use divan::{AllocProfiler, Bencher, black_box};
use domain::{
    ClaimKey, ExternalId, Grant, IdempotencyKey, LabId, LeasePolicy, NamePrefix, NewSandbox, OwnerId,
    PoolName, Pools, ProviderName, Sandbox, SandboxId, SandboxName, Transition, UnixSeconds,
};
use dynamodb::baseline::{StoredSandbox, shard};
use std::error::Error;
use std::time::Duration;

/// Counts what every benchmark allocates.
#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

/// A claim as a lab sends it, with everything that it may say.
const REQUEST: &[u8] = br#"{"owner":"instruqt-8f2c1d3e4b5a","lab":"dns-security-101","idempotency_key":"8f2c1d3e-4b5a-6978","pool":"labs","name_prefix":"lab-adventure-","lab_duration_hours":4}"#;
/// Shards of the index, as the fleet has by default.
const SHARDS: u16 = 8;
const NOW: UnixSeconds = UnixSeconds::new(1_800_000_000);
const LEASE: Duration = Duration::from_secs(4 * 3_600);

fn main() {
    divan::main();
}

/// A validated claim, as an allocator keeps it.
struct Claim {
    _key: ClaimKey,
    _lab: Option<LabId>,
    _pool: PoolName,
    _prefix: Option<NamePrefix>,
}

type Fallible<T> = Result<T, Box<dyn Error>>;

fn parse_and_check(body: &[u8]) -> Fallible<Claim> {
    let AllocateRequest {
        owner,
        lab,
        idempotency_key,
        pool,
        name_prefix,
        lab_duration_hours: _,
        lab_duration_minutes: _,
        warm: _,
        by: _,
        ..
    } = serde_json::from_slice(body)?;
    let owner = OwnerId::parse(&owner)?;
    let key = match &idempotency_key {
        None => IdempotencyKey::from(&owner),
        Some(key) => IdempotencyKey::parse(key)?,
    };
    Ok(Claim {
        _key: ClaimKey { owner, key },
        _lab: lab.as_deref().map(LabId::parse).transpose()?,
        _pool: PoolName::parse(pool.as_deref().unwrap_or("main"))?,
        _prefix: name_prefix.as_deref().map(NamePrefix::parse).transpose()?,
    })
}

fn id() -> Fallible<SandboxId> {
    Ok(SandboxId::parse("2a7e4c1b-93d5-4f60-8a2b-1c3d5e7f9a0b")?)
}

fn free() -> Fallible<Sandbox> {
    let new = NewSandbox {
        id: id()?,
        name: SandboxName::parse("lab-adventure-0000042")?,
        external_id: ExternalId::parse("identity/accounts/2a7e4c1b-93d5-4f60-8a2b-1c3d5e7f9a0b")?,
        pool: PoolName::parse("labs")?,
        descriptor: domain::Descriptor::default(),
    };
    Ok(new.enter(NOW))
}

fn grant_of(sandbox: &Sandbox) -> Fallible<Grant> {
    let owner = OwnerId::parse("instruqt-8f2c1d3e4b5a")?;
    let claim = ClaimKey { key: IdempotencyKey::parse("8f2c1d3e-4b5a-6978")?, owner };
    let lab = Some(LabId::parse("dns-security-101")?);
    let expires_at = NOW.after(LEASE);
    Ok(Grant {
        claim,
        candidate: sandbox.candidate(),
        lab,
        by: None,
        request: None,
        granted_at: NOW,
        expires_at,
        options: None,
    })
}

fn held() -> Fallible<Sandbox> {
    let sandbox = free()?;
    let grant = grant_of(&sandbox)?;
    Ok(sandbox.apply(&Transition::grant(&grant))?)
}

/// Measures `work` on `input`. If the input cannot be made, the benchmark reports that instead of measuring nothing.
fn on<I: Sync, O>(bencher: Bencher<'_, '_>, input: Fallible<I>, work: impl Fn(&I) -> O + Sync) {
    match input {
        Ok(input) => bencher.bench(|| work(black_box(&input))),
        Err(error) => {
            eprintln!("cannot be measured: {error}");
            std::process::exit(1);
        }
    }
}

#[divan::bench]
fn request_parsed_and_checked(bencher: Bencher<'_, '_>) {
    on(bencher, parse_and_check(REQUEST).map(|_| REQUEST), |body| parse_and_check(body).is_ok());
}

#[divan::bench]
fn ids_parsed(bencher: Bencher<'_, '_>) {
    on(bencher, id().map(|id| id.to_string()), |text| SandboxId::parse(text));
}

#[divan::bench]
fn claim_key_from_owner(bencher: Bencher<'_, '_>) {
    let owner = OwnerId::parse("instruqt-8f2c1d3e4b5a").map_err(Into::into);
    on(bencher, owner, |owner| ClaimKey { owner: owner.clone(), key: IdempotencyKey::from(owner) });
}

#[divan::bench]
fn pool_of_a_name(bencher: Bencher<'_, '_>) {
    let input = || -> Fallible<(Pools, SandboxName)> {
        let rules = Pools::new(Pools::parse("exams=exam-,labs=lab-,main")?, LeasePolicy::default());
        Ok((rules, SandboxName::parse("lab-adventure-0000042")?))
    };
    on(bencher, input(), |(rules, name)| rules.pool_of(&ProviderName::csp(), name).is_some());
}

#[divan::bench]
fn subject_of_a_claim(bencher: Bencher<'_, '_>) {
    let subjects = Subjects::with_prefix("sandbox").map_err(Into::into);
    on(bencher, subjects, |subjects| subjects.request(black_box(Verb::Allocate)));
}

#[divan::bench]
fn shard_of_a_sandbox(bencher: Bencher<'_, '_>) {
    on(bencher, id(), |id| shard(id, black_box(SHARDS)));
}

#[divan::bench]
fn free_sandbox_claimed(bencher: Bencher<'_, '_>) {
    let input = free().and_then(|sandbox| Ok((grant_of(&sandbox)?, sandbox)));
    on(bencher, input, |(grant, sandbox)| sandbox.clone().apply(&Transition::grant(grant)));
}

#[divan::bench]
fn item_encoded(bencher: Bencher<'_, '_>) {
    on(bencher, held(), |sandbox| StoredSandbox::of(sandbox, SHARDS));
}

#[divan::bench]
fn item_decoded(bencher: Bencher<'_, '_>) {
    let stored = held().map(|sandbox| StoredSandbox::of(&sandbox, SHARDS));
    on(bencher, stored, StoredSandbox::decode);
}

#[divan::bench]
fn reply_built(bencher: Bencher<'_, '_>) {
    on(bencher, held(), |sandbox| Allocation::of(sandbox).map(|reply| serde_json::to_vec(&reply)));
}
