//! The metrics of the ingress. Labels come from fixed sets only, so that no caller can create series.

use axum::http::{Method, StatusCode};
use contract::{FaultCode, Role, WorkerRole};
use ports::bus::{ServiceInfo, WorkCounts};
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use runtime::metrics::{Collectors, counted, gauge_value, register_all};
use std::collections::BTreeMap;
use std::time::Duration;
use strum::IntoEnumIterator as _;

mod connections;
mod relay;

pub(crate) use connections::Closed;
use connections::ConnectionMetrics;
use relay::RelayMetrics;
pub(crate) use relay::RetryReason;

use crate::rates::Limit;

/// Handles of all metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: IntCounterVec,
    latency: HistogramVec,
    in_flight: IntGauge,
    faults: IntCounterVec,
    relay: RelayMetrics,
    undelivered: IntCounterVec,
    tokens: IntGaugeVec,
    tokens_file_bad: IntGauge,
    tokens_file_reads: IntCounterVec,
    limited: IntCounterVec,
    limit_keys: IntGaugeVec,
    connections: ConnectionMetrics,
}

/// Why a caller did not get a lease that was granted, or may have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::EnumIter)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum Undelivery {
    /// The worker's reply came after the caller had its error.
    LateReply,
    /// The caller left before the answer.
    CallerLeft,
    /// A failed claim had an attempt without an answer, or with one that leaves the outcome open.
    Unknown,
}

/// The route label of a request that matches no route.
pub(crate) const UNMATCHED_ROUTE: &str = "unmatched";
/// The status label of a request whose caller left before the answer, as in nginx.
pub(crate) const CALLER_GONE_STATUS: u16 = 499;

/// The outcomes of reading a changed token file.
const READ: &str = "read";
const BAD: &str = "bad";

/// Seconds. The ingress alone needs under 1 ms; a claim 2–10 ms; a repeat adds 50–500 ms; 2 s is one attempt, 10 s the
/// deadline of labs, and 25–30 s an operator's wait for a report.
const LATENCY_BUCKETS: [f64; 15] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

// === impl Undelivery ===

impl Undelivery {
    pub(crate) fn as_str(self) -> &'static str {
        self.into()
    }
}

