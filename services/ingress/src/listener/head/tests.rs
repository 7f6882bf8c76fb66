//! Heads that are taken, and everything that is not.

use super::*;

fn read(head: &[u8]) -> Result<Framing, Flaw> {
    let end = Scan::default().advance(head)?.expect("a whole head");
    assert_eq!(end, head.len());
    check(head)
}

fn with(lines: &str) -> Result<Framing, Flaw> {
    read(format!("POST /v1/allocate HTTP/1.1\r\nHost: b\r\n{lines}\r\n").as_bytes())
}

fn is_malformed(result: Result<Framing, Flaw>) -> bool {
    matches!(result, Err(Flaw::Malformed(_)))
}

#[test]
fn head_determines_the_body_framing() {
    assert_eq!(with(""), Ok(Framing::Empty));
    assert_eq!(with("Content-Length: 0\r\n"), Ok(Framing::Empty));
    assert_eq!(with("content-LENGTH:\t5 \r\n"), Ok(Framing::Length(5)));
    assert_eq!(with("Transfer-Encoding: Chunked\r\n"), Ok(Framing::Chunked));
    assert_eq!(with("Expect: 100-Continue\r\nContent-Length: 1\r\n"), Ok(Framing::Length(1)));
    assert_eq!(with("X-Name: r\u{e9}sum\u{e9}\r\nX-Empty:\r\n"), Ok(Framing::Empty));
    assert_eq!(read(b"GET http://B:80/v1?a=b HTTP/1.1\r\nHost: b:80\r\n\r\n"), Ok(Framing::Empty));
    assert_eq!(read(b"OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n"), Ok(Framing::Empty));
    assert_eq!(read(b"GET / HTTP/1.0\r\n\r\n"), Ok(Framing::Empty));
}

#[test]
fn ambiguous_body_framing_is_rejected() {
    for lines in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length:\r\n",
        "Content-Length: 18446744073709551616\r\n",
        "Content-Length: 0000000000000005\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding:\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding\t: chunked\r\n",
        "X: y\r\n Transfer-Encoding: chunked\r\n",
        " X: y\r\n",
        "no colon\r\n",
        ": empty\r\n",
        "Expect: 200-ok\r\n",
    ] {
        assert!(is_malformed(with(lines)), "{lines:?}");
    }
    assert!(is_malformed(read(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n")));
}

#[test]
fn header_lines_need_crlf_and_no_control_characters() {
    for head in [
        b"GET / HTTP/1.1\nHost: b\n\n".as_slice(),
        b"GET / HTTP/1.1\r\nHost: b\nX: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: b\rX: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: b\r\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: b\r\nX: \0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: b\r\nX: \x7f\r\n\r\n",
        b"\r\nGET / HTTP/1.1\r\nHost: b\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
    ] {
        assert!(matches!(Scan::default().advance(head), Err(Flaw::Malformed(_))), "{head:?}");
    }
}

#[test]
fn request_line_has_three_parts_and_a_known_version() {
    for line in [
        "no http at all",
        "GET /",
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 ",
        " GET / HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "G(T / HTTP/1.1",
        "GET / HTTP/2.0",
        "GET / http/1.1",
        "GET / HTTP/1.10",
        "GET /#a HTTP/1.1",
        "GET /\u{e9} HTTP/1.1",
        "PRI * HTTP/2.0",
    ] {
        // Each is refused as soon as its line ends, before the rest of the head is there.
        let early = Scan::default().advance(format!("{line}\r\n").as_bytes());
        assert!(matches!(early, Err(Flaw::Malformed(_))), "{line:?}");
    }
}

#[test]
fn target_must_match_the_host() {
    for head in [
        "GET http://other/ HTTP/1.1\r\nHost: b\r\n\r\n",
        "GET http://b@other/ HTTP/1.1\r\nHost: other\r\n\r\n",
        "GET ftp://b/ HTTP/1.1\r\nHost: b\r\n\r\n",
        "GET b:80 HTTP/1.1\r\nHost: b:80\r\n\r\n",
        "CONNECT b:80 HTTP/1.1\r\nHost: b:80\r\n\r\n",
        "GET * HTTP/1.1\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: b\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: b c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a,b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: b/v1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: b\u{e9}\r\n\r\n",
    ] {
        assert!(is_malformed(read(head.as_bytes())), "{head:?}");
    }
}

#[test]
fn head_is_bounded_in_bytes_and_header_count() {
    let lines = "X: y\r\n".repeat(HEADER_LINES_MAX - 1);
    assert_eq!(with(&lines), Ok(Framing::Empty));
    assert_eq!(with(&format!("{lines}X: y\r\n")), Err(Flaw::TooLarge));
    let long = format!("X: {}\r\n", "y".repeat(HEAD_BYTES_MAX));
    assert_eq!(with(&long), Err(Flaw::TooLarge));
    // No end of a line is needed to see that it is too long.
    let endless = "y".repeat(HEAD_BYTES_MAX + 1);
    assert_eq!(Scan::default().advance(endless.as_bytes()), Err(Flaw::TooLarge));
}

#[test]
fn head_end_is_found_byte_by_byte() {
    let head = b"GET / HTTP/1.1\r\nHost: b\r\n\r\nGET";
    let mut scan = Scan::default();
    for upto in 1..=head.len() {
        let found = scan.advance(&head[..upto]).unwrap();
        assert_eq!(found, (upto == head.len() - 3).then_some(upto), "{upto}");
        if found.is_some() {
            return;
        }
    }
}
