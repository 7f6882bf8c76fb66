//! What an operator has to know when something is wrong: the connection, JetStream, the fleet's streams, and the rights
//! of the user. Nothing here changes anything.

use super::topology::differing;
use super::whole::is_missing_stream;
use super::{JETSTREAM_TIMEOUT, NatsBus, failed};
use async_nats::jetstream::consumer::IntoConsumerConfig as _;
use async_nats::jetstream::context::{AccountErrorKind, ConsumerInfoErrorKind};
use async_nats::jetstream::{ErrorCode, consumer, stream};
use async_nats::{HeaderMap, Request, header};
use contract::{Report, TickKind, Verb};
use futures_util::future::join_all;
use ports::bus::BusError;
use std::time::Duration;

/// Time-out of an answer to a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Name of a stream that does not exist: a message that expects it is refused and never stored.
const NO_STREAM: &str = "broker-doctor-probe";
/// How the server reports a subscription that it denied, in lower case.
const DENIED_SUBSCRIPTION: &str = "permissions violation for subscription to ";

/// A stream, bucket or consumer that differs from its definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssetFault {
    /// Its name.
    pub name: String,
    /// The settings that differ; none if it does not exist.
    pub differing: Option<Vec<String>>,
}

impl NatsBus {
    /// Why the last attempt to connect failed, in the words of the client library; none if none did.
    #[must_use]
    pub fn connect_failure(&self) -> Option<String> {
        self.seen.connect_failure()
    }

    /// Whether the account has JetStream.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn has_jetstream(&self) -> Result<bool, BusError> {
        let Err(error) = self.jetstream.query_account().await else { return Ok(true) };
        let is_off = match error.kind() {
            AccountErrorKind::JetStreamUnavailable => true,
            AccountErrorKind::JetStream(answer) => matches!(
                answer.error_code(),
                ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT
            ),
            AccountErrorKind::TimedOut | AccountErrorKind::Other => false,
        };
        if is_off { Ok(false) } else { Err(failed("look at JetStream")(error)) }
    }

    /// Every stream, bucket and tick consumer that is missing or has other settings than those of this process. The
    /// consumers of pools are left out, because their settings are those of the pools.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn asset_faults(&self) -> Result<Vec<AssetFault>, BusError> {
        let mut faults = Vec::new();
        for config in self.config.streams().into_iter().chain([self.config.bucket_config()]) {
            faults.extend(self.stream_fault(config).await?);
        }
        let ticks = self.config.subjects.ticks_stream();
        if faults.iter().any(|fault| fault.name == ticks && fault.differing.is_none()) {
            return Ok(faults);
        }
        for kind in Report::kinds() {
            faults.extend(self.tick_consumer_fault(&ticks, kind).await?);
        }
        Ok(faults)
    }

    async fn stream_fault(&self, config: stream::Config) -> Result<Option<AssetFault>, BusError> {
        let differing = match self.jetstream.get_stream(&config.name).await {
            Ok(there) => Some(differing(&config, &there.cached_info().config)),
            Err(error) if is_missing_stream(&error.kind()) => None,
            Err(error) => return Err(failed("look at a stream")(error)),
        };
        Ok(fault(config.name, differing))
    }

    async fn tick_consumer_fault(
        &self,
        stream: &str,
        kind: TickKind,
    ) -> Result<Option<AssetFault>, BusError> {
        const OPERATION: &str = "look at a consumer";
        let config: consumer::Config = self.config.tick_consumer_config(kind).into_consumer_config();
        let name = config.durable_name.clone().unwrap_or_default();
        let stream = self.stream_to_read(stream.to_owned()).await?;
        let differing = match stream.consumer_info(&name).await {
            Ok(info) => Some(differing(&config, &info.config)),
            Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => None,
            Err(error) => return Err(failed(OPERATION)(error)),
        };
        Ok(fault(name, differing))
    }

    /// The rights that an operator needs and this user lacks, in words. The messages that find out are requests that
    /// only read, or messages that no stream stores.
    pub async fn missing_rights(&self) -> Vec<String> {
        let subjects = &self.config.subjects;
        let probes = [
            subjects.request(Verb::Health),
            subjects.tick(TickKind::CENSUS),
            format!("$KV.{}.probe", subjects.bucket()),
            "$JS.API.INFO".to_owned(),
            format!("$JS.API.STREAM.INFO.{}", subjects.deletions_stream()),
            format!("$JS.API.DIRECT.GET.{}", subjects.events_stream()),
            "$SRV.STATS".to_owned(),
        ];
        let may_publish = join_all(probes.iter().map(|subject| self.may_publish(subject))).await;
        let denied = probes.iter().zip(may_publish).filter(|(_, is_allowed)| !is_allowed);
        let mut missing: Vec<_> = denied.map(|(subject, _)| format!("publish to {subject}")).collect();
        let refusals = self.seen.refusals().borrow().clone();
        let subscriptions = refusals.iter().filter_map(|refusal| refusal.split_once(DENIED_SUBSCRIPTION));
        missing
            .extend(subscriptions.map(|(_, subject)| format!("subscribe to {}", subject.trim_matches('"'))));
        missing.dedup();
        missing
    }

    async fn may_publish(&self, subject: &str) -> bool {
        let denied = format!("permissions violation for publish to \"{}\"", subject.to_lowercase());
        let mut refusals = self.seen.refusals();
        let mut headers = HeaderMap::new();
        headers.insert(header::NATS_EXPECTED_STREAM, NO_STREAM);
        let request = Request::new().headers(headers).payload("{}".into()).timeout(Some(PROBE_TIMEOUT));
        tokio::select! {
            // Any answer proves the right; silence proves nothing.
            _ = tokio::time::timeout(JETSTREAM_TIMEOUT, self.client.send_request(subject.to_owned(), request)) => true,
            found = refusals.wait_for(|all| all.iter().any(|refusal| refusal.contains(&denied))) => found.is_err(),
        }
    }
}

fn fault(name: String, differing: Option<Vec<String>>) -> Option<AssetFault> {
    let is_right = differing.as_ref().is_some_and(Vec::is_empty);
    (!is_right).then_some(AssetFault { name, differing })
}
