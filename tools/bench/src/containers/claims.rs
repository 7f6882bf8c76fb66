//! Claims of free containers beside those of accounts, commands in them, and claims of containers that are created first.

use super::fleet::{COLD_POOL, ContainerFleet, WARM_POOL};
use crate::Ports;
use crate::answers::AnswerLog;
use crate::calls::{Answered, Call, Ending, Requester};
use crate::claim::{Report as ClaimReport, measure};
use crate::load::{Plan, Shape};
use crate::rounds::median;
use crate::summary::Spread;
use anyhow::{bail, ensure};
use contract::Allocation;
use domain::StateName;
use serde::Serialize;
use std::time::{Duration, Instant};

/// Claims of each kind before those that are measured: connections are opened and buffers of candidates filled.
pub(super) const WARM_UP: u64 = 5;
/// Pause between two looks at a sandbox that is being created: short beside a creation.
const LOOK_PAUSE: Duration = Duration::from_millis(2);
/// Time-out of a creation.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// The command whose output is waited for.
pub(super) const COMMAND: [&str; 2] = ["echo", "ready"];

/// Claims of one caller, by turns of an account and of a free container.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Claims {
    /// Claims of accounts.
    pub accounts: Spread,
    /// Claims of free containers.
    pub containers: Spread,
    /// The claim of a container and a command in it, from each start to its answer.
    pub first_output: Spread,
}

/// A burst of claims, in rounds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Burst {
    /// Callers.
    pub callers: u64,
    /// Callers that were served, in the worst round.
    pub served_least: u64,
    /// p99 of claims of accounts in each round.
    pub accounts_p99_us: Vec<u64>,
    /// p99 of claims of containers in each round.
    pub containers_p99_us: Vec<u64>,
    /// Median over the rounds of the second as a multiple of the first.
    pub p99_ratio: Option<f64>,
}

/// A claim that was granted.
struct Granted {
    owner: String,
    sandbox_id: String,
    latency_us: u64,
}

/// Claims, and the check of their answers.
pub(super) struct Claimer<'a> {
    caller: &'a Requester,
    log: AnswerLog,
}

// === impl Claimer ===

impl<'a> Claimer<'a> {
    fn new(caller: &'a Requester) -> Self {
        Self { caller, log: AnswerLog::default() }
    }

    async fn claim(&mut self, owner: String) -> anyhow::Result<Granted> {
        let began = Instant::now();
        let answered = self.caller.claim(&owner, Call::Claim).await;
        self.log.note_claim(&owner, answered.ending, answered.body.as_ref());
        let latency_us = micros(answered.at.duration_since(began));
        let Allocation { sandbox_id, .. } = wanted(answered, "a claim")?;
        Ok(Granted { owner, sandbox_id, latency_us })
    }

    fn violations(&self) -> Vec<String> {
        self.log.check().shown
    }
}

/// Claims by turns, so that changes of the machine's speed affect both kinds.
pub(super) async fn warm(fleet: &ContainerFleet, count: u64) -> anyhow::Result<(Claims, Vec<String>)> {
    let all = count + WARM_UP;
    fleet.fill(u32::try_from(all)?).await?;
    let (accounts, containers) = (fleet.caller(None)?, fleet.caller(Some(WARM_POOL))?);
    let (mut of_accounts, mut of_containers) = (Claimer::new(&accounts), Claimer::new(&containers));
    let (mut accounts_us, mut containers_us, mut outputs_us) = (Vec::new(), Vec::new(), Vec::new());
    let mut held = Vec::new();
    for number in 0..all {
        let owner = |kind: &str| format!("{}-{kind}-{number}", fleet.run);
        // The second one shares the cores with the event of the first, so they take turns.
        let (account, container) = if number % 2 == 0 {
            let account = of_accounts.claim(owner("a")).await?;
            (account, of_containers.claim(owner("c")).await?)
        } else {
            let container = of_containers.claim(owner("c")).await?;
            (of_accounts.claim(owner("a")).await?, container)
        };
        let asked = Instant::now();
        let answered = containers.execute(&container.owner, &container.sandbox_id, &COMMAND).await;
        let output_us = micros(answered.at.duration_since(asked));
        let result = wanted(answered, "a command")?;
        ensure!(result.stdout == "ready\n", "the command wrote {:?}, {:?}", result.stdout, result.stderr);
        if number >= WARM_UP {
            accounts_us.push(account.latency_us);
            containers_us.push(container.latency_us);
            outputs_us.push(container.latency_us + output_us);
        }
        held.push(container);
    }
    release(&containers, &held).await?;
    let violations = [of_accounts.violations(), of_containers.violations()].concat();
    let claims = Claims {
        accounts: Spread::of(accounts_us),
        containers: Spread::of(containers_us),
        first_output: Spread::of(outputs_us),
    };
    Ok((claims, violations))
}

