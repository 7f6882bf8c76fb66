//! A connection to a supervisor, whatever carries it.

use tokio::io::{AsyncRead, AsyncWrite};

/// Bytes in both directions.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for S {}

/// A connection that speaks the protocol of the supervisor.
pub type Connection = Box<dyn ByteStream>;
