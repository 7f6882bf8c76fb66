//! Where a chunked body ends. The bytes are passed on as they are; this only follows them.

/// Longest line with the size of a chunk, in bytes: eight digits, and some words that mean nothing here.
const SIZE_LINE_BYTES_MAX: usize = 128;
/// Most hexadecimal digits of a chunk's size; 4 GiB is far above what a body may have.
const SIZE_DIGITS_MAX: usize = 8;

/// Follows a chunked body byte by byte, across reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Chunks {
    state: State,
    size: u64,
    line_bytes: usize,
}

/// Where in a chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Among the digits of a size.
    #[default]
    Size,
    /// In what may follow a size, and means nothing here.
    Extension,
    /// Before the end of the line with the size.
    SizeEnd,
    /// In the data; so many bytes are left.
    Data(u64),
    /// Before the two bytes that end the data.
    DataReturn,
    DataEnd,
    /// Before the two bytes that end the body. Trailers would stand here, and are not taken.
    LastReturn,
    LastEnd,
    Over,
}

/// The body is not what a chunked body has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadChunk;

// === impl Chunks ===

impl Chunks {
    /// How many of `bytes` belong to the body.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> Result<usize, BadChunk> {
        let mut taken = 0;
        while let Some(rest) = bytes.get(taken..).filter(|rest| !rest.is_empty()) {
            if self.is_over() {
                break;
            }
            taken += self.step(rest)?;
        }
        Ok(taken)
    }

    /// Whether all of it was seen.
    pub(super) fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Takes one byte, or as much data as there is.
    fn step(&mut self, rest: &[u8]) -> Result<usize, BadChunk> {
        if let State::Data(left) = self.state {
            let here = u64::try_from(rest.len()).unwrap_or(u64::MAX).min(left);
            self.state = if here == left { State::DataReturn } else { State::Data(left - here) };
            return usize::try_from(here).map_err(|_| BadChunk);
        }
        let byte = rest.first().copied().ok_or(BadChunk)?;
        self.state = match (self.state, byte) {
            (State::Size | State::Extension, _) => self.size_line(byte)?,
            (State::SizeEnd, b'\n') if self.size == 0 => State::LastReturn,
            (State::SizeEnd, b'\n') => State::Data(self.size),
            (State::DataReturn, b'\r') => State::DataEnd,
            (State::DataEnd, b'\n') => {
                *self = Self::default();
                State::Size
            }
            (State::LastReturn, b'\r') => State::LastEnd,
            (State::LastEnd, b'\n') => State::Over,
            _ => return Err(BadChunk),
        };
        Ok(1)
    }

    fn size_line(&mut self, byte: u8) -> Result<State, BadChunk> {
        let digits = self.line_bytes;
        self.line_bytes += 1;
        if self.line_bytes > SIZE_LINE_BYTES_MAX {
            return Err(BadChunk);
        }
        let digit = char::from(byte).to_digit(16);
        match (self.state, byte, digit) {
            (State::Size, _, Some(digit)) if digits < SIZE_DIGITS_MAX => {
                self.size = self.size * 16 + u64::from(digit);
                Ok(State::Size)
            }
            (State::Size, b';', _) if digits > 0 => Ok(State::Extension),
            (State::Extension, b'\t' | b' '..=b'~', _) => Ok(State::Extension),
            (State::Size, b'\r', _) if digits > 0 => Ok(State::SizeEnd),
            (State::Extension, b'\r', _) => Ok(State::SizeEnd),
            _ => Err(BadChunk),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the body ends, whether it comes at once or byte by byte.
    fn end(bytes: &[u8]) -> Result<Option<usize>, BadChunk> {
        let mut at_once = Chunks::default();
        let taken = at_once.advance(bytes);
        let mut slowly = Chunks::default();
        let mut sum = Ok(0);
        for byte in bytes {
            sum = sum.and_then(|sum| Ok(sum + slowly.advance(std::slice::from_ref(byte))?));
        }
        assert_eq!(taken, sum);
        Ok(at_once.is_over().then_some(taken?))
    }

    #[test]
    fn body_ends_after_its_last_chunk() {
        assert_eq!(end(b"0\r\n\r\nGET"), Ok(Some(5)));
        assert_eq!(end(b"3\r\na\r\n\r\n0\r\n\r\nGET"), Ok(Some(13)));
        assert_eq!(end(b"00a;x=\"y z\"\r\n0123456789\r\n0;last\r\n\r\n"), Ok(Some(35)));
        assert_eq!(end(b"FFFFFFFF\r\nabc"), Ok(None));
        assert_eq!(end(b"5\r\nabc"), Ok(None));
    }

    #[test]
    fn ambiguous_chunk_is_rejected() {
        for bytes in [
            b"\r\n".as_slice(),
            b"x\r\n",
            b"-1\r\n",
            b"+1\r\n",
            b"0x1\r\n",
            b" 1\r\n",
            b"1 \r\n",
            b"1\n",
            b"1;a\n",
            b"1;a\rb",
            b"1;\0\r\n",
            b"1\r\nab",
            b"1\r\na\n",
            b"1\r\na\rb",
            b"0\r\nX: y\r\n\r\n",
            b"0\n\n",
            b"100000000\r\n",
            b"FFFFFFFFFFFFFFFFF\r\n",
        ] {
            assert_eq!(end(bytes), Err(BadChunk), "{bytes:?}");
        }
        let long = format!("1;{}\r\n", "x".repeat(SIZE_LINE_BYTES_MAX));
        assert_eq!(end(long.as_bytes()), Err(BadChunk));
    }
}
