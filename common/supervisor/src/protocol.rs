//! The messages. New fields are optional and unknown ones are passed over; anything else is a new version.

use crate::JobId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The oldest version of the protocol that this build speaks.
pub const VERSION_MIN: u16 = 1;
/// The newest version of the protocol that this build speaks.
pub const VERSION_MAX: u16 = 1;
/// Jobs that run or whose result is kept. With four descriptors each they stay below the usual limit of 1,024.
pub const JOBS_MAX: usize = 192;
/// Connections at a time.
pub const CONNECTIONS_MAX: usize = 32;
/// Output of one stream that is kept if the job does not say how much.
pub const OUTPUT_BYTES_DEFAULT: u64 = 1024 * 1024;
/// Output of one stream that a job may ask to be kept.
pub const OUTPUT_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Output of all jobs that is kept. It counts as memory of the sandbox.
pub const KEPT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Bytes of standard input that are sent before the supervisor reports that the job has read some.
pub const STDIN_WINDOW_BYTES: u64 = 256 * 1024;
/// Frames of output that a connection gets for an attached job before it sends [`Request::More`].
pub const ATTACH_WINDOW_FRAMES: u32 = 32;
/// The longest grace between `SIGTERM` and `SIGKILL`.
pub const GRACE_MS_MAX: u64 = 60_000;
/// The time between `SIGTERM` and `SIGKILL` for a job that has timed out.
pub const TIMEOUT_GRACE_MS: u64 = 2_000;
/// The longest reason in an [`End`].
pub const REASON_CHARS_MAX: usize = 100;
/// The user and group of a job that names none.
pub const UID_DEFAULT: u32 = 1000;
/// `PATH` of a job that sets none.
pub const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A request with the number that its response repeats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Chosen by the client.
    pub seq: u64,
    /// What to do.
    pub request: Request,
}

/// What a client asks for. The first request of a connection is [`Request::Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Agrees on a version: [`Response::Welcome`].
    Hello {
        /// The oldest version that the client speaks.
        version_min: u16,
        /// The newest version that the client speaks.
        version_max: u16,
    },
    /// Starts a job and attaches this connection to it. [`Response::Done`] means that it was accepted; a command that
    /// cannot be executed ends as [`End::FailedToStart`].
    Start(Box<Job>),
    /// Sends the kept output from these offsets on, then the end, then nothing more: [`Response::Attached`].
    Attach {
        /// The job.
        id: JobId,
        /// Where to begin.
        from: Offsets,
    },
    /// Allows this many more frames of output of an attached job.
    More {
        /// The job.
        id: JobId,
        /// How many.
        frames: u32,
    },
    /// Frees the kept output before these offsets, so that a job can write more than the supervisor keeps.
    Consumed {
        /// The job.
        id: JobId,
        /// Where the output begins that has to be kept.
        until: Offsets,
    },
    /// Closes the standard input after what was sent.
    EndStdin {
        /// The job.
        id: JobId,
    },
    /// Sends a signal (1 to 31) to the process group of the command.
    Signal {
        /// The job.
        id: JobId,
        /// Its number.
        signal: u8,
    },
    /// Ends every process of the job. With a grace the command gets `SIGTERM` first.
    Kill {
        /// The job.
        id: JobId,
        /// At most [`GRACE_MS_MAX`].
        grace_ms: u64,
    },
    /// Frees the output and the result of a job that has ended.
    Acknowledge {
        /// The job.
        id: JobId,
    },
    /// Every job that runs or whose result is kept: [`Response::Jobs`].
    List,
}

/// A job to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Chosen by the client. An id that is in use is refused, so a repeated start does no harm.
    pub id: JobId,
    /// The program, searched in the job's `PATH`, and its arguments.
    pub command: Vec<String>,
    /// The environment in addition to what the supervisor was started with (that of an image), `PATH` ([`PATH_DEFAULT`] if the
    /// supervisor has none) and `HOME` (the working directory).
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The working directory, `/` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// User, [`UID_DEFAULT`] by default. Root has no capabilities either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Group, the same number as the user by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Limits of each process.
    #[serde(default)]
    pub limits: Limits,
    /// After this time the job gets `SIGTERM`, and [`TIMEOUT_GRACE_MS`] later `SIGKILL`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// How much of each stream is kept; what exceeds it is counted and dropped.
    #[serde(default = "output_bytes_default")]
    pub output_max_bytes: u64,
    /// Whether the job gets bytes on its standard input; otherwise it reads an end of file.
    #[serde(default)]
    pub stdin: bool,
}

