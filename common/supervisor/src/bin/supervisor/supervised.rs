//! A job as the supervisor sees it.

use crate::handover::{self, Order, Report};
use crate::input::Input;
use crate::keeper::KILL_PATIENCE;
use crate::output::Output;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{self, pipe};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};
use supervisor::{End, Ended, Job, JobId, JobState, KEPT_BYTES_MAX, Offsets, Stream, Usage};

/// How much longer than its own patience a keeper may take.
const KEEPER_PATIENCE: Duration = KILL_PATIENCE.saturating_add(Duration::from_secs(2));

/// Reads of a pipe after the end of its job. It can be full, and a process that could not be killed can still write.
const LAST_READS_MAX: usize = 32;

/// A job that runs or whose result is kept.
pub(crate) struct Supervised {
    pub(crate) id: JobId,
    pub(crate) input: Input,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
    pub(crate) ended: Option<Ended>,
    /// How much of each stream is kept.
    output_max_bytes: u64,
    keeper: Pid,
    orders: OwnedFd,
    /// When the keeper itself is killed, because it should have reported.
    keeper_until: Option<Instant>,
}

impl Supervised {
    /// Gives a job to this keeper, which has none yet.
    pub(crate) fn start(job: &Job, (keeper, orders): (Pid, OwnedFd)) -> io::Result<Self> {
        let spec = serde_json::to_vec(job)?;
        let (stdin, to_job) = pipe()?;
        let (from_stdout, stdout) = pipe()?;
        let (from_stderr, stderr) = pipe()?;
        let (to_job, from_stdout, from_stderr) =
            (OwnedFd::from(to_job), OwnedFd::from(from_stdout), OwnedFd::from(from_stderr));
        for ours in [&to_job, &from_stdout, &from_stderr] {
            rustix::io::ioctl_fionbio(ours, true)?;
        }
        handover::send(&orders, &spec, &[stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])?;
        Ok(Self {
            id: job.id.clone(),
            input: Input::new(job.stdin.then_some(to_job)),
            stdout: Output::new(from_stdout),
            stderr: Output::new(from_stderr),
            ended: None,
            output_max_bytes: job.output_max_bytes,
            keeper,
            orders,
            keeper_until: None,
        })
    }

    /// The process that keeps the job, until it has ended.
    pub(crate) fn keeper(&self) -> Option<Pid> {
        self.ended.is_none().then_some(self.keeper)
    }

    /// When [`Self::check_keeper`] has to be called.
    pub(crate) fn keeper_until(&self) -> Option<Instant> {
        self.keeper_until.filter(|_| self.ended.is_none())
    }

    pub(crate) fn order(&mut self, order: &Order) {
        if let Order::Kill(grace_ms) = order {
            let until = Instant::now().checked_add(Duration::from_millis(*grace_ms) + KEEPER_PATIENCE);
            self.keeper_until = self.keeper_until.or(until);
        }
        // A keeper that is gone has reported or has crashed; the supervisor will see it.
        let _ = serde_json::to_vec(order).map(|order| handover::send(&self.orders, &order, &[]));
    }

    /// Kills a keeper that does not report; a job of the same user can have stopped it.
    pub(crate) fn check_keeper(&self, now: Instant) {
        if let Some(keeper) = self.keeper().filter(|_| self.keeper_until.is_some_and(|until| now >= until)) {
            let _ = kill_process(keeper, Signal::KILL);
        }
    }

    /// Reads output once; `others` is what is kept of other jobs. Returns whether there may be more.
    pub(crate) fn read(&mut self, stream: Stream, buffer: &mut [u8], others: u64) -> bool {
        let room_of_all = KEPT_BYTES_MAX.saturating_sub(others + self.kept_bytes());
        let output = if stream == Stream::Stdout { &mut self.stdout } else { &mut self.stderr };
        let room = self.output_max_bytes.saturating_sub(output.kept_bytes());
        output.read(buffer, room.min(room_of_all))
    }

    /// The keeper has ended, so there is nothing left to read but what is in the pipes.
    pub(crate) fn finish(&mut self, buffer: &mut [u8], others: u64) {
        let report = handover::receive_now(&self.orders);
        let report = report.and_then(|report| serde_json::from_slice::<Report>(&report).ok());
        let Report { end, usage } = report.unwrap_or_else(|| Report {
            end: End::Crashed("the keeper of the job is gone".to_owned()),
            usage: Usage::default(),
        });
        for stream in [Stream::Stdout, Stream::Stderr] {
            let _ = (0..LAST_READS_MAX).find(|_| !self.read(stream, buffer, others));
        }
        self.stdout.close();
        self.stderr.close();
        self.input.close();
        let truncated = self.stdout.is_truncated() || self.stderr.is_truncated();
        self.ended = Some(Ended { id: self.id.clone(), end, usage, written: self.written(), truncated });
    }

    pub(crate) fn kept_bytes(&self) -> u64 {
        self.stdout.kept_bytes() + self.stderr.kept_bytes()
    }

    fn written(&self) -> Offsets {
        Offsets { stdout: self.stdout.written(), stderr: self.stderr.written() }
    }

    pub(crate) fn state(&self) -> JobState {
        JobState {
            id: self.id.clone(),
            kept_from: Offsets { stdout: self.stdout.kept_from(), stderr: self.stderr.kept_from() },
            written: self.written(),
            stdin_received: self.input.received(),
            ended: self.ended.clone(),
        }
    }
}
