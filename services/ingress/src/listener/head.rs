//! What the head of a request may look like, before it is interpreted.
//!
//! RFC 9112 leaves a reader room: bare line feeds, several lengths that agree, a length beside a coding. Two readers
//! that use the room differently see different requests in the same bytes, and that is how requests are smuggled past
//! a proxy. Here there is one way to write each thing; everything else is refused before the HTTP library sees it.

use axum::http::Uri;

/// Most bytes of a request's head, with its request line.
pub const HEAD_BYTES_MAX: usize = 16 * 1_024;
/// Most header lines of a request.
pub const HEADER_LINES_MAX: usize = 64;
/// Longest method. Every registered one is shorter.
const METHOD_BYTES_MAX: usize = 32;
/// Most digits of a `Content-Length`; more say nothing that a body here could be.
const LENGTH_DIGITS_MAX: usize = 15;
/// What a `Host` may not have beside what is not visible: it would be read as another part of an address.
const NOT_IN_HOST: &[u8] = b"/?#@,\\\"<>";

/// How the body behind a head is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none.
    Empty,
    /// There is none, and the caller asks to speak another protocol behind the answer.
    Upgrade,
    /// By its length in bytes, at least one.
    Length(u64),
    /// By chunks.
    Chunked,
}

/// Why a head is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// It is too long, or has too many lines.
    TooLarge,
    /// It is not what HTTP/1.1 allows, or not unambiguous; in words that say what.
    Malformed(&'static str),
}

/// Looks for the end of a head in bytes that grow, and looks at each byte once.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scan {
    at: usize,
    line_began: usize,
    lines: usize,
    previous: u8,
}

/// What the header lines say of the body and of the host.
#[derive(Default)]
struct Fields<'a> {
    host: Option<&'a [u8]>,
    length: Option<u64>,
    is_chunked: bool,
    /// Whether `Connection` names `upgrade`, and whether there is an `Upgrade`.
    names_upgrade: bool,
    has_upgrade: bool,
}

/// The parts of a request line.
struct RequestLine<'a> {
    method: &'a [u8],
    target: &'a [u8],
    is_1_1: bool,
}

// === impl Scan ===

impl Scan {
    /// The length of the head, once all of it is there. What can be seen to be wrong before that is wrong at once: a
    /// caller that does not speak HTTP is not waited for.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> Result<Option<usize>, Flaw> {
        let fresh = bytes.get(self.at..).unwrap_or_default();
        for byte in fresh {
            self.at += 1;
            match (self.previous, *byte) {
                (b'\r', b'\n') => {
                    if self.end_line(bytes)? {
                        return Ok(Some(self.at));
                    }
                }
                (b'\r', _) => return Err(Flaw::Malformed("a carriage return stands alone")),
                (_, b'\n') => return Err(Flaw::Malformed("a line ends without a carriage return")),
                (_, b'\r' | b'\t' | b' '..=b'~' | 0x80..) => {}
                _ => return Err(Flaw::Malformed("the head has a control character")),
            }
            self.previous = *byte;
        }
        if bytes.len() > HEAD_BYTES_MAX { Err(Flaw::TooLarge) } else { Ok(None) }
    }

    /// Whether this line was the last one: the empty one.
    fn end_line(&mut self, bytes: &[u8]) -> Result<bool, Flaw> {
        if self.at > HEAD_BYTES_MAX {
            return Err(Flaw::TooLarge);
        }
        let line = bytes.get(self.line_began..self.at.saturating_sub(2)).unwrap_or_default();
        if self.lines == 0 {
            // An older HTTP, or none, has no more lines than this one.
            RequestLine::parse(line)?;
        } else if line.is_empty() {
            return Ok(true);
        }
        // The first line is the request, the rest are headers.
        if self.lines > HEADER_LINES_MAX {
            return Err(Flaw::TooLarge);
        }
        self.lines += 1;
        self.line_began = self.at;
        Ok(false)
    }
}

/// Reads a whole head, with the empty line at its end: how its body is delimited.
pub(super) fn check(head: &[u8]) -> Result<Framing, Flaw> {
    let mut lines = lines(head);
    let request = RequestLine::parse(lines.next().unwrap_or_default())?;
    let mut fields = Fields::default();
    for line in lines.take_while(|line| !line.is_empty()) {
        fields.take(line, request.is_1_1)?;
    }
    request.check_target(fields.host)?;
    if request.is_1_1 && fields.host.is_none() {
        return Err(Flaw::Malformed("there is no `Host`"));
    }
    match (fields.is_chunked, fields.length) {
        (true, Some(_)) => Err(Flaw::Malformed("there are both `Content-Length` and `Transfer-Encoding`")),
        (true, None) => Ok(Framing::Chunked),
        // HTTP/1.0 has no upgrades (RFC 9110, 7.8).
        (false, None | Some(0)) if request.is_1_1 && fields.names_upgrade && fields.has_upgrade => {
            Ok(Framing::Upgrade)
        }
        (false, None | Some(0)) => Ok(Framing::Empty),
        (false, Some(bytes)) => Ok(Framing::Length(bytes)),
    }
}

fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

// === impl RequestLine ===

impl<'a> RequestLine<'a> {
    fn parse(line: &'a [u8]) -> Result<Self, Flaw> {
        const SHAPE: Flaw = Flaw::Malformed("the request line is not `METHOD target HTTP/1.1`");
        let mut words = line.split(|byte| *byte == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(SHAPE);
        };
        if method.is_empty() || method.len() > METHOD_BYTES_MAX || !method.iter().all(|byte| is_token(*byte))
        {
            return Err(SHAPE);
        }
        if target.is_empty() || !target.iter().all(u8::is_ascii_graphic) || target.contains(&b'#') {
            return Err(Flaw::Malformed("the request's target has a character that must be escaped"));
        }
        let is_1_1 = match version {
            b"HTTP/1.1" => true,
            b"HTTP/1.0" => false,
            _ => return Err(Flaw::Malformed("only HTTP/1.1 and HTTP/1.0 are spoken here")),
        };
        Ok(Self { method, target, is_1_1 })
    }

    /// A path, or a whole address that names the same host as the header does.
    fn check_target(&self, host: Option<&[u8]>) -> Result<(), Flaw> {
        const TARGET: Flaw = Flaw::Malformed("the request's target is neither a path nor an address");
        if self.target == b"*" {
            return if self.method == b"OPTIONS" { Ok(()) } else { Err(TARGET) };
        }
        let uri = Uri::try_from(self.target).map_err(|_| TARGET)?;
        if self.target.starts_with(b"/") {
            return Ok(());
        }
        let scheme = uri.scheme_str().unwrap_or_default();
        let authority = uri.authority().ok_or(TARGET)?;
        if !matches!(scheme, "http" | "https") || !self.target.contains(&b'/') {
            return Err(TARGET);
        }
        match host {
            Some(host) if !host.eq_ignore_ascii_case(authority.as_str().as_bytes()) => {
                Err(Flaw::Malformed("the request's target and `Host` name different hosts"))
            }
            _ => Ok(()),
        }
    }
}

// === impl Fields ===

impl<'a> Fields<'a> {
    fn take(&mut self, line: &'a [u8], is_1_1: bool) -> Result<(), Flaw> {
        if line.first().is_some_and(|byte| matches!(byte, b' ' | b'\t')) {
            return Err(Flaw::Malformed("a header goes on in a second line"));
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let Some((name, value)) = colon.and_then(|at| line.split_at_checked(at)) else {
            return Err(Flaw::Malformed("a header has no colon"));
        };
        if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
            return Err(Flaw::Malformed("the name of a header has a character that no name has"));
        }
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
        if is("content-length") {
            let length = length(value).ok_or(Flaw::Malformed("`Content-Length` is not a number of bytes"))?;
            if self.length.replace(length).is_some() {
                return Err(Flaw::Malformed("there are two `Content-Length`"));
            }
        } else if is("transfer-encoding") {
            if !is_1_1 || !value.eq_ignore_ascii_case(b"chunked") || self.is_chunked {
                return Err(Flaw::Malformed("`Transfer-Encoding` may only be `chunked`, once, in HTTP/1.1"));
            }
            self.is_chunked = true;
        } else if is("host") {
            let is_host = value.iter().all(|byte| byte.is_ascii_graphic() && !NOT_IN_HOST.contains(byte));
            if !is_host || self.host.replace(value).is_some() {
                return Err(Flaw::Malformed("there must be one `Host`, of visible ASCII"));
            }
        } else if is("connection") {
            let mut options = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            self.names_upgrade |= options.any(|option| option.eq_ignore_ascii_case(b"upgrade"));
        } else if is("upgrade") {
            self.has_upgrade = true;
        } else if is("expect") && !value.eq_ignore_ascii_case(b"100-continue") {
            return Err(Flaw::Malformed("`Expect` may only be `100-continue`"));
        }
        Ok(())
    }
}

/// A number in plain digits: no sign, no other base, no list.
fn length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > LENGTH_DIGITS_MAX || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// What names are made of (RFC 9110, 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests;
