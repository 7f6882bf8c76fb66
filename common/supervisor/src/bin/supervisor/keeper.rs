//! The keeper of one job: starts the launcher, obeys the supervisor, and leaves when no process of the job is left.
//!
//! It is the subreaper of the job, so no process can leave it, whether it starts sessions or loses its parents. When the
//! command has ended, what it left behind is killed.

use crate::handover::{self, Order, Report};
use crate::{confine, descendants};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{SigSet, Signal as Named};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeValLike as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, kill_process_group, set_child_subreaper,
    setpriority_process, wait,
};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};
use supervisor::{End, Job, REASON_CHARS_MAX, TIMEOUT_GRACE_MS, Usage};

/// The pause between two attempts to kill all that is left.
const KILL_PAUSE: Duration = Duration::from_millis(10);
/// After this time without success, the job has crashed and the supervisor takes what is left.
pub(crate) const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// So that a job with many processes gets no more than its share of the processor while it is killed.
const KILL_PRIORITY: i32 = -20;
/// The length of a page in which the kernel counts resident memory.
const KIBIBYTE: u64 = 1024;

struct Keeper {
    supervisor: OwnedFd,
    launcher: OwnedFd,
    main: Pid,
    /// The command's, once it has ended.
    status: Option<WaitStatus>,
    /// Why we end the job; the first reason counts.
    cause: Option<End>,
    /// When it is asked to end.
    timeout: Option<Instant>,
    /// When it is killed.
    kill_at: Option<Instant>,
    /// Since when it is being killed.
    killing: Option<Instant>,
}

/// Keeps the job that arrives on standard input.
pub(crate) fn run() -> Result<(), String> {
    let supervisor = handover::to_parent().map_err(|error| error.to_string())?;
    let (launcher, signals) = prepare()?;
    let message = handover::receive(&supervisor).map_err(|error| error.to_string())?;
    if message.0.is_empty() {
        // The supervisor has ended.
        return Ok(());
    }
    let started = Instant::now();
    let end = keep(&supervisor, launcher, &signals, message).unwrap_or_else(End::Crashed);
    let report = Report { end, usage: usage(started) };
    let report = serde_json::to_vec(&report).map_err(|error| error.to_string())?;
    // If that fails, the supervisor is gone, and with it everyone who would want to know.
    let _ = handover::send(&supervisor, &report, &[]);
    Ok(())
}

/// What can be done before there is a job, so that it starts sooner.
fn prepare() -> Result<((Pid, OwnedFd), SignalFd), String> {
    confine::hide()?;
    set_child_subreaper(Some(getpid())).map_err(|error| format!("subreaper: {error}"))?;
    let signals = child_signals().map_err(|error| format!("signals: {error}"))?;
    let launcher = handover::spawn("launch").map_err(|error| format!("launcher: {error}"))?;
    Ok((launcher, signals))
}

fn keep(
    supervisor: &OwnedFd,
    (main, launcher): (Pid, OwnedFd),
    signals: &SignalFd,
    (message, streams): (Vec<u8>, Vec<OwnedFd>),
) -> Result<End, String> {
    let describe = |error: std::io::Error| format!("keeper: {error}");
    let job: Job = serde_json::from_slice(&message).map_err(|error| error.to_string())?;
    let borrowed: Vec<_> = streams.iter().map(OwnedFd::as_fd).collect();
    handover::send(&launcher, &message, &borrowed).map_err(describe)?;
    drop(streams);
    let mut keeper = Keeper {
        supervisor: supervisor.try_clone().map_err(describe)?,
        launcher,
        main,
        status: None,
        cause: None,
        timeout: job.timeout_ms.and_then(|ms| Instant::now().checked_add(Duration::from_millis(ms))),
        kill_at: None,
        killing: None,
    };
    keeper.until_all_have_ended(signals)?;
    keeper.end()
}

