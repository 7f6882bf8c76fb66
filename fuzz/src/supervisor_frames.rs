//! Frames between a runner and the supervisor. Job output is chosen by untrusted code; the frames around it are not.

use crate::split_line;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use supervisor::frames::{CHUNK_BYTES_MAX, write_chunk, write_message};
use supervisor::{Call, Decoder, Frame, Message};

/// Sizes of the pieces in which a stream arrives.
const PIECES: [usize; 3] = [1, 7, 4096];

/// Frames are the same however they are cut, and round-trip.
pub fn hold(input: &[u8]) {
    match split_line(input) {
        Some(("calls", stream)) => frames::<Call>(stream),
        Some(("messages", stream)) => frames::<Message>(stream),
        Some(("call", json)) => message::<Call>(json),
        Some(("message", json)) => message::<Message>(json),
        _ => {}
    }
}

/// The frames of a stream, and whether something else follows.
fn decode<M: DeserializeOwned>(stream: &[u8], piece: usize) -> (Vec<Frame<M>>, bool) {
    let mut decoder = Decoder::default();
    let mut frames = Vec::new();
    for bytes in stream.chunks(piece) {
        decoder.feed(bytes);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return (frames, true),
            }
        }
    }
    (frames, false)
}

fn frames<M: DeserializeOwned + Serialize + PartialEq + Debug>(stream: &[u8]) {
    let whole = decode::<M>(stream, stream.len().max(1));
    for piece in PIECES {
        assert_eq!(decode::<M>(stream, piece), whole, "cut every {piece} bytes");
    }
    let mut again = Vec::new();
    for frame in &whole.0 {
        match frame {
            Frame::Message(message) => write_message(message, &mut again).expect("it was in a frame"),
            Frame::Chunk(chunk) => {
                assert!(chunk.bytes.len() <= CHUNK_BYTES_MAX, "{} bytes", chunk.bytes.len());
                write_chunk(&chunk.id, chunk.stream, chunk.offset, &chunk.bytes, &mut again)
                    .expect("it was a frame");
            }
        }
    }
    assert_eq!(decode::<M>(&again, again.len().max(1)), (whole.0, false), "what was read can be written");
}

fn message<M: DeserializeOwned + Serialize + PartialEq + Debug>(json: &[u8]) {
    let Ok(message) = serde_json::from_slice::<M>(json) else { return };
    let mut frame = Vec::new();
    if write_message(&message, &mut frame).is_ok() {
        assert_eq!(decode::<M>(&frame, 1), (vec![Frame::Message(message)], false));
    }
}
