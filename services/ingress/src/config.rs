//! The settings of the ingress.

use axum::http::HeaderValue;
use runtime::policy::read_stale_kept;
use runtime::predecessor::metrics::read_former_names;
use runtime::settings::Settings;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::cors::Cors;
use crate::listener::ConnectionConfig;
use crate::rates::RateConfig;
use crate::rates::peer::TrustedProxies;
use crate::tls::TlsConfig;
use crate::tokens::TokenConfig;

/// The settings of the ingress. Each field states its variable, its unit and its default.
#[derive(Clone, Debug)]
pub struct Config {
    /// `HTTP_LISTEN`: address and port of the API; `127.0.0.1:8080`.
    pub listen: SocketAddr,
    /// `BROKER_API_TOKEN` and `BROKER_ADMIN_TOKEN`, or `TOKENS_FILE`, or `TOKENS_SECRET`: the valid tokens.
    pub tokens: TokenConfig,
    /// Rate limits of callers.
    pub rates: RateConfig,
    /// `TRUSTED_PROXIES`: proxies whose `X-Forwarded-For` is trusted; none.
    pub trusted_proxies: TrustedProxies,
    /// `REQUEST_DEADLINE_MS`: longest time that a lab waits for an answer; 10,000.
    pub request_deadline: Duration,
    /// `REQUEST_ATTEMPT_MS`: time-out of one attempt; 4,000.
    pub request_attempt: Duration,
    /// `NO_RESPONDERS_PATIENCE_MS`: longest time that a request waits for a worker to appear; 1,000.
    pub no_responders_patience: Duration,
    /// `IN_FLIGHT_MAX`: requests that may wait for workers at once; 16,384.
    pub in_flight_max: usize,
    /// `ADMIN_WAIT_MS`: longest time that an operator's request for a run, or to the switch of the deletions,
    /// takes; 25,000.
    pub admin_wait: Duration,
    /// `STALE_KEPT_HOURS`: how long stale sandboxes are kept, for callers that name it; 24.
    pub stale_kept: Duration,
    /// Limits on the number of connections and on the time of each step of a connection.
    pub connections: ConnectionConfig,
    /// `TLS_CERT_FILE`, `TLS_KEY_FILE`, `TLS_CLIENT_CA_FILE`: TLS of the ingress; none.
    pub tls: Option<Box<TlsConfig>>,
    /// `HSTS_ENABLED`: whether TLS is terminated in front of the ingress; false.
    pub hsts_enabled: bool,
    /// `CORS_ALLOWED_ORIGINS`: origins whose pages may call the API, separated by commas, or `*`; none.
    pub cors: Cors,
    /// `METRICS_FORMER_NAMES`: whether `/metrics` also has the metrics of the predecessor; true.
    pub former_metric_names: bool,
}

// === impl Config ===

impl Config {
    /// Reads the settings; mistakes go to `settings`.
    pub fn read(settings: &mut Settings<'_>) -> Self {
        let listen = settings
            .parsed("HTTP_LISTEN", "127.0.0.1:8080", "listen address and port of the HTTP API", |text| {
                text.parse().map_err(|_| "must be an address and a port, as 127.0.0.1:8080".to_owned())
            })
            .unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)));
        let cors = origins(settings);
        Self {
            listen,
            tokens: TokenConfig::read(settings),
            rates: RateConfig::read(settings),
            trusted_proxies: settings
                .parsed(
                    "TRUSTED_PROXIES",
                    "",
                    "addresses and networks of proxies, separated by commas, whose `X-Forwarded-For` is trusted; none if empty",
                    TrustedProxies::parse,
                )
                .unwrap_or_default(),
            request_deadline: settings.millis(
                "REQUEST_DEADLINE_MS",
                10_000,
                100..=60_000,
                "deadline of a lab's request, in milliseconds",
            ),
            request_attempt: settings.millis(
                "REQUEST_ATTEMPT_MS",
                // Longer than a whole class waits on a slow engine: giving up an attempt while a worker is at it only
                // adds to the load.
                4_000,
                50..=30_000,
                "time-out of one attempt, in milliseconds",
            ),
            no_responders_patience: settings.millis(
                "NO_RESPONDERS_PATIENCE_MS",
                1_000,
                0..=30_000,
                "longest time that a request waits for a worker to appear, in milliseconds",
            ),
            in_flight_max: settings.size(
                "IN_FLIGHT_MAX",
                16_384,
                1..=65_536,
                "requests that may wait for workers at once",
            ),
            admin_wait: settings.millis(
                "ADMIN_WAIT_MS",
                25_000,
                100..=60_000,
                "deadline of an operator's request for a run or for the switch of deletions, in milliseconds",
            ),
            stale_kept: read_stale_kept(settings),
            connections: ConnectionConfig::read(settings),
            tls: TlsConfig::read(settings).map(Box::new),
            hsts_enabled: settings.switch(
                "HSTS_ENABLED",
                false,
                "whether TLS is terminated in front of the ingress, so that answers carry `Strict-Transport-Security`",
            ),
            cors,
            former_metric_names: read_former_names(settings),
        }
    }
}

