//! An ingress on a real socket, and a client that writes arbitrary bytes.

use crate::support::{Headers, Rig, Step};
use contract::Outcome;
use ops::listen;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncBufReadExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const CLAIM: &str = "POST /v1/allocate HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer lab-token-1\r\n\
                     X-Track-ID: p-1\r\nContent-Length: 0\r\n\r\n";
pub(crate) const WAIT: Duration = Duration::from_secs(10);

pub(crate) struct Server {
    pub(crate) rig: Rig,
    pub(crate) address: SocketAddr,
    pub(crate) stop: CancellationToken,
    run: JoinHandle<std::io::Result<()>>,
}

pub(crate) struct Client {
    pub(crate) stream: BufReader<TcpStream>,
}

impl Server {
    pub(crate) async fn start(settings: Headers<'_>, script: impl IntoIterator<Item = Step>) -> Self {
        let rig = Rig::with(settings, script);
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let (own, stopping) = (rig.own(), stop.clone());
        let run = tokio::spawn(async move { own.run(listener, stopping).await });
        Self { rig, address, stop, run }
    }

    pub(crate) async fn client(&self) -> Client {
        Client { stream: BufReader::new(TcpStream::connect(self.address).await.unwrap()) }
    }

    /// Waits for the end of the server, which must be without an error.
    pub(crate) async fn ended(self) {
        tokio::time::timeout(WAIT, self.run).await.expect("the server does not end").unwrap().unwrap();
    }
}

impl Client {
    pub(crate) async fn write(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    pub(crate) async fn write_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Whether the server still accepts the bytes.
    pub(crate) async fn try_write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// Whether the server has sent something or closed the connection.
    pub(crate) async fn has_something(&mut self) -> bool {
        let look = Duration::from_millis(1);
        tokio::time::timeout(look, self.stream.fill_buf()).await.is_ok()
    }

    /// Ends the client's side of the connection.
    pub(crate) async fn finish(&mut self) {
        // The server may have closed the connection already.
        let _ = self.stream.shutdown().await;
    }

    /// Claims, and asserts that a sandbox was granted.
    pub(crate) async fn claims(&mut self) {
        self.write(CLAIM).await;
        let (head, _) = self.read().await;
        assert!(head.starts_with("HTTP/1.1 201"), "{head}");
    }

    /// The next line.
    pub(crate) async fn line(&mut self) -> String {
        let mut line = String::new();
        tokio::time::timeout(WAIT, self.stream.read_line(&mut line)).await.expect("no line").unwrap();
        line
    }

    /// The head and body of the next answer.
    pub(crate) async fn read(&mut self) -> (String, String) {
        tokio::time::timeout(WAIT, self.read_answer()).await.expect("no answer")
    }

    async fn read_answer(&mut self) -> (String, String) {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(self.stream.read_line(&mut head).await.unwrap(), 0, "closed after {head:?}");
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        self.stream.read_exact(&mut body).await.unwrap();
        (head, String::from_utf8(body).unwrap())
    }

    /// The bytes before the server closed or reset the connection.
    pub(crate) async fn rest_if_any(&mut self) -> String {
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(WAIT, self.stream.read_to_end(&mut rest)).await.expect("not closed");
        String::from_utf8_lossy(&rest).into_owned()
    }

    /// Waits until the server has closed the connection; returns the bytes before that.
    pub(crate) async fn rest(&mut self) -> String {
        let mut rest = String::new();
        tokio::time::timeout(WAIT, self.stream.read_to_string(&mut rest)).await.expect("not closed").unwrap();
        rest
    }
}

pub(crate) fn created() -> Step {
    Step::Say(Some(Outcome::Created), r#"{"sandbox_id":"7"}"#)
}
