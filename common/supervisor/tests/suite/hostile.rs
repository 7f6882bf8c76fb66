//! Peers that break the protocol, or may not connect at all.

use crate::rig::{Rig, end, line, python, script, within};
use std::os::unix::fs::MetadataExt as _;
use supervisor::frames::{FRAME_BYTES_MAX, write_chunk, write_message};
use supervisor::{
    CONNECTIONS_MAX, Call, Client, ClientError, Decoder, End, Frame, JobId, Message, RefusalCode, Request,
    Response, STDIN_WINDOW_BYTES, Stream, VERSION_MAX,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

fn call(seq: u64, request: Request) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_message(&Call { seq, request }, &mut bytes).unwrap();
    bytes
}

fn hello(version: u16) -> Vec<u8> {
    call(1, Request::Hello { version_min: version, version_max: version })
}

/// Every message until the supervisor closes the connection.
async fn messages(mut stream: UnixStream) -> Vec<Message> {
    let mut bytes = Vec::new();
    // A connection that is closed before everything was read from it is reset.
    let _ = within(stream.read_to_end(&mut bytes)).await;
    let mut decoder = Decoder::default();
    decoder.feed(&bytes);
    std::iter::from_fn(|| match decoder.next_frame().unwrap()? {
        Frame::Message(message) => Some(message),
        Frame::Chunk(chunk) => panic!("{chunk:?}"),
    })
    .collect()
}

fn last_refusal(messages: &[Message]) -> Option<RefusalCode> {
    match messages.last()? {
        Message::Response { response: Response::Refused(refusal), .. } => Some(refusal.code),
        _ => None,
    }
}

#[tokio::test]
async fn broken_frames_close_only_their_connection() {
    let rig = Rig::sandbox();
    let client = rig.client().await;
    let mut job = script("a", "read line; echo $line");
    job.stdin = true;
    let mut attached = client.start(job).await.unwrap();
    let id = attached.id().clone();
    let too_long = u32::try_from(FRAME_BYTES_MAX + 1).unwrap().to_be_bytes();
    let mut output = Vec::new();
    write_chunk(&id, Stream::Stdout, 0, b"x", &mut output).unwrap();
    let mut gap = Vec::new();
    write_chunk(&id, Stream::Stdin, 5, b"x", &mut gap).unwrap();
    for garbage in [
        b"GET / HTTP/1.1\r\n\r\n".as_slice(),
        &[0; 64],
        &[0xff; 300_000],
        &too_long,
        b"\0\0\0\x03\x01{}",
        b"\0\0\0\x02\x09x",
        &hello(VERSION_MAX),
        &output,
        &gap,
    ] {
        let mut stream = rig.stream().await;
        // The supervisor may close before everything was sent.
        let _ = stream.write_all(&[hello(VERSION_MAX).as_slice(), garbage].concat()).await;
        assert_eq!(last_refusal(&messages(stream).await), Some(RefusalCode::Protocol), "{garbage:?}");
    }
    attached.write_stdin(b"unharmed\n").await.unwrap();
    line(&mut attached, "unharmed").await;
    assert_eq!(end(&mut attached).await.end, End::Exited(0));
}

#[tokio::test]
async fn frame_that_is_cut_off_closes_only_its_connection() {
    let rig = Rig::sandbox();
    let client = rig.client().await;
    for bytes in [b"\0\0".as_slice(), b"\0\0\0\x09\x01{"] {
        let mut stream = rig.stream().await;
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        assert!(messages(stream).await.is_empty());
    }
    assert!(client.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn first_request_is_hello_with_a_known_version() {
    let rig = Rig::sandbox();
    for (bytes, code) in [
        (hello(VERSION_MAX + 1), RefusalCode::Version),
        (hello(0), RefusalCode::Version),
        (call(1, Request::List), RefusalCode::Protocol),
    ] {
        let mut stream = rig.stream().await;
        stream.write_all(&bytes).await.unwrap();
        assert_eq!(last_refusal(&messages(stream).await), Some(code));
    }
    let mut stream = rig.stream().await;
    let request = Request::Hello { version_min: 0, version_max: u16::MAX };
    stream.write_all(&[call(7, request), call(8, Request::List), vec![0; 4]].concat()).await.unwrap();
    let welcome = Message::Response { seq: 7, response: Response::Welcome { version: VERSION_MAX } };
    let jobs = Message::Response { seq: 8, response: Response::Jobs(Vec::new()) };
    assert_eq!(messages(stream).await.get(..2), Some([welcome, jobs].as_slice()));
}

#[tokio::test]
async fn standard_input_over_its_window_is_refused() {
    let rig = Rig::sandbox();
    let mut stream = rig.stream().await;
    let mut job = script("a", "sleep 8640007");
    job.stdin = true;
    let mut bytes = [hello(VERSION_MAX), call(2, Request::Start(Box::new(job)))].concat();
    let part = [0; 32 * 1024];
    // A pipe holds 64 KiB beside the window.
    for number in 0..STDIN_WINDOW_BYTES / part.len() as u64 + 3 {
        let offset = number * part.len() as u64;
        write_chunk(&JobId::parse("a").unwrap(), Stream::Stdin, offset, &part, &mut bytes).unwrap();
    }
    let _ = stream.write_all(&bytes).await;
    assert_eq!(last_refusal(&messages(stream).await), Some(RefusalCode::Protocol));
}

#[tokio::test]
async fn connections_are_limited() {
    let rig = Rig::sandbox();
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        clients.push(rig.client().await);
    }
    let error = Client::connect(rig.stream().await).await;
    assert!(
        matches!(error.err(), Some(ClientError::Refused(refusal)) if refusal.code == RefusalCode::Exhausted)
    );
    clients.pop();
    crate::rig::within(async { while Client::connect(rig.stream().await).await.is_err() {} }).await;
}

#[tokio::test]
async fn peer_inside_of_the_sandbox_is_refused() {
    let rig = Rig::sandbox();
    let client = rig.client().await;
    // The socket can be reached by a path, as in a container; only the number of the peer tells.
    let program = format!(
        "import os, socket, struct
peer = socket.socket(socket.AF_UNIX)
peer.connect('{}')
try:
    peer.sendall(bytes.fromhex('{}'))
    print(len(peer.recv(1000)))
except (BrokenPipeError, ConnectionResetError): print(0)",
        rig.socket().display(),
        hello(VERSION_MAX).iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
    );
    for uid in [0, 1000] {
        let mut job = python(&format!("as-{uid}"), &program);
        job.uid = Some(uid);
        let outcome = within(client.run(job, b"")).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&outcome.stdout), "0\n", "{outcome:?}");
    }
    assert_eq!(std::fs::metadata(rig.socket()).unwrap().mode() & 0o777, 0o777, "it was not the file's mode");
}
