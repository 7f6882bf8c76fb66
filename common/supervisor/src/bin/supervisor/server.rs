//! The supervisor itself: one thread that waits for clients, for the output of jobs and for the end of processes.

use crate::connection::Connection;
use crate::handover::{self, Order};
use crate::supervised::Supervised;
use crate::{confine, descendants};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::socket_acceptconn;
use rustix::process::{Pid, WaitOptions, geteuid, getpid, set_child_subreaper, wait};
use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};
use supervisor::{CONNECTIONS_MAX, End, Frame, JobId, RefusalCode, Stream};

mod requests;

/// What is read at once, from a pipe or from a connection.
const BUFFER_BYTES: usize = 64 * 1024;
/// The backlog of a listening socket, by default.
const ACCEPTED_AT_ONCE: usize = 128;
/// The time between `SIGTERM` and `SIGKILL` for jobs when the supervisor ends.
const STOP_GRACE: Duration = Duration::from_secs(2);
/// The supervisor ends after this time, whatever is left.
const STOP_WITHIN: Duration = Duration::from_secs(20);
/// The pause between two attempts to kill what a crashed keeper left behind.
const SWEEP_PAUSE: Duration = Duration::from_millis(20);
/// The last of the standard streams.
const STDERR: i32 = 2;
/// The first process of a process namespace.
const FIRST: i32 = 1;

struct Server {
    listener: UnixListener,
    signals: SignalFd,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    jobs: BTreeMap<JobId, Supervised>,
    /// A keeper and its launcher for the next job, which so need not wait for them.
    spare: Option<(Pid, OwnedFd)>,
    /// When it ends, because it was asked to.
    stop_at: Option<Instant>,
    /// Whether a keeper left processes behind.
    is_sweeping: bool,
    buffer: Vec<u8>,
}

/// What can be ready.
enum Source {
    Listener,
    Signals,
    Connection(u64),
    Job(JobId, Stream),
}

/// Serves a new socket at `path`, or else the listening socket that is standard input, until `SIGTERM`.
pub(crate) fn run(path: Option<&Path>) -> Result<(), String> {
    close_inherited();
    confine::hide()?;
    set_child_subreaper(Some(getpid())).map_err(|error| format!("subreaper: {error}"))?;
    let mut server = Server {
        listener: path.map_or_else(inherited_listener, new_listener)?,
        signals: signals().map_err(|error| format!("signals: {error}"))?,
        connections: BTreeMap::new(),
        next_connection: 0,
        jobs: BTreeMap::new(),
        spare: None,
        stop_at: None,
        is_sweeping: false,
        buffer: vec![0; BUFFER_BYTES],
    };
    server.listener.set_nonblocking(true).map_err(|error| error.to_string())?;
    while !server.has_stopped() {
        // If that fails, the next job tries again and reports it.
        server.spare = server.spare.take().or_else(|| handover::spawn("job").ok());
        let ready = server.wait().map_err(|error| format!("poll: {error}"))?;
        ready.into_iter().for_each(|source| server.handle(source));
        server.act_on_time();
        server.serve_connections();
    }
    Ok(())
}

fn inherited_listener() -> Result<UnixListener, String> {
    let stdin = rustix::stdio::stdin();
    if !socket_acceptconn(stdin).unwrap_or_default() {
        return Err("standard input has to be a listening Unix socket".to_owned());
    }
    stdin.try_clone_to_owned().map(UnixListener::from).map_err(|error| error.to_string())
}

/// An earlier process may have left its socket.
fn new_listener(path: &Path) -> Result<UnixListener, String> {
    let removed = std::fs::remove_file(path).or_else(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    });
    removed.and_then(|()| UnixListener::bind(path)).map_err(|error| format!("{}: {error}", path.display()))
}

/// Closes what the runner passed on by mistake; jobs must not have it. Nothing of ours is open yet.
fn close_inherited() {
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let open: Vec<i32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for number in open.into_iter().filter(|number| *number > STDERR) {
        let _ = nix::unistd::close(number);
    }
}