fn origins(settings: &mut Settings<'_>) -> Cors {
    settings
        .parsed(
            "CORS_ALLOWED_ORIGINS",
            "",
            "origins whose pages may call the API, separated by commas, or `*`; none if empty",
            parse_origins,
        )
        .unwrap_or_default()
}

fn parse_origins(text: &str) -> Result<Cors, String> {
    const PROBLEM: &str =
        "must be origins as https://console.example.org (no path), separated by commas, or *";
    let mut origins = Vec::new();
    for origin in text.split(',').map(str::trim).filter(|origin| !origin.is_empty()) {
        if origin == "*" {
            return Ok(Cors::Any);
        }
        let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
        let is_origin = host.is_some_and(|host| {
            !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/')
        });
        match HeaderValue::from_str(origin) {
            Ok(value) if is_origin => origins.push(value),
            _ => return Err(PROBLEM.to_owned()),
        }
    }
    Ok(if origins.is_empty() { Cors::Disabled } else { Cors::These(origins) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn only_the_tokens_are_required() {
        let env = env(&[("BROKER_API_TOKEN", "a,b"), ("BROKER_ADMIN_TOKEN", "c")]);
        let mut settings = Settings::new(&env);
        let config = Config::read(&mut settings);
        let config = settings.finish(config).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
        let names: Vec<_> = config.tokens.first.0.iter().map(|entry| entry.caller.name.as_str()).collect();
        assert_eq!(names, ["lab", "lab-2", "admin"]);
        assert_eq!(config.request_deadline, Duration::from_secs(10));
        assert_eq!(config.cors, Cors::Disabled);
    }

    #[test]
    fn every_mistake_is_named_and_no_secret_shown() {
        let env = env(&[
            ("HTTP_LISTEN", "here"),
            ("BROKER_API_TOKEN", "hid den"),
            ("REQUEST_DEADLINE_MS", "99"),
            ("HSTS_ENABLED", "yes"),
            ("CORS_ALLOWED_ORIGINS", "https://a.example/path"),
        ]);
        let mut settings = Settings::new(&env);
        let config = Config::read(&mut settings);
        let mistakes = settings.finish(config).unwrap_err();
        assert_eq!(mistakes.0.len(), 6, "{mistakes}");
        assert!(!mistakes.to_string().contains("hid den"));
    }

    #[test]
    fn origins_are_parsed_as_a_list() {
        assert_eq!(parse_origins(" , "), Ok(Cors::Disabled));
        assert_eq!(parse_origins("https://a.example,*"), Ok(Cors::Any));
        let both = vec!["https://a.example", "http://localhost:3000"];
        let both = both.into_iter().map(HeaderValue::from_static).collect();
        assert_eq!(parse_origins("https://a.example, http://localhost:3000"), Ok(Cors::These(both)));
        for bad in ["a.example", "https://", "https://a.example/", "ftp://a.example", "https://ä.example"] {
            assert!(parse_origins(bad).is_err(), "{bad}");
        }
    }
}
