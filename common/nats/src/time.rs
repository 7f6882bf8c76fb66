//! Measures the server's time: JetStream's answers about a stream state when they were made, and every role may request
//! them.

use super::NatsBus;
use async_nats::Request;
use contract::events::parse_rfc3339_ms;
use runtime::server_time::ServerTime;
use runtime::skew::ClockMetrics;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Time between two measurements. The monotonic clock advances in between, so this only bounds its drift.
const MEASURE_PERIOD: Duration = Duration::from_secs(5);
/// Pause before another attempt while nothing has been measured, and between two checks of a wrong clock.
const MEASURE_AGAIN: Duration = Duration::from_millis(500);
/// Time-out of an answer; a slower one would be imprecise.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Deserialize)]
struct Stamped {
    ts: Option<String>,
}

impl NatsBus {
    /// The server's time as measured by this connection.
    #[must_use]
    pub fn server_time(&self) -> &Arc<ServerTime> {
        &self.time
    }

    /// Measures the server's time repeatedly until `stop`, updates `metrics`, and logs when the clock of this process
    /// is wrong and when it is right again.
    pub async fn keep_time(&self, metrics: ClockMetrics, stop: CancellationToken) {
        let mut problem: Option<String> = None;
        while self.time.is_compared() && !stop.is_cancelled() {
            self.measure_time().await;
            metrics.show(&self.time);
            match (problem.is_some(), self.time.problem()) {
                (false, Some(now)) => {
                    tracing::error!("{now}; this process ends and grants nothing until it is right");
                    problem = Some(now);
                }
                (true, None) => {
                    tracing::info!("the clock is right again");
                    problem = None;
                }
                (true, Some(_)) | (false, None) => {}
            }
            let pause = if self.time.skew_ms().is_some() { MEASURE_PERIOD } else { MEASURE_AGAIN };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Whether no work may be taken: the clock is wrong, or the table was restored.
    pub(super) fn is_idle(&self) -> bool {
        self.time.problem().or_else(|| self.guard.problem()).is_some()
    }

    /// Returns whether no work may be taken; if so, after a pause.
    pub(super) async fn waits_idle(&self, stop: &CancellationToken) -> bool {
        self.measure_time_once().await;
        if !self.is_idle() {
            return false;
        }
        tokio::select! {
            () = tokio::time::sleep(MEASURE_AGAIN) => {}
            () = stop.cancelled() => {}
        }
        true
    }

    /// Returns when no work may be done any more, which stops running work.
    pub(super) async fn until_idle(&self) {
        while !self.is_idle() {
            tokio::time::sleep(MEASURE_AGAIN).await;
        }
    }

    /// Measures if nothing has been measured yet.
    pub(super) async fn measure_time_once(&self) {
        if self.time.is_compared() && self.time.skew_ms().is_none() {
            self.measure_time().await;
        }
    }

    /// Measures once. Without an answer nothing changes.
    pub async fn measure_time(&self) {
        let subjects = &self.config.subjects;
        // The second stream is for a fleet that has lost its bucket.
        for stream in [format!("KV_{}", subjects.bucket()), subjects.ticks_stream()] {
            if !self.connected() {
                return;
            }
            let asked = self.clock.monotonic();
            let request = Request::new().timeout(Some(ANSWER_TIMEOUT));
            let sent = self.client.send_request(format!("$JS.API.STREAM.INFO.{stream}"), request);
            // The time-out of the request starts only when the client has queued it.
            let Ok(Ok(answer)) = tokio::time::timeout(ANSWER_TIMEOUT, sent).await else { continue };
            let stamped = serde_json::from_slice::<Stamped>(&answer.payload).ok();
            if let Some(server_ms) = stamped.and_then(|stamped| parse_rfc3339_ms(&stamped.ts?)) {
                self.time.note(asked, server_ms);
                return;
            }
        }
    }
}