/// Limits of each process of a job. One above the supervisor's own hard limit becomes that limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Open files.
    pub open_files: Option<u64>,
    /// Size of a file in bytes.
    pub file_bytes: Option<u64>,
}

/// A position in each of the two output streams of a job, in bytes that the job has written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offsets {
    /// In the standard output.
    pub stdout: u64,
    /// In the standard error output.
    pub stderr: u64,
}

/// What the supervisor sends beside [`crate::Chunk`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// The response to the call with this number; 0 if the connection is closed for another reason.
    Response {
        /// Of the call.
        seq: u64,
        /// What came out.
        response: Response,
    },
    /// An attached job has ended, and all of its kept output was sent.
    Ended(Ended),
    /// An attached job has read from its standard input, or has closed it.
    Stdin {
        /// The job.
        id: JobId,
        /// How many bytes it took.
        written: u64,
        /// Whether it may take more.
        is_open: bool,
    },
}

/// The response to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// Both sides speak this version.
    Welcome {
        /// The newest that both speak.
        version: u16,
    },
    /// It was done.
    Done,
    /// The state of the job that the connection is attached to from now on.
    Attached(JobState),
    /// In the order of their ids.
    Jobs(Vec<JobState>),
    /// It was not done.
    Refused(Refusal),
}

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// For programs.
    pub code: RefusalCode,
    /// For people.
    pub message: String,
}

/// The kinds of [`Refusal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// There is no version that both sides speak. The connection is closed.
    Version,
    /// The peer broke the protocol. The connection is closed.
    Protocol,
    /// A field of the request is not valid.
    Invalid,
    /// No job has this id.
    NotFound,
    /// A job has this id already.
    Exists,
    /// The job has not ended yet.
    Running,
    /// The job has ended already.
    Ended,
    /// [`JOBS_MAX`], or a limit of the machine, is reached.
    Exhausted,
    /// The supervisor is ending.
    Stopping,
}

/// A job as [`Request::List`] shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobState {
    /// The job.
    pub id: JobId,
    /// Where the kept output begins.
    pub kept_from: Offsets,
    /// How much the job has written.
    pub written: Offsets,
    /// How many bytes of standard input were received for it.
    pub stdin_received: u64,
    /// Its end, if it has ended.
    pub ended: Option<Ended>,
}

/// The result of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The job.
    pub id: JobId,
    /// How it ended.
    pub end: End,
    /// What it used.
    pub usage: Usage,
    /// How much it has written, with what was dropped.
    pub written: Offsets,
    /// Whether output was dropped.
    pub truncated: bool,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The command returned this status.
    Exited(i32),
    /// A signal that was not ours, or was asked for by [`Request::Signal`], ended the command.
    Signalled(i32),
    /// `timeout_ms` had passed.
    TimedOut,
    /// [`Request::Kill`], or the end of the supervisor.
    Killed,
    /// The supervisor lost the job or could not end it, for this reason.
    Crashed(String),
    /// The command was never executed, for this reason.
    FailedToStart(String),
}

/// Resources that a job used. A process that its parent never waited for is not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Processor time of user and system.
    pub cpu_ms: u64,
    /// The most resident memory of one process.
    pub rss_max_bytes: u64,
    /// From start to end.
    pub wall_ms: u64,
}

// === impl Job ===

impl Job {
    /// A job without limits of its own that gets no standard input.
    pub fn new(id: JobId, command: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            id,
            command: command.into_iter().map(Into::into).collect(),
            env: BTreeMap::new(),
            cwd: None,
            uid: None,
            gid: None,
            limits: Limits::default(),
            timeout_ms: None,
            output_max_bytes: OUTPUT_BYTES_DEFAULT,
            stdin: false,
        }
    }

    /// The field that is not valid, if there is one.
    pub fn problem(&self) -> Option<&'static str> {
        let has_nul = |text: &String| text.contains('\0');
        let is_bad_name = |name: &String| name.is_empty() || name.contains(['=', '\0']);
        if self.command.first().is_none_or(String::is_empty) || self.command.iter().any(has_nul) {
            Some("command is empty or contains a NUL")
        } else if self.env.keys().any(is_bad_name) || self.env.values().any(has_nul) {
            Some("env has a name with '=', or a NUL")
        } else if self.cwd.as_ref().is_some_and(|cwd| !cwd.starts_with('/') || has_nul(cwd)) {
            Some("cwd is not an absolute path")
        } else if self.output_max_bytes > OUTPUT_BYTES_MAX {
            Some("output_max_bytes is too large")
        } else if self.uid == Some(u32::MAX) || self.gid == Some(u32::MAX) {
            Some("uid or gid is no number of a user or group")
        } else {
            None
        }
    }
}

