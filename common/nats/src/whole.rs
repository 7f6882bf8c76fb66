//! Maintains the fleet's streams, consumers and bucket: creates missing ones and corrects edited ones. Every process
//! checks repeatedly, and readiness shows the result.

use super::judge::server_answer;
use super::topology::{differing, without_operators_part};
use super::{NatsBus, failed};
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{IntoConsumerConfig as _, pull};
use async_nats::jetstream::context::{
    ConsumerInfoErrorKind, CreateStreamError, CreateStreamErrorKind, GetStreamErrorKind,
};
use async_nats::jetstream::stream;
use contract::{DeletionWork, ProvisionWork, Report};
use ports::backoff::longest_pause;
use ports::bus::BusError;
use runtime::telemetry::Chain;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// First pause after a check with a problem that could not be fixed; it doubles.
const CHECK_PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest such pause.
const CHECK_PAUSE_MAX: Duration = Duration::from_secs(2);

/// How much a process maintains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maintenance {
    /// Creates what is missing.
    CreateMissing,
    /// Also corrects differences from its settings. Only one role does that, so that two with different settings do not
    /// undo each other's work for ever.
    CorrectAll,
}

// === impl NatsBus ===

impl NatsBus {
    /// Checks repeatedly, until `stop`, whether everything exists and a message is stored: at once, soon after a
    /// failure, otherwise every `NATS_CHECK_SECONDS`.
    pub async fn keep_whole(&self, maintenance: Maintenance, stop: &CancellationToken) {
        let mut failures = 0_u32;
        let mut maintenance_now = Maintenance::CorrectAll;
        while !stop.is_cancelled() {
            let looked = tokio::select! {
                looked = self.make_whole(maintenance_now) => looked,
                () = stop.cancelled() => return,
            };
            // At its start a process applies all its settings.
            maintenance_now = if looked.is_ok() { maintenance } else { maintenance_now };
            let is_there = looked.is_ok();
            self.note_whole(looked.map(|_| ()));
            let is_well = tokio::select! {
                stores = async { is_there && self.probe_storing().await } => stores,
                () = stop.cancelled() => return,
            };
            failures = if is_well { 0 } else { failures.saturating_add(1) };
            let next = if is_well {
                self.config.check_period
            } else {
                longest_pause(CHECK_PAUSE_MIN, CHECK_PAUSE_MAX, failures)
            };
            tokio::select! {
                () = tokio::time::sleep(next) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Waits until everything has existed once. False if `stop` came first.
    pub async fn until_whole(&self, stop: &CancellationToken) -> bool {
        let mut whole = self.whole.subscribe();
        tokio::select! {
            found = whole.wait_for(Result::is_ok) => found.is_ok(),
            () = stop.cancelled() => false,
        }
    }

    /// Whether everything existed at the last check and the last message could be stored.
    ///
    /// # Errors
    /// The problem, in words for an operator.
    pub fn is_whole(&self) -> Result<(), String> {
        self.whole.borrow().clone()?;
        self.storing.borrow().clone()
    }

    fn note_whole(&self, looked: Result<(), BusError>) {
        let found = looked.map_err(|error| {
            let words = Chain(&error).to_string();
            // Logged once, and not at every check.
            if self.whole.borrow().as_ref() != Err(&words) {
                tracing::warn!(error = words, "streams, consumers or bucket are missing; trying again");
            }
            words
        });
        let _ = self.whole.send_replace(found);
    }

    /// Creates what is missing and, with [`Maintenance::CorrectAll`], corrects what differs. Returns whether anything
    /// was done. A failure does not prevent the rest.
    pub(super) async fn make_whole(&self, maintenance: Maintenance) -> Result<bool, BusError> {
        let (mut is_changed, mut failure) = (false, None);
        let mut note = |done: Result<bool, BusError>| match done {
            Ok(is_done) => is_changed |= is_done,
            Err(error) => failure = failure.take().or(Some(error)),
        };
        for config in self.config.streams().into_iter().chain([self.config.bucket_config()]) {
            note(self.keep_stream(config, maintenance).await);
        }
        for kind in Report::kinds() {
            let stream = self.config.subjects.ticks_stream();
            note(self.keep_consumer(stream, self.config.tick_consumer_config(kind), maintenance).await);
        }
        note(self.remove_old_consumer().await.map(|()| false));
        note(self.open_lanes_again::<DeletionWork>(maintenance).await);
        note(self.open_lanes_again::<ProvisionWork>(maintenance).await);
        failure.map_or(Ok(is_changed), Err)
    }

    async fn keep_stream(&self, config: stream::Config, maintenance: Maintenance) -> Result<bool, BusError> {
        let name = config.name.clone();
        let there = match self.jetstream.get_stream(&name).await {
            Ok(there) => there.cached_info().config.clone(),
            Err(error) if is_missing_stream(&error.kind()) => {
                let first = self.config.first_sequence(&name, self.clock.now_ms());
                let config = stream::Config { first_sequence: first, ..config };
                return match self.jetstream.create_stream(config).await {
                    Ok(_) => {
                        tracing::info!(nats.stream = name, "created the stream {name}");
                        self.mended.iter().for_each(|metrics| metrics.made("stream"));
                        Ok(true)
                    }
                    // Another process created it at the same moment.
                    Err(error) if is_there(&error) => Ok(true),
                    Err(error) => Err(of(&name, "make a stream", &error)),
                };
            }
            Err(error) => return Err(of(&name, "look for a stream", &error)),
        };
        let differing = differing(&config, &there);
        if maintenance == Maintenance::CreateMissing || differing.is_empty() {
            return Ok(false);
        }
        tracing::warn!(
            nats.stream = name,
            nats.differing = ?differing,
            "settings of the stream {name} differ; correcting them"
        );
        let config = without_operators_part(config, there);
        let updated = self.jetstream.update_stream(config).await;
        updated.map_err(|error| of(&name, "put a stream right", &error))?;
        self.mended.iter().for_each(|metrics| metrics.corrected("stream"));
        Ok(true)
    }

    pub(super) async fn keep_consumer(
        &self,
        stream: String,
        config: pull::Config,
        maintenance: Maintenance,
    ) -> Result<bool, BusError> {
        let name = config.durable_name.clone().unwrap_or_default();
        let is_missing = match self.stream_to_read(stream.clone()).await?.consumer_info(&name).await {
            Ok(info) => {
                let differing = differing(&config.clone().into_consumer_config(), &info.config);
                if maintenance == Maintenance::CreateMissing || differing.is_empty() {
                    return Ok(false);
                }
                tracing::warn!(
                    nats.consumer = name,
                    nats.differing = ?differing,
                    "settings of the consumer {name} differ; correcting them"
                );
                false
            }
            Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => {
                tracing::info!(nats.consumer = name, "creating the consumer {name}");
                true
            }
            Err(error) => return Err(of(&name, "look for a consumer", &error)),
        };
        let made = self.jetstream.create_consumer_on_stream(config, stream).await;
        made.map_err(|error| of(&name, "make a consumer", &error))?;
        if let Some(metrics) = &self.mended {
            if is_missing { metrics.made("consumer") } else { metrics.corrected("consumer") }
        }
        Ok(true)
    }
}

/// A failure with the name of its asset, in the server's words if there are any.
fn of(name: &str, operation: &'static str, error: &(dyn std::error::Error + 'static)) -> BusError {
    let words = match server_answer(error) {
        Some(answer) => answer.to_string(),
        None => Chain(error).to_string(),
    };
    failed(operation)(format!("{name}: {words}"))
}

fn is_there(error: &CreateStreamError) -> bool {
    server_answer(error).is_some_and(|answer| answer.error_code() == ErrorCode::STREAM_NAME_EXIST)
        || matches!(error.kind(), CreateStreamErrorKind::JetStream(answer) if answer.error_code() == ErrorCode::STREAM_NAME_EXIST)
}

pub(super) fn is_missing_stream(kind: &GetStreamErrorKind) -> bool {
    matches!(kind, GetStreamErrorKind::JetStream(answer) if answer.error_code() == ErrorCode::STREAM_NOT_FOUND)
}