/// Claims of containers that are created for them, one after the other, until each can be used.
pub(super) async fn cold(fleet: &ContainerFleet, count: u64) -> anyhow::Result<(Spread, Vec<String>)> {
    let caller = fleet.caller(Some(COLD_POOL))?;
    let mut claimer = Claimer::new(&caller);
    let mut latencies_us = Vec::new();
    for number in 0..count + WARM_UP {
        fleet.quiet().await?;
        let began = Instant::now();
        let granted = claimer.claim(format!("{}-cold-{number}", fleet.run)).await?;
        until_ready(&caller, &granted.owner, &granted.sandbox_id).await?;
        if number >= WARM_UP {
            latencies_us.push(micros(began.elapsed()));
        }
        release(&caller, &[granted]).await?;
    }
    Ok((Spread::of(latencies_us), claimer.violations()))
}

/// Bursts on a pool that has a free container for every caller, each beside one on accounts.
pub(super) async fn burst(
    fleet: &ContainerFleet,
    ports: &Ports,
    callers: u64,
    rounds: u64,
) -> anyhow::Result<(Burst, Vec<String>)> {
    let (mut accounts_p99_us, mut containers_p99_us) = (Vec::new(), Vec::new());
    let (mut served_least, mut violations) = (callers, Vec::new());
    for round in 0..rounds {
        fleet.fill(u32::try_from(callers)?).await?;
        let shape = Shape::Burst { callers: usize::try_from(callers)? };
        let plan = Plan { shape, warm_up: None, replay: false, release: false };
        let run = |caller: Requester| measure(caller, ports, "HTTP", plan.clone());
        let (accounts, containers) = (fleet.caller(None)?, fleet.caller(Some(WARM_POOL))?);
        let (accounts, containers) = if round % 2 == 0 {
            let accounts = run(accounts).await;
            (accounts, run(containers).await)
        } else {
            let containers = run(containers).await;
            (run(accounts).await, containers)
        };
        let p99_us = |report: &ClaimReport| report.granted().map(|row| row.spread.p99_us).unwrap_or_default();
        accounts_p99_us.push(p99_us(&accounts));
        containers_p99_us.push(p99_us(&containers));
        for report in [accounts, containers] {
            served_least = served_least.min(report.check.winners);
            violations.extend(report.check.shown);
        }
    }
    let ratios = accounts_p99_us.iter().zip(&containers_p99_us);
    let p99_ratio = median(ratios.map(|(accounts, containers)| *containers as f64 / *accounts as f64));
    Ok((Burst { callers, served_least, accounts_p99_us, containers_p99_us, p99_ratio }, violations))
}

/// Waits until a sandbox that is being created can be used.
pub(super) async fn until_ready(caller: &Requester, owner: &str, sandbox_id: &str) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let view = wanted(caller.view(owner, sandbox_id).await, "a look at a sandbox")?;
        match view.status.known() {
            Some(StateName::Allocated) => return Ok(()),
            Some(StateName::Provisioning) if began.elapsed() < READY_TIMEOUT => {
                tokio::time::sleep(LOOK_PAUSE).await;
            }
            _ => bail!("{sandbox_id} is {} after {:.0?}", view.status.as_str(), began.elapsed()),
        }
    }
}

/// A claim that has to be granted; returns the sandbox.
pub(super) async fn claim(caller: &Requester, owner: &str) -> anyhow::Result<String> {
    Ok(wanted(caller.claim(owner, Call::Claim).await, "a claim")?.sandbox_id)
}

/// Releases one sandbox.
pub(super) async fn release_one(caller: &Requester, owner: &str, sandbox_id: &str) -> anyhow::Result<()> {
    wanted(caller.release(owner, sandbox_id).await, "a release").map(drop)
}

async fn release(caller: &Requester, held: &[Granted]) -> anyhow::Result<()> {
    for Granted { owner, sandbox_id, .. } in held {
        release_one(caller, owner, sandbox_id).await?;
    }
    Ok(())
}

pub(super) fn wanted<T>(answered: Answered<T>, what: &str) -> anyhow::Result<T> {
    match answered {
        Answered {
            ending: Ending::Created | Ending::Released | Ending::Answered, body: Some(body), ..
        } => Ok(body),
        Answered { ending, .. } => bail!("{what} was answered with {}", ending.as_str()),
    }
}

pub(super) fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
