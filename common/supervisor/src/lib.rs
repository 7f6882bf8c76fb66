//! The protocol between a runner and the supervisor, process 1 of a sandbox, and its client.
//!
//! A runner binds a Unix socket outside of the sandbox and gives it to the supervisor as standard input. Each side sends
//! [`frames`]; a [`Call`] gets one [`Response`] with the same number. A job is identified by an id that the client
//! chooses. Its output and its result are kept, within limits, until [`Request::Acknowledge`], so a client that lost its
//! connection can attach again at the offset that it knows.

pub mod frames;
mod id;
mod protocol;

#[cfg(feature = "client")]
mod client;

pub use frames::{Chunk, Decoder, Frame, FrameError, Stream};
pub use id::{InvalidJobId, JOB_ID_BYTES_MAX, JobId};
pub use protocol::*;

#[cfg(feature = "client")]
pub use client::{Attached, Client, ClientError, JobEvent, OUTCOME_BYTES_MAX, Outcome};