// === impl Metrics ===

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// When the registry already has metrics with these names.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            requests: IntCounterVec::new(
                Opts::new(
                    "broker_http_requests_total",
                    "Answered HTTP requests; status 499: the caller left",
                ),
                &["method", "route", "status"],
            )?,
            latency: HistogramVec::new(
                HistogramOpts::new(
                    "broker_http_request_duration_seconds",
                    "Time from a request's head to its answer's head",
                )
                .buckets(LATENCY_BUCKETS.to_vec()),
                &["method", "route"],
            )?,
            in_flight: IntGauge::new(
                "broker_http_in_flight_requests",
                "HTTP requests without an answer yet",
            )?,
            faults: IntCounterVec::new(
                Opts::new(
                    "broker_http_faults_total",
                    "Answers that refuse or fail, by the code of the fault",
                ),
                &["code"],
            )?,
            relay: RelayMetrics::new()?,
            undelivered: IntCounterVec::new(
                Opts::new(
                    "broker_undelivered_leases_total",
                    "Claims whose caller got no lease although a worker granted one: late_reply (the worker replied after the error), caller_left (before the answer); and unknown: failed claims that may have been granted",
                ),
                &["reason"],
            )?,
            tokens: IntGaugeVec::new(
                Opts::new("broker_http_tokens", "Tokens that are good, by what they give the right to"),
                &["scope"],
            )?,
            tokens_file_bad: IntGauge::new(
                "broker_http_tokens_file_bad",
                "1 while the file or secret of tokens cannot be used and older tokens stay good",
            )?,
            tokens_file_reads: IntCounterVec::new(
                Opts::new(
                    "broker_http_tokens_file_reads_total",
                    "Changes of the file or secret of tokens, by result",
                ),
                &["outcome"],
            )?,
            limited: IntCounterVec::new(
                Opts::new("broker_http_rate_limited_total", "Requests refused by a rate limit, by the limit"),
                &["limit"],
            )?,
            limit_keys: IntGaugeVec::new(
                Opts::new(
                    "broker_http_rate_limit_keys",
                    "Addresses, tokens and owners in the rate limits, at most 65536 each",
                ),
                &["limit"],
            )?,
            connections: ConnectionMetrics::new()?,
        };
        register_all(registry, metrics.collectors())?;
        metrics.show_zeros();
        Ok(metrics)
    }

    /// Rates need an initial zero.
    fn show_zeros(&self) {
        for why in Undelivery::iter() {
            self.undelivered.with_label_values(&[why.as_str()]);
        }
        for limit in Limit::iter() {
            self.limited.with_label_values(&[limit.as_str()]);
        }
        for outcome in [READ, BAD] {
            self.tokens_file_reads.with_label_values(&[outcome]);
        }
    }

    /// All metrics.
    #[must_use]
    pub fn collectors(&self) -> Collectors {
        let Self {
            requests,
            latency,
            in_flight,
            faults,
            relay,
            undelivered,
            tokens,
            tokens_file_bad,
            tokens_file_reads,
            limited,
            limit_keys,
            connections,
        } = self.clone();
        let mut collectors: Collectors = vec![
            Box::new(requests),
            Box::new(latency),
            Box::new(in_flight),
            Box::new(faults),
            Box::new(undelivered),
            Box::new(tokens),
            Box::new(tokens_file_bad),
            Box::new(tokens_file_reads),
            Box::new(limited),
            Box::new(limit_keys),
        ];
        collectors.extend(relay.collectors());
        collectors.extend(connections.collectors());
        collectors
    }

    pub(crate) fn begun(&self) {
        self.in_flight.inc();
    }

    pub(crate) fn ended(&self, method: &Method, route: &str, status: u16, took: Duration) {
        self.in_flight.dec();
        let method = method_label(method);
        self.requests.with_label_values(&[method, route, status_label(status).as_str()]).inc();
        let latency: Histogram = self.latency.with_label_values(&[method, route]);
        latency.observe(took.as_secs_f64());
    }

    pub(crate) fn faulted(&self, code: FaultCode) {
        self.faults.with_label_values(&[code.as_str()]).inc();
    }

    /// Answers by status, over all routes.
    fn by_status(&self) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for (labels, count) in counted(&self.requests) {
            if let Some((_, status)) = labels.rsplit_once('.') {
                *sums.entry(status.to_owned()).or_default() += count;
            }
        }
        sums
    }

    pub(crate) fn undelivered(&self, why: Undelivery) {
        self.undelivered.with_label_values(&[why.as_str()]).inc();
    }

    pub(crate) fn limited(&self, limit: Limit) {
        self.limited.with_label_values(&[limit.as_str()]).inc();
    }

    pub(crate) fn remembers(&self, limit: Limit, keys: usize) {
        self.limit_keys.with_label_values(&[limit.as_str()]).set(gauge_value(keys));
    }

    pub(crate) fn tokens_are(&self, role: Role, count: usize) {
        self.tokens.with_label_values(&[role.as_str()]).set(gauge_value(count));
    }

    pub(crate) fn tokens_read(&self, is_bad: bool) {
        self.tokens_file_bad.set(i64::from(is_bad));
        self.tokens_file_reads.with_label_values(&[if is_bad { BAD } else { READ }]).inc();
    }
}

impl ServiceInfo for Metrics {
    fn role(&self) -> WorkerRole {
        WorkerRole::Ingress
    }

    fn in_flight(&self) -> Option<u64> {
        Some(u64::try_from(self.in_flight.get()).unwrap_or(0))
    }

    fn total(&self) -> WorkCounts {
        let by_status = self.by_status();
        let failed = by_status.iter().filter(|(status, _)| status.starts_with('5'));
        WorkCounts::of(by_status.values().sum(), failed.map(|(_, count)| count).sum())
    }

    fn further(&self) -> Vec<(String, u64)> {
        self.by_status().into_iter().map(|(status, count)| (format!("status_{status}"), count)).collect()
    }
}

// Any word may be a method, and a caller may try them all.
fn method_label(method: &Method) -> &'static str {
    const KNOWN: [(Method, &str); 7] = [
        (Method::GET, "GET"),
        (Method::POST, "POST"),
        (Method::HEAD, "HEAD"),
        (Method::OPTIONS, "OPTIONS"),
        (Method::PUT, "PUT"),
        (Method::PATCH, "PATCH"),
        (Method::DELETE, "DELETE"),
    ];
    KNOWN.iter().find(|(known, _)| known == method).map_or("other", |(_, label)| *label)
}

fn status_label(status: u16) -> String {
    // Every status here is one of ours; the check prevents a series for a wrong one.
    StatusCode::from_u16(status).map_or_else(|_| "other".to_owned(), |status| status.as_str().to_owned())
}
