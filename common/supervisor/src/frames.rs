//! Frames on the stream: a length of four bytes (big-endian), a kind of one byte, and a message or bytes of a job.

use crate::JobId;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The largest frame, without its length. Command and environment of a job have to fit, and a list of all jobs. A socket
/// of the kernel takes messages of up to 208 KiB, which carry a job to its keeper.
pub const FRAME_BYTES_MAX: usize = 192 * 1024;
/// The most bytes of a job in one frame.
pub const CHUNK_BYTES_MAX: usize = 32 * 1024;

/// The length of a frame, in front of it.
const LENGTH_BYTES: usize = 4;
const KIND_MESSAGE: u8 = 1;
const KIND_CHUNK: u8 = 2;
/// A chunk before its id: kind, stream, offset and length of the id.
const CHUNK_HEAD_BYTES: usize = 11;

/// A standard stream of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stream {
    /// Standard input: bytes for the job.
    Stdin = 0,
    /// Standard output.
    Stdout = 1,
    /// Standard error output.
    Stderr = 2,
}

/// Bytes of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The job.
    pub id: JobId,
    /// Which of its streams.
    pub stream: Stream,
    /// Bytes of the stream before these. An offset that jumps shows that output was dropped.
    pub offset: u64,
    /// At most [`CHUNK_BYTES_MAX`].
    pub bytes: Vec<u8>,
}

/// What one side sends to the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame<M> {
    /// A [`crate::Call`] or a [`crate::Message`].
    Message(M),
    /// Bytes of a job.
    Chunk(Chunk),
}

/// Why bytes are no frames. The connection is of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The frame is larger than [`FRAME_BYTES_MAX`], or empty.
    #[error("a frame of {0} bytes")]
    Length(usize),
    /// The frame is neither message nor chunk.
    #[error("a frame of unknown kind or with a wrong head")]
    Head,
    /// The frame contains another message.
    #[error("a message that cannot be read: {0}")]
    Message(String),
}

/// Appends a message. It fails if it is larger than [`FRAME_BYTES_MAX`].
pub fn write_message(message: &impl Serialize, to: &mut Vec<u8>) -> Result<(), FrameError> {
    let json = serde_json::to_vec(message).map_err(|error| FrameError::Message(error.to_string()))?;
    begin(KIND_MESSAGE, json.len() + 1, to)?;
    to.extend_from_slice(&json);
    Ok(())
}

/// Appends bytes of a job, at most [`CHUNK_BYTES_MAX`].
pub fn write_chunk(
    id: &JobId,
    stream: Stream,
    offset: u64,
    bytes: &[u8],
    to: &mut Vec<u8>,
) -> Result<(), FrameError> {
    if bytes.len() > CHUNK_BYTES_MAX {
        return Err(FrameError::Length(bytes.len()));
    }
    let name = id.as_str().as_bytes();
    let name_len = u8::try_from(name.len()).map_err(|_| FrameError::Head)?;
    begin(KIND_CHUNK, CHUNK_HEAD_BYTES + name.len() + bytes.len(), to)?;
    to.push(stream as u8);
    to.extend_from_slice(&offset.to_be_bytes());
    to.push(name_len);
    to.extend_from_slice(name);
    to.extend_from_slice(bytes);
    Ok(())
}

fn begin(kind: u8, length: usize, to: &mut Vec<u8>) -> Result<(), FrameError> {
    let length32 = u32::try_from(length).ok().filter(|_| length <= FRAME_BYTES_MAX);
    to.extend_from_slice(&length32.ok_or(FrameError::Length(length))?.to_be_bytes());
    to.push(kind);
    Ok(())
}

/// Turns received bytes into frames, however they were cut on their way.
#[derive(Debug, Default)]
pub struct Decoder {
    received: Vec<u8>,
    /// Bytes at the front that were decoded.
    decoded: usize,
}

impl Decoder {
    /// Takes bytes from the peer. Take every frame out before the next bytes, so that no more than one is held.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.received.drain(..self.decoded);
        self.decoded = 0;
        self.received.extend_from_slice(bytes);
    }

    /// The next frame, if it is complete.
    pub fn next_frame<M: DeserializeOwned>(&mut self) -> Result<Option<Frame<M>>, FrameError> {
        let rest = self.received.get(self.decoded..).unwrap_or_default();
        let Some((length, rest)) = rest.split_first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if length == 0 || length > FRAME_BYTES_MAX {
            return Err(FrameError::Length(length));
        }
        let Some(frame) = rest.get(..length) else { return Ok(None) };
        let frame = read_frame(frame)?;
        self.decoded += LENGTH_BYTES + length;
        Ok(Some(frame))
    }
}

