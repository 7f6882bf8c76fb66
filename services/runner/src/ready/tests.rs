//! Readiness over the network. (Commands are tested with the work that waits for them.)

use super::*;
use crate::tests::{NOW, Rig, run, sandbox};
use domain::template::Image;
use ports::clock::SystemClock;
use ports::engine::{ContainerState, Endpoint, Incarnation};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::TcpListener;

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Gives each reply to one connection, after the request has come. Returns the requests.
async fn serve(listener: TcpListener, replies: &[&[u8]]) -> Vec<String> {
    let mut requests = Vec::new();
    for reply in replies {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0, "the whole request");
        }
        for byte in *reply {
            stream.write_all(&[*byte]).await.unwrap();
        }
        requests.push(String::from_utf8(request).unwrap());
    }
    requests
}

#[tokio::test]
async fn only_2xx_is_ready() {
    let long = [b"HTTP/1.1 200 OK\r\nx: ".to_vec(), vec![b'x'; HEAD_BYTES_MAX]].concat();
    let replies: [(&[u8], bool); 7] = [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", true),
        (b"HTTP/1.0 204 No Content\r\n\r\n", true),
        (b"HTTP/1.1 302 Found\r\nlocation: /\r\n\r\n", false),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", false),
        (b"SSH-2.0-OpenSSH\r\n\r\n", false),
        (b"HTTP/1.1 200 OK\r\n", false),
        (&long, false),
    ];
    for (reply, is_ready) in replies {
        let (listener, address) = listener().await;
        let checked = answers(&SystemClock, address, "/health?x=1");
        let (checked, requests) = tokio::join!(checked, async {
            let all = [reply];
            // A server whose head is too long loses its peer.
            if reply.len() > HEAD_BYTES_MAX {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.write_all(reply).await;
                return Vec::new();
            }
            serve(listener, &all).await
        });
        assert_eq!(checked, is_ready, "{}", String::from_utf8_lossy(reply));
        assert!(requests.iter().all(|request| request.starts_with("GET /health?x=1 HTTP/1.1\r\nhost: 127.")));
    }
    let (closed, address) = listener().await;
    drop(closed);
    assert!(!answers(&SystemClock, address, "/").await);
    assert!(!accepts(&SystemClock, address).await);
}

#[tokio::test]
async fn connection_that_ends_at_once_is_not_accepted() {
    let (listener, address) = listener().await;
    let serving = async {
        // As published ports do without a server inside, then one that speaks first, then one that waits.
        drop(listener.accept().await.unwrap());
        listener.accept().await.unwrap().0.write_all(b"220 ready").await.unwrap();
        listener.accept().await.unwrap()
    };
    let checking = async {
        let mut checked = Vec::new();
        for _ in 0..3 {
            checked.push(accepts(&SystemClock, address).await);
        }
        checked
    };
    let (_held, checked) = tokio::join!(serving, checking);
    assert_eq!(checked, [false, true, true]);
}

/// What a container of `readiness` whose port 80 is at `address` becomes.
async fn ready(rig: &Rig, readiness: Readiness, address: SocketAddr) -> Result<(), NotReady> {
    let template = TemplateSpec { readiness, ..TemplateSpec::of_image(Image::Host) };
    let container = Container {
        sandbox: sandbox("ctr_1"),
        incarnation: Incarnation::parse("0198c0de-0000-7000-8000-000000000001").unwrap(),
        state: ContainerState::Running,
        endpoints: vec![Endpoint { port: 80, address }],
        created_at: NOW,
        command: ImageCommand::default(),
    };
    rig.node.make_ready(&container, &template, &template.env).await
}

#[test]
fn checks_are_repeated_until_they_succeed() {
    run(async {
        let rig = Rig::new().await;
        let (server, address) = listener().await;
        let served = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&served);
        let serving = async move {
            let bad: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\r\n";
            let good: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";
            count.fetch_add(serve(server, &[bad, bad, good]).await.len(), Ordering::Relaxed);
        };
        let readiness = Readiness::Http { port: 80, path: "/".to_owned() };
        let moving = || async {
            // The pauses between the checks pass; the connections are real.
            loop {
                testkit::clock::settle().await;
                rig.clock.advance(Duration::from_millis(1));
            }
        };
        let checked = async { tokio::join!(ready(&rig, readiness, address), serving).0 };
        let checked = tokio::select! { checked = checked => checked, () = moving() => unreachable!() };
        assert_eq!((checked, served.load(Ordering::Relaxed)), (Ok(()), 3));
        let (_open, address) = listener().await;
        let checked = ready(&rig, Readiness::Tcp { port: 80 }, address);
        let checked = tokio::select! { checked = checked => checked, () = moving() => unreachable!() };
        assert_eq!(checked, Ok(()));
        let missing = ready(&rig, Readiness::Tcp { port: 81 }, address).await;
        assert_eq!(missing, Err("its port 81 is not published".to_owned()));
    });
}
