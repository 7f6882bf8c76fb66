//! Where a chunked body ends. The bytes are passed on as they are; this only follows them.

/// Longest line with the size of a chunk, in bytes: eight digits, and some words that mean nothing here.
const SIZE_LINE_BYTES_MAX: usize = 128;
/// Most hexadecimal digits of a chunk's size; 4 GiB is far above what a body may have.
const SIZE_DIGITS_MAX: usize = 8;

/// Follows a chunked body byte by byte, across reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Chunks {
    place: Place,
    size: u64,
    line_bytes: usize,
}

/// Where in a chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
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
        self.place == Place::Over
    }

    /// Takes one byte, or as much data as there is.
    fn step(&mut self, rest: &[u8]) -> Result<usize, BadChunk> {
        if let Place::Data(left) = self.place {
            let here = u64::try_from(rest.len()).unwrap_or(u64::MAX).min(left);
            self.place = if here == left { Place::DataReturn } else { Place::Data(left - here) };
            return usize::try_from(here).map_err(|_| BadChunk);
        }
        let byte = rest.first().copied().ok_or(BadChunk)?;
        self.place = match (self.place, byte) {
            (Place::Size | Place::Extension, _) => self.size_line(byte)?,
            (Place::SizeEnd, b'\n') if self.size == 0 => Place::LastReturn,
            (Place::SizeEnd, b'\n') => Place::Data(self.size),
            (Place::DataReturn, b'\r') => Place::DataEnd,
            (Place::DataEnd, b'\n') => {
                *self = Self::default();
                Place::Size
            }
            (Place::LastReturn, b'\r') => Place::LastEnd,
            (Place::LastEnd, b'\n') => Place::Over,
            _ => return Err(BadChunk),
        };
        Ok(1)
    }

    fn size_line(&mut self, byte: u8) -> Result<Place, BadChunk> {
        let digits = self.line_bytes;
        self.line_bytes += 1;
        if self.line_bytes > SIZE_LINE_BYTES_MAX {
            return Err(BadChunk);
        }
        let digit = char::from(byte).to_digit(16);
        match (self.place, byte, digit) {
            (Place::Size, _, Some(digit)) if digits < SIZE_DIGITS_MAX => {
                self.size = self.size * 16 + u64::from(digit);
                Ok(Place::Size)
            }
            (Place::Size, b';', _) if digits > 0 => Ok(Place::Extension),
            (Place::Extension, b'\t' | b' '..=b'~', _) => Ok(Place::Extension),
            (Place::Size, b'\r', _) if digits > 0 => Ok(Place::SizeEnd),
            (Place::Extension, b'\r', _) => Ok(Place::SizeEnd),
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
    fn a_body_ends_behind_its_last_chunk() {
        assert_eq!(end(b"0\r\n\r\nGET"), Ok(Some(5)));
        assert_eq!(end(b"3\r\na\r\n\r\n0\r\n\r\nGET"), Ok(Some(13)));
        assert_eq!(end(b"00a;x=\"y z\"\r\n0123456789\r\n0;last\r\n\r\n"), Ok(Some(35)));
        assert_eq!(end(b"FFFFFFFF\r\nabc"), Ok(None));
        assert_eq!(end(b"5\r\nabc"), Ok(None));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
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