fn read_frame<M: DeserializeOwned>(frame: &[u8]) -> Result<Frame<M>, FrameError> {
    match frame.split_first() {
        Some((&KIND_MESSAGE, json)) => serde_json::from_slice(json)
            .map(Frame::Message)
            .map_err(|error| FrameError::Message(error.to_string())),
        Some((&KIND_CHUNK, chunk)) => read_chunk(chunk).map(Frame::Chunk).ok_or(FrameError::Head),
        _ => Err(FrameError::Head),
    }
}

fn read_chunk(chunk: &[u8]) -> Option<Chunk> {
    let (stream, rest) = chunk.split_first()?;
    let stream = match stream {
        0 => Stream::Stdin,
        1 => Stream::Stdout,
        2 => Stream::Stderr,
        _ => return None,
    };
    let (offset, rest) = rest.split_first_chunk::<8>()?;
    let (name_len, rest) = rest.split_first()?;
    let (name, bytes) = rest.split_at_checked(usize::from(*name_len))?;
    if bytes.len() > CHUNK_BYTES_MAX {
        return None;
    }
    let id = JobId::parse(std::str::from_utf8(name).ok()?).ok()?;
    Some(Chunk { id, stream, offset: u64::from_be_bytes(*offset), bytes: bytes.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Call, Request};

    fn written() -> Vec<u8> {
        let mut bytes = Vec::new();
        write_message(&Call { seq: 7, request: Request::List }, &mut bytes).unwrap();
        let id = JobId::parse("exec-1").unwrap();
        write_chunk(&id, Stream::Stderr, 1 << 40, b"\xff\0\n", &mut bytes).unwrap();
        bytes
    }

    fn decode(pieces: impl Iterator<Item = Vec<u8>>) -> Result<Vec<Frame<Call>>, FrameError> {
        let mut decoder = Decoder::default();
        let mut frames = Vec::new();
        for piece in pieces {
            decoder.feed(&piece);
            while let Some(frame) = decoder.next_frame()? {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    #[test]
    fn frames_are_the_same_however_they_are_cut() {
        let bytes = written();
        let whole = decode([bytes.clone()].into_iter()).unwrap();
        let [Frame::Message(call), Frame::Chunk(chunk)] = whole.as_slice() else { panic!("{whole:?}") };
        assert_eq!(call, &Call { seq: 7, request: Request::List });
        assert_eq!((chunk.stream, chunk.offset), (Stream::Stderr, 1 << 40));
        assert_eq!((chunk.id.as_str(), chunk.bytes.as_slice()), ("exec-1", b"\xff\0\n".as_slice()));
        for size in 1..bytes.len() {
            assert_eq!(
                decode(bytes.chunks(size).map(<[u8]>::to_vec)).unwrap(),
                whole,
                "cut every {size} bytes"
            );
        }
    }

    #[test]
    fn frames_over_the_limit_are_refused_before_they_arrive() {
        let too_long = u32::try_from(FRAME_BYTES_MAX + 1).unwrap().to_be_bytes().to_vec();
        assert!(matches!(decode([too_long].into_iter()), Err(FrameError::Length(_))));
        assert!(matches!(decode([vec![0; 4]].into_iter()), Err(FrameError::Length(0))));
        let large = "x".repeat(FRAME_BYTES_MAX);
        assert!(matches!(write_message(&large, &mut Vec::new()), Err(FrameError::Length(_))));
        let id = JobId::parse("a").unwrap();
        let large = vec![0; CHUNK_BYTES_MAX + 1];
        assert!(write_chunk(&id, Stream::Stdout, 0, &large, &mut Vec::new()).is_err());
    }

    #[test]
    fn garbage_is_refused() {
        let frame = |body: &[u8]| [&u32::try_from(body.len()).unwrap().to_be_bytes(), body].concat();
        for body in [
            b"\x03".as_slice(),
            b"\x01{}",
            b"\x01{\"seq\":1,\"request\":\"nothing\"}",
            b"\x02",
            b"\x02\x03\0\0\0\0\0\0\0\0\x01a",
            b"\x02\x01\0\0\0\0\0\0\0\0\x05a",
            b"\x02\x01\0\0\0\0\0\0\0\0\x01/",
        ] {
            assert!(decode([frame(body)].into_iter()).is_err(), "{body:?}");
        }
    }
}
