//! What a job has not yet read from its standard input.

use rustix::io::Errno;
use std::collections::VecDeque;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use supervisor::STDIN_WINDOW_BYTES;

/// The standard input of a job.
pub(crate) struct Input {
    /// `None` once it is closed.
    pipe: Option<OwnedFd>,
    pending: VecDeque<u8>,
    received: u64,
    is_ending: bool,
}

impl Input {
    /// The input behind a pipe that does not block; without one, the job reads an end of file.
    pub(crate) fn new(pipe: Option<OwnedFd>) -> Self {
        Self { pipe, pending: VecDeque::new(), received: 0, is_ending: false }
    }

    /// The pipe, if there are bytes for it.
    pub(crate) fn waiting(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().filter(|_| !self.pending.is_empty()).map(OwnedFd::as_fd)
    }

    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// How many bytes the job took, and whether it may take more.
    pub(crate) fn progress(&self) -> (u64, bool) {
        (self.received - self.pending.len() as u64, self.pipe.is_some())
    }

    /// Takes bytes from a client. Bytes that were received before are passed over, so a client may send them again.
    pub(crate) fn take(&mut self, offset: u64, bytes: &[u8]) -> Result<(), &'static str> {
        // The client cannot know yet.
        if self.pipe.is_none() || self.is_ending {
            return Ok(());
        }
        let known = self.received.checked_sub(offset).ok_or("standard input has a gap")?;
        let new = usize::try_from(known).ok().and_then(|known| bytes.get(known..)).unwrap_or_default();
        if (self.pending.len() + new.len()) as u64 > STDIN_WINDOW_BYTES {
            return Err("standard input exceeds its window");
        }
        self.received += new.len() as u64;
        self.pending.extend(new);
        self.write();
        Ok(())
    }

    /// Closes the input after what was received.
    pub(crate) fn end(&mut self) {
        self.is_ending = true;
        self.write();
    }

    /// The job reads no more.
    pub(crate) fn close(&mut self) {
        self.pipe = None;
        self.pending.clear();
    }

    /// Writes what the pipe takes.
    pub(crate) fn write(&mut self) {
        while let Some(pipe) = self.waiting() {
            match rustix::io::write(pipe, self.pending.as_slices().0) {
                Ok(count) => drop(self.pending.drain(..count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => return self.close(),
            }
        }
        if self.is_ending {
            self.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{PipeReader, Read as _};

    fn input() -> (Input, PipeReader) {
        let (reader, writer) = std::io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        (Input::new(Some(writer.into())), reader)
    }

    #[test]
    fn repeated_bytes_are_passed_over_and_a_gap_is_refused() {
        let (mut input, mut reader) = input();
        input.take(0, b"abc").unwrap();
        input.take(1, b"bcd").unwrap();
        input.take(0, b"ab").unwrap();
        assert!(input.take(5, b"f").is_err());
        assert_eq!((input.received(), input.progress()), (4, (4, true)));
        input.end();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), input.progress()), ("abcd", (4, false)));
    }

    #[test]
    fn closed_input_takes_anything_and_drops_it() {
        let (mut input, reader) = input();
        drop(reader);
        input.take(0, b"abc").unwrap();
        assert!(!input.progress().1, "the job does not read");
        input.take(100, b"abc").unwrap();
        assert!(input.waiting().is_none());
    }

    #[test]
    fn unread_input_is_limited() {
        let (mut input, _reader) = input();
        let part = vec![0; usize::try_from(STDIN_WINDOW_BYTES).unwrap()];
        input.take(0, &part).unwrap();
        assert!(input.waiting().is_some(), "the pipe is full");
        assert!(input.take(STDIN_WINDOW_BYTES, &part).is_err());
    }
}
