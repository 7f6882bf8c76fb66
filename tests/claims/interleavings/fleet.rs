//! A few processes, their callers, and the scheduler that decides which call continues.

use super::Weather;
use super::gate::Board;
use super::observations::{Followed, Observations};
use crate::engines::Engine;
use crate::world::{Answered, GRACE, LEASE, Process, World, claim_of, id, new_sandbox};
use contract::{AllocateRequest, FaultCode, Outcome, ReleaseReply};
use domain::{ClaimKey, DeletionCause, IdempotencyKey, OwnerId, Sandbox, SandboxId, StateName};
use futures_util::future::join_all;
use ports::clock::Clock as _;
use ports::random::{Random as _, Rng};
use ports::store::Store;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use testkit::interposed::InterposedStore;
use tokio::task::JoinHandle;

/// Allocators at once.
const PROCESSES: usize = 2;
/// Free sandboxes at the beginning: fewer than keys, so that some keys get none.
const SANDBOXES: u64 = 3;
/// Numbers of sandboxes that a sync may list.
const LISTED_MAX: usize = 7;
/// Requests in one run.
const ASKS: usize = 30;
/// Requests in progress at once.
const ASKS_AT_ONCE: usize = 5;
/// One step of time: two steps are longer than a lease and its grace period.
const TIME_STEP: Duration = Duration::from_secs((LEASE.as_secs() + GRACE.as_secs()) / 2);
/// Steps before a run counts as stuck.
const STEPS_MAX: usize = 10_000;
/// The timeout of a request: longer than any run.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Owners and the keys that they send. Two owners use the same key, which makes separate claims.
const CLAIMS: [(&str, Option<&str>); 4] =
    [("ann", None), ("ann", Some("second")), ("ben", None), ("ben", Some("ann"))];

/// A run.
pub(crate) struct Fleet {
    engine: Engine,
    world: World,
    board: Arc<Board>,
    rng: Rng,
    weather: Weather,
    observations: Observations,
    processes: Vec<(usize, Process)>,
    /// Processes started so far, which is also the next process's number.
    started: usize,
    running: Vec<Running>,
    asks_left: usize,
    /// The leases that the answers to owners name.
    granted: Vec<(SandboxId, &'static str)>,
    diary: Diary,
    /// Numbers of the processes that had a failed call.
    failed: Vec<usize>,
    /// How often callers got each answer.
    answers: BTreeMap<&'static str, u64>,
}

/// The steps of a run; printed if it fails.
struct Diary {
    seed: u64,
    steps: Vec<String>,
}

struct Running {
    process: usize,
    what: What,
}

enum What {
    Claim { owner: &'static str, followed: Followed, task: JoinHandle<Answered> },
    Release { id: SandboxId, task: JoinHandle<Result<ReleaseReply, FaultCode>> },
    Chore(JoinHandle<()>),
}

/// Actions on a sandbox by roles other than the allocator.
#[derive(Clone, Copy, Debug)]
enum Chore {
    Missing,
    Found,
    Expire,
    Delete,
    List,
}

impl Drop for Diary {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the run of seed {}:\n  {}", self.seed, self.steps.join("\n  "));
        }
    }
}

fn request_of((owner, key): (&str, Option<&str>)) -> AllocateRequest {
    AllocateRequest { idempotency_key: key.map(ToOwned::to_owned), ..claim_of(owner) }
}

fn key_of((owner, key): (&str, Option<&str>)) -> ClaimKey {
    let key = IdempotencyKey::parse(key.unwrap_or(owner)).unwrap();
    ClaimKey { owner: OwnerId::parse(owner).unwrap(), key }
}

// === impl Fleet ===

impl Fleet {
    pub(crate) async fn new(engine: Engine, seed: u64, weather: Weather) -> Self {
        let world = World::new(engine, SANDBOXES, seed).await;
        let mut fleet = Self {
            engine,
            world,
            board: Arc::default(),
            rng: Rng::seeded(seed),
            weather,
            observations: Observations::default(),
            processes: Vec::new(),
            started: 0,
            running: Vec::new(),
            asks_left: ASKS,
            granted: Vec::new(),
            diary: Diary { seed, steps: Vec::new() },
            failed: Vec::new(),
            answers: BTreeMap::new(),
        };
        (0..PROCESSES).for_each(|_| fleet.start_process());
        fleet.look().await;
        fleet
    }

