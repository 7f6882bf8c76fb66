use super::*;
use crate::{Call, Decoder, End, Frame, Message, RefusalCode, Usage};
use tokio::io::{AsyncReadExt as _, DuplexStream};

/// The other end of a client.
struct Fake {
    stream: DuplexStream,
    decoder: Decoder,
}

impl Fake {
    async fn client() -> (Client, Self) {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let mut fake = Self { stream: theirs, decoder: Decoder::default() };
        let welcome = async {
            let seq = fake.call().await.seq;
            fake.send(&[respond(seq, Response::Welcome { version: VERSION_MAX })]).await;
        };
        let (client, ()) = tokio::join!(Client::connect(ours), welcome);
        (client.unwrap(), fake)
    }

    async fn call(&mut self) -> Call {
        let mut buffer = vec![0; 4096];
        loop {
            match self.decoder.next_frame().unwrap() {
                Some(Frame::Message(call)) => return call,
                Some(Frame::Chunk(chunk)) => panic!("{chunk:?}"),
                None => {
                    let count = self.stream.read(&mut buffer).await.unwrap();
                    self.decoder.feed(&buffer[..count]);
                }
            }
        }
    }

    async fn send(&mut self, frames: &[Frame<Message>]) {
        let mut bytes = Vec::new();
        for frame in frames {
            match frame {
                Frame::Message(message) => write_message(message, &mut bytes).unwrap(),
                Frame::Chunk(chunk) => {
                    write_chunk(&chunk.id, chunk.stream, chunk.offset, &chunk.bytes, &mut bytes).unwrap();
                }
            }
        }
        self.stream.write_all(&bytes).await.unwrap();
    }
}

fn id() -> JobId {
    JobId::parse("a").unwrap()
}

fn respond(seq: u64, response: Response) -> Frame<Message> {
    Frame::Message(Message::Response { seq, response })
}

fn output(offset: u64) -> Frame<Message> {
    Frame::Chunk(Chunk { id: id(), stream: Stream::Stdout, offset, bytes: b"x".to_vec() })
}

fn ended() -> Ended {
    let (end, usage, written) = (End::Exited(0), Usage::default(), Offsets { stdout: 2, stderr: 0 });
    Ended { id: id(), end, usage, written, truncated: false }
}

#[tokio::test]
async fn output_that_follows_the_response_at_once_is_not_lost() {
    let (client, mut fake) = Fake::client().await;
    let job = Job::new(id(), ["true"]);
    let supervisor = async {
        let call = fake.call().await;
        assert_eq!(call.request, Request::Start(Box::new(job.clone())));
        let end = Frame::Message(Message::Ended(ended()));
        fake.send(&[respond(call.seq, Response::Done), output(0), output(1), end]).await;
        let call = fake.call().await;
        assert_eq!(call.request, Request::Acknowledge { id: id() });
        fake.send(&[respond(call.seq, Response::Done)]).await;
    };
    let (outcome, ()) = tokio::join!(client.run(job.clone(), b""), supervisor);
    let outcome = outcome.unwrap();
    assert_eq!((outcome.stdout.as_slice(), outcome.ended), (b"xx".as_slice(), ended()));
}

#[tokio::test]
async fn lost_connection_is_no_result() {
    let (client, mut fake) = Fake::client().await;
    let supervisor = async {
        let seq = fake.call().await.seq;
        fake.send(&[respond(seq, Response::Done), output(0)]).await;
        drop(fake);
    };
    let (outcome, ()) = tokio::join!(client.run(Job::new(id(), ["true"]), b""), supervisor);
    assert!(matches!(outcome, Err(ClientError::Closed)), "{outcome:?}");
    assert!(matches!(client.list().await, Err(ClientError::Closed)));
}

#[tokio::test]
async fn reason_of_a_closed_connection_reaches_every_call() {
    let (client, mut fake) = Fake::client().await;
    let supervisor = async {
        fake.call().await;
        let refusal = Refusal::new(RefusalCode::Protocol, "no");
        fake.send(&[respond(0, Response::Refused(refusal))]).await;
    };
    let (pending, ()) = tokio::join!(client.list(), supervisor);
    for result in [pending, client.list().await] {
        let Err(ClientError::Refused(refusal)) = result else { panic!("{result:?}") };
        assert_eq!(refusal.code, RefusalCode::Protocol);
    }
}

#[tokio::test]
async fn supervisor_that_sends_more_than_allowed_loses_the_job_only() {
    let (client, mut fake) = Fake::client().await;
    let supervisor = async {
        let seq = fake.call().await.seq;
        let mut frames = vec![respond(seq, Response::Done)];
        frames.extend((0..=EVENTS_MAX as u64).map(output));
        fake.send(&frames).await;
        let seq = fake.call().await.seq;
        fake.send(&[respond(seq, Response::Jobs(Vec::new()))]).await;
    };
    let calls = async {
        let mut attached = client.start(Job::new(id(), ["true"])).await.unwrap();
        assert!(client.list().await.unwrap().is_empty(), "the connection is served");
        for _ in 0..EVENTS_MAX {
            attached.next().await.unwrap();
        }
        assert!(matches!(attached.next().await, Err(ClientError::Closed)));
    };
    tokio::join!(calls, supervisor);
}
