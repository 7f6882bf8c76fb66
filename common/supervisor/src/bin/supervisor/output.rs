//! What a job has written on one stream and no client has acknowledged.

use rustix::io::Errno;
use std::collections::VecDeque;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use supervisor::frames::CHUNK_BYTES_MAX;

/// One output stream of a job.
pub(crate) struct Output {
    /// Closed at its end.
    pipe: Option<OwnedFd>,
    /// In order, each with its offset; there are gaps where output was dropped.
    kept: VecDeque<(u64, Vec<u8>)>,
    kept_bytes: u64,
    /// How much the job has written, with what was dropped.
    written: u64,
    is_truncated: bool,
}

impl Output {
    /// The stream behind a pipe that does not block.
    pub(crate) fn new(pipe: OwnedFd) -> Self {
        Self { pipe: Some(pipe), kept: VecDeque::new(), kept_bytes: 0, written: 0, is_truncated: false }
    }

    pub(crate) fn pipe(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(OwnedFd::as_fd)
    }

    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    pub(crate) fn kept_bytes(&self) -> u64 {
        self.kept_bytes
    }

    pub(crate) fn is_truncated(&self) -> bool {
        self.is_truncated
    }

    pub(crate) fn kept_from(&self) -> u64 {
        self.kept.front().map_or(self.written, |(offset, _)| *offset)
    }

    /// Reads what fits into the buffer, and keeps at most `room` bytes of it. Returns whether there may be more.
    pub(crate) fn read(&mut self, buffer: &mut [u8], room: u64) -> bool {
        let Some(pipe) = &self.pipe else { return false };
        match rustix::io::read(pipe, &mut *buffer) {
            Ok(0) => self.close(),
            Ok(count) => self.push(buffer.get(..count).unwrap_or_default(), room),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return false,
            Err(_) => self.close(),
        }
        self.pipe.is_some()
    }

    /// No more will be read.
    pub(crate) fn close(&mut self) {
        self.pipe = None;
    }

    fn push(&mut self, bytes: &[u8], room: u64) {
        let fits = usize::try_from(room).map_or(bytes.len(), |room| room.min(bytes.len()));
        self.is_truncated |= fits < bytes.len();
        let mut offset = self.written;
        let mut rest = bytes.get(..fits).unwrap_or_default();
        self.written += bytes.len() as u64;
        self.kept_bytes += fits as u64;
        while !rest.is_empty() {
            let (last_from, last) = match self.kept.back_mut() {
                Some((from, last)) if *from + last.len() as u64 == offset && last.len() < CHUNK_BYTES_MAX => {
                    (*from, last)
                }
                _ => {
                    self.kept.push_back((offset, Vec::new()));
                    continue;
                }
            };
            let (now, later) = rest.split_at(rest.len().min(CHUNK_BYTES_MAX - last.len()));
            last.extend_from_slice(now);
            offset = last_from + last.len() as u64;
            rest = later;
        }
    }

    /// The first kept bytes at or after this offset, and where they are.
    pub(crate) fn after(&self, offset: u64) -> Option<(u64, &[u8])> {
        let index = self.kept.partition_point(|(from, bytes)| from + bytes.len() as u64 <= offset);
        let (from, bytes) = self.kept.get(index)?;
        let skipped = usize::try_from(offset.saturating_sub(*from)).ok()?;
        Some((offset.max(*from), bytes.get(skipped..)?))
    }

    /// Frees what is before this offset.
    pub(crate) fn free(&mut self, until: u64) {
        while let Some((from, bytes)) = self.kept.front_mut().filter(|(from, _)| *from < until) {
            let count = usize::try_from(until - *from).map_or(bytes.len(), |count| count.min(bytes.len()));
            bytes.drain(..count);
            *from += count as u64;
            self.kept_bytes -= count as u64;
            if bytes.is_empty() {
                self.kept.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = u64::MAX;

    fn output() -> Output {
        let (reader, _) = std::io::pipe().unwrap();
        Output::new(reader.into())
    }

    fn all_after(output: &Output, mut offset: u64) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some((from, bytes)) = output.after(offset) {
            all.extend_from_slice(bytes);
            offset = from + bytes.len() as u64;
        }
        all
    }

    #[test]
    fn output_is_read_from_any_offset() {
        let mut output = output();
        let bytes: Vec<u8> = (0..100_000_u32).map(|number| number.to_le_bytes()[0] ^ 0x5a).collect();
        bytes.chunks(777).for_each(|part| output.push(part, ALL));
        for offset in [0, 1, 776, 32_767, 32_768, 99_999, 100_000] {
            assert_eq!(all_after(&output, offset as u64), bytes[offset..], "from {offset}");
        }
        assert_eq!((output.written(), output.kept_bytes()), (100_000, 100_000));
    }

    #[test]
    fn what_exceeds_the_room_is_counted_and_leaves_a_gap() {
        let mut output = output();
        output.push(b"abcdef", 4);
        assert!(output.is_truncated());
        output.push(b"ghi", 0);
        output.push(b"jkl", 3);
        assert_eq!((output.written(), output.kept_bytes()), (12, 7));
        assert_eq!(output.after(0), Some((0, b"abcd".as_slice())));
        assert_eq!(output.after(5), Some((9, b"jkl".as_slice())), "the offset jumps over what is lost");
    }

    #[test]
    fn freed_output_makes_room_exactly() {
        let mut output = output();
        output.push(b"abcdef", ALL);
        output.free(2);
        assert_eq!((output.kept_from(), output.kept_bytes()), (2, 4));
        assert_eq!(all_after(&output, 0), b"cdef");
        output.push(b"gh", ALL);
        output.free(100);
        assert_eq!((output.kept_from(), output.kept_bytes(), output.written()), (8, 0, 8));
        output.push(b"i", ALL);
        assert_eq!(output.after(0), Some((8, b"i".as_slice())));
    }
}