    /// Sends requests and lets calls continue one by one, until every request is sent and answered.
    pub(crate) async fn live(&mut self) {
        for _ in 0..STEPS_MAX {
            self.board.settle().await;
            self.collect().await;
            let waiting = self.board.waiting();
            if waiting == 0 && self.asks_left == 0 {
                assert!(self.running.is_empty(), "a claim waits for what never comes");
                return;
            }
            self.step(waiting).await;
        }
        panic!("the run does not end");
    }

    /// How often callers got each answer, and how often each state change occurred.
    pub(crate) fn tally(&self) -> BTreeMap<&'static str, u64> {
        let mut tally = self.answers.clone();
        for entry in self.observations.histories() {
            *tally.entry(entry.cause.as_str()).or_default() += 1;
        }
        tally
    }

    async fn step(&mut self, waiting: usize) {
        if self.once_in(self.weather.crashes) {
            return self.crash();
        }
        if self.once_in(self.weather.hang_ups) && !self.running.is_empty() {
            return self.hang_up();
        }
        let may_ask = self.asks_left > 0 && self.running.len() < ASKS_AT_ONCE;
        if may_ask && (waiting == 0 || self.once_in(4)) {
            return self.ask();
        }
        if waiting == 0 {
            return;
        }
        let point = self.board.take(self.rng.below(waiting));
        let step = format!("process {} {:?} {}", point.process, point.side, point.operation);
        if self.once_in(self.weather.fails) {
            self.diary.steps.push(format!("{step}: fails"));
            self.failed.push(point.process);
            point.fail();
        } else {
            let changes_a_sandbox = point.changes_a_sandbox();
            self.diary.steps.push(step);
            point.pass();
            if changes_a_sandbox {
                self.board.settle().await;
                self.look_after_a_call().await;
            }
        }
    }

    /// True one time in `times`, at random; never for zero.
    fn once_in(&self, times: usize) -> bool {
        times > 0 && self.rng.below(times) == 0
    }

    fn start_process(&mut self) {
        let process = self.world.process_over(self.gated(self.started));
        self.processes.push((self.started, process));
        self.started += 1;
    }

    /// The store as that process reaches it.
    fn gated(&self, process: usize) -> Arc<dyn Store> {
        Arc::new(InterposedStore::over(Arc::clone(&self.world.store), self.board.gate(process)))
    }

    fn crash(&mut self) {
        let (number, _) = self.processes.remove(self.rng.below(PROCESSES));
        self.diary.steps.push(format!("process {number} crashes"));
        self.board.kill(number);
        self.running.retain(|running| {
            if running.process == number {
                running.abort();
            }
            running.process != number
        });
        self.start_process();
    }

    fn hang_up(&mut self) {
        let running = self.running.swap_remove(self.rng.below(self.running.len()));
        self.diary.steps.push(format!("a caller of process {} hangs up", running.process));
        running.abort();
    }

    fn ask(&mut self) {
        self.asks_left -= 1;
        let which = self.rng.below(self.processes.len());
        let (number, process) = self.processes[which].clone();
        let (process_number, what) = match self.rng.below(12) {
            0..5 => (number, self.claim(process)),
            5..7 => match self.release(process) {
                Some(release) => (number, release),
                None => return,
            },
            7..10 => {
                let chore = self.chore();
                self.started += 1;
                (self.started - 1, chore)
            }
            _ => {
                self.diary.steps.push("time goes by".to_owned());
                return self.world.clock.advance(TIME_STEP);
            }
        };
        self.running.push(Running { process: process_number, what });
    }

    fn claim(&mut self, process: Process) -> What {
        let claim = CLAIMS[self.rng.below(CLAIMS.len())];
        self.diary.steps.push(format!("{claim:?} claims"));
        let followed = self.observations.follow(&key_of(claim), self.world.clock.now());
        let task = tokio::spawn(async move { process.ask(&request_of(claim), TIMEOUT).await });
        What::Claim { owner: claim.0, followed, task }
    }

    fn release(&mut self, process: Process) -> Option<What> {
        if self.granted.is_empty() {
            return None;
        }
        let (id, owner) = self.granted[self.rng.below(self.granted.len())].clone();
        self.diary.steps.push(format!("{owner} releases {id}"));
        let sandbox_id = id.to_string();
        let task = tokio::spawn(async move { process.release(&sandbox_id, owner).await });
        Some(What::Release { id, task })
    }

    /// An action that makes sense for the current states, which may have changed when it is carried out.
    fn chore(&mut self) -> What {
        let chores = [
            (Chore::Missing, StateName::Available),
            (Chore::Found, StateName::Stale),
            (Chore::Expire, StateName::Allocated),
            (Chore::Delete, StateName::PendingDeletion),
        ];
        let mut sensible = vec![(Chore::List, id(self.rng.below(LISTED_MAX) as u64 + 1))];
        for (chore, state) in chores {
            sensible
                .extend(self.observations.in_state(state).iter().map(|sandbox| (chore, sandbox.id.clone())));
        }
        let (chore, target) = sensible.swap_remove(self.rng.below(sensible.len()));
        let number = target.as_str().parse().unwrap();
        self.diary.steps.push(format!("process {}: {chore:?} of {number}", self.started));
        let (store, clock) = (self.gated(self.started), self.world.clock.clone());
        What::Chore(tokio::spawn(async move {
            // A failed action is left to the next run of its kind.
            let _ = chore.run(&*store, number, &clock).await;
        }))
    }

    /// Collects the answers of finished requests.
    async fn collect(&mut self) {
        let (done, running) = std::mem::take(&mut self.running).into_iter().partition(Running::is_done);
        self.running = running;
        let done: Vec<Running> = done;
        for Running { process, what } in done {
            match what {
                What::Claim { owner, followed, task } => {
                    let answer = task.await.unwrap();
                    let granted = answer.as_ref().map(|lent| (lent.outcome, lent.id().to_string()));
                    self.diary.steps.push(format!("{owner} gets {granted:?} by process {process}"));
                    let name =
                        answer.as_ref().map_or_else(|code| code.as_str(), |lent| lent.outcome.as_str());
                    *self.answers.entry(name).or_default() += 1;
                    let may_fail = self.failed.contains(&process);
                    self.observations.judge(&followed, &answer, self.world.clock.now(), may_fail);
                    self.granted.extend(answer.ok().map(|lent| (lent.id(), owner)));
                }
                What::Release { id, task } => self.judge_release(process, &id, task.await.unwrap()),
                What::Chore(task) => task.await.unwrap(),
            }
        }
    }

    fn judge_release(&self, process: usize, id: &SandboxId, answer: Result<ReleaseReply, FaultCode>) {
        let sandbox = self.observations.sandbox(id).expect("it was granted");
        match answer {
            Ok(reply) => {
                let deletion = sandbox.deletion().expect("a release that was answered has happened");
                assert_eq!(reply.deletion_requested_at, deletion.requested_at.get());
            }
            Err(code) => {
                assert_eq!(code, FaultCode::StoreUnavailable);
                assert!(self.failed.contains(&process), "nothing had failed");
            }
        }
    }

    /// Records the current states.
    async fn look(&mut self) {
        self.look_at((1..=LISTED_MAX as u64).map(id).collect()).await;
    }

    /// The same after one call. On a slow engine, reads only the sandboxes that the store reports as written.
    async fn look_after_a_call(&mut self) {
        let written = self.board.take_written();
        if self.engine.is_slow() {
            self.look_at(written).await;
        } else {
            self.look().await;
        }
    }

    async fn look_at(&mut self, ids: Vec<SandboxId>) {
        let reads = ids.iter().map(|id| self.world.store.sandbox(id));
        let sandboxes = join_all(reads).await.into_iter().filter_map(Result::unwrap).collect();
        let mut followed: Vec<&mut Followed> =
            self.running.iter_mut().filter_map(|running| running.followed()).collect();
        self.observations.look(sandboxes, self.world.clock.now(), &mut followed);
    }

    /// After all calls have ended, every key claims once more: the answer to a holder names its sandbox, and an owner
    /// without one gets one while there are free ones. Then other owners take the rest.
    pub(crate) async fn come_to_rest(&mut self) {
        self.assert_announced();
        let now = self.world.clock.now();
        for claim in CLAIMS {
            let key = key_of(claim);
            let held = self.observations.held(&key, now).cloned();
            let free = !self.observations.free().is_empty();
            let answer = self.world.process().ask(&request_of(claim), TIMEOUT).await;
            self.diary.steps.push(format!("{claim:?} repeats: {answer:?}"));
            match (&held, free, &answer) {
                (Some(held), _, Ok(lent)) => {
                    assert!(lent.outcome == Outcome::Existing && lent.shows(held), "holds {held:?}");
                }
                (None, true, Ok(lent)) => assert_eq!(lent.outcome, Outcome::Created),
                (None, false, Err(code)) => assert_eq!(*code, FaultCode::PoolExhausted),
                _ => panic!("holds {held:?}, and something is free: {free}"),
            }
            self.look_twice().await;
            if let Ok(lent) = answer {
                let again = self.world.process().ask(&request_of(claim), TIMEOUT).await.unwrap();
                assert_eq!((again.outcome, again.body), (Outcome::Existing, lent.body));
            }
        }
        self.take_the_rest().await;
    }

    /// A repeat may have ended the key's old lease and made a new one: two changes at once are allowed here.
    async fn look_twice(&mut self) {
        self.observations = Observations::default();
        self.look().await;
    }

    /// The processes of the run can hand out all free sandboxes, whatever failed before.
    async fn take_the_rest(&mut self) {
        let processes: Vec<Process> = self.processes.iter().map(|(_, process)| process.clone()).collect();
        let free = self.observations.free().len();
        for turn in 0..=free {
            let process = processes[turn % PROCESSES].clone();
            let task = tokio::spawn(async move { process.claim(&format!("rest-{turn}")).await });
            while !task.is_finished() {
                self.board.settle().await;
                if self.board.waiting() > 0 {
                    self.board.take(0).pass();
                }
            }
            match task.await.unwrap() {
                Ok(lent) => assert!(turn < free && lent.outcome == Outcome::Created, "{lent:?}"),
                Err(code) => assert!(turn == free && code == FaultCode::PoolExhausted, "{code:?}"),
            }
        }
    }

    /// Unless something failed, the deletion of every ended lease was announced with its epoch.
    fn assert_announced(&self) {
        let Weather { fails, crashes, hang_ups } = self.weather;
        if (fails, crashes, hang_ups) != (0, 0, 0) {
            return;
        }
        let mut ended = self.observations.in_state(StateName::PendingDeletion);
        ended.extend(self.observations.in_state(StateName::Deleted));
        for sandbox in ended {
            if sandbox.deletion().is_some_and(|deletion| deletion.cause == DeletionCause::Released) {
                let work = self.world.deletions.of(&sandbox.id).expect("its deletion is announced");
                assert_eq!(work.epoch, sandbox.epoch.get());
            }
        }
    }
}