const fn output_bytes_default() -> u64 {
    OUTPUT_BYTES_DEFAULT
}

// === impl Refusal ===

impl Refusal {
    /// A refusal.
    pub fn new(code: RefusalCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::JOB_ID_BYTES_MAX;
    use crate::frames::{FRAME_BYTES_MAX, write_message};

    fn id() -> JobId {
        JobId::parse(&"x".repeat(JOB_ID_BYTES_MAX)).unwrap()
    }

    #[test]
    fn list_of_all_jobs_fits_into_a_frame() {
        let most = Offsets { stdout: u64::MAX, stderr: u64::MAX };
        let ended = Ended {
            id: id(),
            end: End::FailedToStart("\u{1f980}".repeat(REASON_CHARS_MAX)),
            usage: Usage { cpu_ms: u64::MAX, rss_max_bytes: u64::MAX, wall_ms: u64::MAX },
            written: most,
            truncated: false,
        };
        let state = JobState {
            id: id(),
            kept_from: most,
            written: most,
            stdin_received: u64::MAX,
            ended: Some(ended),
        };
        let response = Response::Jobs(vec![state; JOBS_MAX]);
        let mut bytes = Vec::new();
        write_message(&Message::Response { seq: u64::MAX, response }, &mut bytes).unwrap();
        assert!(bytes.len() < FRAME_BYTES_MAX, "{} bytes", bytes.len());
    }

    #[test]
    fn jobs_with_a_bad_field_are_found() {
        let good = Job::new(id(), ["true"]);
        assert_eq!(good.problem(), None);
        let bad = |change: fn(&mut Job)| {
            let mut job = good.clone();
            change(&mut job);
            job.problem()
        };
        assert!(bad(|job| job.command.clear()).is_some());
        assert!(bad(|job| job.command = vec![String::new()]).is_some());
        assert!(bad(|job| job.command.push("a\0b".to_owned())).is_some());
        assert!(bad(|job| drop(job.env.insert("A=B".to_owned(), String::new()))).is_some());
        assert!(bad(|job| drop(job.env.insert("A".to_owned(), "\0".to_owned()))).is_some());
        assert!(bad(|job| job.cwd = Some("tmp".to_owned())).is_some());
        assert!(bad(|job| job.output_max_bytes = OUTPUT_BYTES_MAX + 1).is_some());
        assert!(bad(|job| job.uid = Some(u32::MAX)).is_some());
    }

    #[test]
    fn messages_on_the_wire_stay_what_they_are() {
        let mut job = Job::new(JobId::parse("a").unwrap(), ["sh"]);
        job.timeout_ms = Some(1000);
        let call = Call { seq: 1, request: Request::Start(Box::new(job)) };
        let json = serde_json::to_string(&call).unwrap();
        assert_eq!(
            json,
            r#"{"seq":1,"request":{"start":{"id":"a","command":["sh"],"env":{},"limits":{"open_files":null,"file_bytes":null},"timeout_ms":1000,"output_max_bytes":1048576,"stdin":false}}}"#
        );
        let short =
            r#"{"seq":1,"request":{"start":{"id":"a","command":["sh"],"timeout_ms":1000,"later":0}}}"#;
        assert_eq!(serde_json::from_str::<Call>(short).unwrap(), call, "the rest has defaults");
        let ended = Message::Ended(Ended {
            id: JobId::parse("a").unwrap(),
            end: End::Exited(3),
            usage: Usage::default(),
            written: Offsets::default(),
            truncated: false,
        });
        assert_eq!(
            serde_json::to_string(&ended).unwrap(),
            r#"{"ended":{"id":"a","end":{"exited":3},"usage":{"cpu_ms":0,"rss_max_bytes":0,"wall_ms":0},"written":{"stdout":0,"stderr":0},"truncated":false}}"#
        );
    }
}