fn signals() -> nix::Result<SignalFd> {
    SigSet::all().thread_block()?;
    let mut watched = SigSet::empty();
    watched.add(Signal::SIGCHLD);
    watched.add(Signal::SIGTERM);
    SignalFd::with_flags(&watched, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// Process 1 trusts what comes from outside of its namespace, where processes have no number in it. Otherwise there is
/// only the user to go by.
fn is_outside(pid: i32, uid: u32) -> bool {
    if getpid().as_raw_nonzero().get() == FIRST { pid == 0 } else { uid == geteuid().as_raw() }
}

impl Server {
    fn has_stopped(&self) -> bool {
        let all_ended = self.jobs.values().all(|job| job.ended.is_some());
        self.stop_at.is_some_and(|at| all_ended || Instant::now() >= at)
    }

    /// Waits until something is ready or due.
    fn wait(&self) -> rustix::io::Result<Vec<Source>> {
        let mut sources = vec![Source::Listener, Source::Signals];
        let mut watched = vec![
            PollFd::new(&self.listener, PollFlags::IN),
            PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
        ];
        for (number, connection) in &self.connections {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, connection.takes_requests());
            flags.set(PollFlags::OUT, connection.wants_to_send());
            sources.push(Source::Connection(*number));
            watched.push(PollFd::new(&connection.stream, flags));
        }
        for job in self.jobs.values() {
            for (pipe, stream, flags) in [
                (job.input.waiting(), Stream::Stdin, PollFlags::OUT),
                (job.stdout.pipe(), Stream::Stdout, PollFlags::IN),
                (job.stderr.pipe(), Stream::Stderr, PollFlags::IN),
            ] {
                if let Some(pipe) = pipe {
                    sources.push(Source::Job(job.id.clone(), stream));
                    watched.push(PollFd::from_borrowed_fd(pipe, flags));
                }
            }
        }
        let timeout = self.wake_at().map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match poll(&mut watched, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        let is_ready: Vec<bool> = watched.iter().map(|watched| !watched.revents().is_empty()).collect();
        Ok(sources.into_iter().zip(is_ready).filter_map(|(source, ready)| ready.then_some(source)).collect())
    }

    fn wake_at(&self) -> Option<Instant> {
        let of_connections = self.connections.values().filter_map(Connection::hello_until);
        let of_jobs = self.jobs.values().filter_map(Supervised::keeper_until);
        let of_sweep = self.is_sweeping.then(|| Instant::now() + SWEEP_PAUSE);
        of_connections.chain(of_jobs).chain(of_sweep).chain(self.stop_at).min()
    }

    fn handle(&mut self, source: Source) {
        match source {
            Source::Listener => self.accept(),
            Source::Signals => self.take_signals(),
            Source::Connection(number) => {
                let connection = self.connections.get_mut(&number);
                if let Some(connection) = connection.filter(|connection| connection.takes_requests()) {
                    connection.receive(&mut self.buffer);
                }
            }
            Source::Job(id, stream) => self.move_bytes(&id, stream),
        }
    }

    /// Takes new connections: several at once, so that peers inside do not hold up those outside.
    fn accept(&mut self) {
        let streams = self.listener.incoming().take(ACCEPTED_AT_ONCE).map_while(Result::ok);
        let is_trusted = |stream: &UnixStream| {
            getsockopt(stream, PeerCredentials).is_ok_and(|peer| is_outside(peer.pid(), peer.uid()))
        };
        for mut connection in streams.filter(is_trusted).map(Connection::new) {
            if self.connections.len() >= CONNECTIONS_MAX {
                connection.refuse(0, RefusalCode::Exhausted, "too many connections".to_owned());
            } else {
                self.next_connection += 1;
                self.connections.insert(self.next_connection, connection);
            }
        }
    }

    fn take_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            let is_stop = signal.ssi_signo == Signal::SIGTERM as u32;
            let sender = i32::try_from(signal.ssi_pid).unwrap_or(i32::MAX);
            if is_stop && self.stop_at.is_none() && is_outside(sender, signal.ssi_uid) {
                self.stop_at = Some(Instant::now() + STOP_WITHIN);
                let grace_ms = u64::try_from(STOP_GRACE.as_millis()).unwrap_or_default();
                self.jobs.values_mut().for_each(|job| job.order(&Order::Kill(grace_ms)));
            }
        }
        while let Ok(Some((pid, _))) = wait(WaitOptions::NOHANG) {
            self.spare.take_if(|(spare, _)| *spare == pid);
            self.finish_job_of(pid);
        }
    }

    /// Ends the job of a keeper that has ended. Other children are what a crashed keeper left behind.
    fn finish_job_of(&mut self, keeper: Pid) {
        let total = self.kept_bytes();
        let Some(job) = self.jobs.values_mut().find(|job| job.keeper() == Some(keeper)) else { return };
        job.finish(&mut self.buffer, total - job.kept_bytes());
        self.is_sweeping |= job.ended.as_ref().is_some_and(|ended| matches!(ended.end, End::Crashed(_)));
    }

    fn move_bytes(&mut self, id: &JobId, stream: Stream) {
        let total = self.kept_bytes();
        let Some(job) = self.jobs.get_mut(id) else { return };
        if stream == Stream::Stdin {
            job.input.write();
        } else {
            job.read(stream, &mut self.buffer, total - job.kept_bytes());
        }
    }

    fn kept_bytes(&self) -> u64 {
        self.jobs.values().map(Supervised::kept_bytes).sum()
    }

    fn act_on_time(&mut self) {
        let now = Instant::now();
        self.jobs.values().for_each(|job| job.check_keeper(now));
        if self.is_sweeping {
            let spare = self.spare.iter().map(|(keeper, _)| *keeper);
            let keepers: Vec<Pid> = self.jobs.values().filter_map(Supervised::keeper).chain(spare).collect();
            self.is_sweeping = descendants::kill(getpid(), &keepers) > 0;
        }
        for connection in self.connections.values_mut() {
            if connection.hello_until().is_some_and(|until| now >= until) {
                connection.refuse(0, RefusalCode::Protocol, "no hello within its time".to_owned());
            }
        }
    }

    /// Answers requests, and sends what attached clients have not got yet.
    fn serve_connections(&mut self) {
        for (number, mut connection) in std::mem::take(&mut self.connections) {
            loop {
                match connection.next_frame() {
                    Ok(Some(Frame::Message(call))) => self.answer(&mut connection, call),
                    Ok(Some(Frame::Chunk(chunk))) => self.take_chunk(&mut connection, &chunk),
                    Err(error) => connection.refuse(0, RefusalCode::Protocol, error.to_string()),
                    Ok(None) => {
                        connection.advance(&self.jobs);
                        if !connection.resumes() {
                            break;
                        }
                    }
                }
            }
            if !connection.is_closed() {
                self.connections.insert(number, connection);
            }
        }
    }
}