// === impl Running ===

impl Running {
    fn is_done(&self) -> bool {
        match &self.what {
            What::Claim { task, .. } => task.is_finished(),
            What::Release { task, .. } => task.is_finished(),
            What::Chore(task) => task.is_finished(),
        }
    }

    fn abort(&self) {
        match &self.what {
            What::Claim { task, .. } => task.abort(),
            What::Release { task, .. } => task.abort(),
            What::Chore(task) => task.abort(),
        }
    }

    fn followed(&mut self) -> Option<&mut Followed> {
        match &mut self.what {
            What::Claim { followed, .. } => Some(followed),
            What::Release { .. } | What::Chore(_) => None,
        }
    }
}

// === impl Chore ===

impl Chore {
    /// Reads first, and acts on what it read, however much later.
    async fn run(
        self,
        store: &dyn Store,
        number: u64,
        clock: &testkit::clock::ManualClock,
    ) -> Result<(), ports::store::StoreError> {
        if let Self::List = self {
            store.insert(&new_sandbox(number), clock.now()).await?;
            return Ok(());
        }
        let Some(seen): Option<Sandbox> = store.sandbox(&id(number)).await? else { return Ok(()) };
        let now = clock.now();
        match self {
            Self::Missing => store.mark_missing(&seen, now).await?,
            Self::Found => store.mark_found(&seen, now).await?,
            Self::Expire => store.expire(&seen.id, seen.epoch, now.before(GRACE), now).await?,
            Self::Delete | Self::List => {
                store.finish_deletion(&seen.id, seen.epoch, now, now.after(LEASE), None).await?
            }
        };
        Ok(())
    }
}