fn child_signals() -> nix::Result<SignalFd> {
    SigSet::all().thread_block()?;
    let mut watched = SigSet::empty();
    watched.add(Named::SIGCHLD);
    SignalFd::with_flags(&watched, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

fn usage(started: Instant) -> Usage {
    let wall_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let Ok(used) = getrusage(UsageWho::RUSAGE_CHILDREN) else { return Usage { wall_ms, ..Usage::default() } };
    let cpu_ms = (used.user_time() + used.system_time()).num_milliseconds();
    Usage {
        cpu_ms: u64::try_from(cpu_ms).unwrap_or_default(),
        rss_max_bytes: u64::try_from(used.max_rss()).unwrap_or_default().saturating_mul(KIBIBYTE),
        wall_ms,
    }
}

impl Keeper {
    fn until_all_have_ended(&mut self, signals: &SignalFd) -> Result<(), String> {
        let mut next_pass = Instant::now();
        while self.reap() {
            self.act_on_time();
            if let Some(since) = self.killing {
                if since.elapsed() > KILL_PATIENCE {
                    return Err("processes of the job cannot be killed".to_owned());
                }
                if Instant::now() >= next_pass {
                    descendants::kill(getpid(), &[]);
                    next_pass = Instant::now() + KILL_PAUSE;
                    continue;
                }
            }
            let next_pass = self.killing.map(|_| next_pass);
            let wake_at = [self.timeout, self.kill_at, next_pass].into_iter().flatten().min();
            self.wait_for_orders(signals, wake_at)?;
        }
        Ok(())
    }

    /// Takes the statuses of processes that have ended. Returns whether any is left: as all of them are below this one,
    /// there is none if this one has no child.
    fn reap(&mut self) -> bool {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.main => {
                    self.status = Some(status);
                    self.begin_to_kill();
                }
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    }

    fn act_on_time(&mut self) {
        let now = Instant::now();
        if self.timeout.is_some_and(|at| now >= at) {
            self.timeout = None;
            self.end_because(End::TimedOut, TIMEOUT_GRACE_MS);
        }
        if self.kill_at.is_some_and(|at| now >= at) {
            self.begin_to_kill();
        }
    }

    fn begin_to_kill(&mut self) {
        (self.timeout, self.kill_at) = (None, None);
        if self.killing.is_none() {
            self.killing = Some(Instant::now());
            // Not every sandbox allows it.
            let _ = setpriority_process(None, KILL_PRIORITY);
        }
    }

    fn end_because(&mut self, cause: End, grace_ms: u64) {
        if self.status.is_none() {
            self.cause.get_or_insert(cause);
        }
        if grace_ms == 0 {
            return self.begin_to_kill();
        }
        self.signal(Signal::TERM);
        let at = Instant::now().checked_add(Duration::from_millis(grace_ms));
        self.kill_at = [self.kill_at, at].into_iter().flatten().min();
    }

    /// Signals the command and its group; before it has one, the launcher.
    fn signal(&self, signal: Signal) {
        if self.status.is_none() && kill_process_group(self.main, signal).is_err() {
            let _ = kill_process(self.main, signal);
        }
    }

    fn wait_for_orders(&mut self, signals: &SignalFd, wake_at: Option<Instant>) -> Result<(), String> {
        let mut watched = vec![PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN)];
        // A job that is being killed takes no further signal.
        if self.killing.is_none() {
            watched.push(PollFd::new(&self.supervisor, PollFlags::IN));
        }
        let timeout = wake_at.map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match poll(&mut watched, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(format!("poll: {error}")),
        }
        if watched.get(1).is_some_and(|supervisor| !supervisor.revents().is_empty()) {
            self.obey();
        }
        while signals.read_signal().is_ok_and(|signal| signal.is_some()) {}
        Ok(())
    }

    fn obey(&mut self) {
        let message = handover::receive_now(&self.supervisor).unwrap_or_default();
        match serde_json::from_slice(&message) {
            Ok(Order::Signal(number)) => {
                if let Some(signal) = Signal::from_named_raw(i32::from(number)) {
                    self.signal(signal);
                }
            }
            Ok(Order::Kill(grace_ms)) => self.end_because(End::Killed, grace_ms),
            // The supervisor is gone; so is every reason to go on.
            Err(_) => self.end_because(End::Killed, 0),
        }
    }

    fn end(&self) -> Result<End, String> {
        let reason = handover::receive_now(&self.launcher).filter(|reason| !reason.is_empty());
        if let Some(cause) = &self.cause {
            return Ok(cause.clone());
        }
        if let Some(reason) = reason {
            let reason = String::from_utf8_lossy(&reason);
            let short = reason.chars().filter(|char| !char.is_control()).take(REASON_CHARS_MAX);
            return Ok(End::FailedToStart(short.collect()));
        }
        let status = self.status.ok_or("the command has no status")?;
        let exited = status.exit_status().map(End::Exited);
        exited
            .or_else(|| status.terminating_signal().map(End::Signalled))
            .ok_or_else(|| format!("{status:?}"))
    }
}
