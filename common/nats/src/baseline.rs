//! The baseline of `bench`: one bare request-reply round trip without our code. No service uses this.
//!
//! The responder has a separate connection and is in a queue group, like an allocator, so a round trip passes the
//! server twice. Its subject is an inbox, which cannot collide with names of the contract.

use super::{NatsBus, NatsConfig, failed};
use bytes::Bytes;
use contract::subjects::ALLOCATOR_SERVICE;
use futures_util::StreamExt as _;
use ports::bus::{BusError, RequestError};
use ports::clock::Clock;
use ports::random::Random;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// Bytes of the reply: about those of a granted claim.
const REPLY_BYTES: usize = 256;
/// Time-out of one round trip.
const ROUND_TRIP_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between two checks of the connections.
const CONNECT_POLL_PAUSE: Duration = Duration::from_millis(5);

/// A responder and a caller.
#[derive(Debug)]
pub struct NatsBaseline {
    caller: NatsBus,
    responder: NatsBus,
    subject: String,
    answering: JoinHandle<()>,
}

// === impl NatsBaseline ===

impl NatsBaseline {
    /// Connects both and starts the responder.
    ///
    /// # Errors
    /// [`BusError`] when there is no connection within ten seconds, or the server refuses the subscription.
    pub async fn start(
        config: &NatsConfig,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Self, BusError> {
        let connect = |name| NatsBus::connect(name, config.clone(), Arc::clone(&clock), Arc::clone(&random));
        let (caller, responder) = (connect("bench-baseline-caller").await?, connect("bench-baseline").await?);
        let connected = async {
            while !(caller.connected() && responder.connected()) {
                clock.sleep(CONNECT_POLL_PAUSE).await;
            }
        };
        tokio::time::timeout(ROUND_TRIP_TIMEOUT, connected).await.map_err(failed("connect to NATS"))?;
        let subject = responder.client.new_inbox();
        let mut requests = responder
            .client
            .queue_subscribe(subject.clone(), ALLOCATOR_SERVICE.to_owned())
            .await
            .map_err(failed("subscribe to round trips"))?;
        let client = responder.client.clone();
        let answering = tokio::spawn(async move {
            let reply = Bytes::from_static(&[b'x'; REPLY_BYTES]);
            while let Some(request) = requests.next().await {
                let Some(inbox) = request.reply else { continue };
                // If the reply cannot be sent, the caller times out and reports it.
                let _ = client.publish(inbox, reply.clone()).await;
            }
        });
        let baseline = Self { caller, responder, subject, answering };
        // The server does not confirm a subscription, and the caller's connection may be faster.
        let answered = async {
            while let Err(RequestError::NoResponders) = baseline.round_trip(Bytes::new()).await {
                clock.sleep(CONNECT_POLL_PAUSE).await;
            }
        };
        tokio::time::timeout(ROUND_TRIP_TIMEOUT, answered)
            .await
            .map_err(failed("subscribe to round trips"))?;
        Ok(baseline)
    }

    /// Sends `body` and waits for the reply.
    ///
    /// # Errors
    /// [`RequestError`] when there is none within ten seconds.
    pub async fn round_trip(&self, body: Bytes) -> Result<(), RequestError> {
        let asked = self.caller.client.request(self.subject.clone(), body);
        match tokio::time::timeout(ROUND_TRIP_TIMEOUT, asked).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) if error.kind() == async_nats::RequestErrorKind::NoResponders => {
                Err(RequestError::NoResponders)
            }
            Ok(Err(_)) | Err(_) => Err(RequestError::TimedOut),
        }
    }

    /// Closes both connections.
    pub async fn stop(self) {
        self.caller.close().await;
        self.responder.close().await;
        self.answering.abort();
    }
}
