//! One HTTP exchange with a provider: limits time and bytes, and classifies every failure.

use ports::clock::Clock;
use ports::provider::ProviderError;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Client, RequestBuilder, Response, Url};
use runtime::telemetry::Chain;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

/// Most bytes read of a failure answer; the reason is at its beginning.
const FAILURE_BODY_BYTES_MAX: usize = 64 * 1024;
/// Most characters kept of a reason, which goes into items, headers and logs.
pub(super) const REASON_CHARS_MAX: usize = 300;
/// Longest `Retry-After` that is followed. After that time, the provider is asked again.
pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_secs(3_600);
/// Idle connections kept per provider; more than one process has deletions in progress.
const IDLE_CONNECTIONS_MAX: usize = 32;

/// Why a client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The HTTP client cannot be built. With `https` the usual cause is a machine without CA certificates.
    #[error("the HTTP client cannot be set up (for https the machine needs CA certificates)")]
    Client(#[source] reqwest::Error),
    /// An invalid base URL.
    #[error("{variable} {problem}")]
    BaseUrl {
        /// The setting.
        variable: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A token that cannot be sent in a header.
    #[error("the token of the CSP is empty, or holds characters that a header cannot carry")]
    Token,
    /// A file with the token that cannot be read.
    #[error("CSP_API_TOKEN_FILE cannot be read")]
    TokenFile(#[source] std::io::Error),
}

/// Sends requests over one connection pool.
#[derive(Clone, Debug)]
pub(super) struct Exchange {
    client: Client,
    clock: Arc<dyn Clock>,
}

/// An answer of the provider.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// HTTP status.
    pub(super) status: u16,
    /// `Retry-After`, if present.
    pub(super) retry_after: Option<Duration>,
    /// The body; for a failure, its beginning.
    pub(super) body: Vec<u8>,
}

// === impl Exchange ===

impl Exchange {
    /// A connection pool. `urls` decide whether CA certificates are needed: plain HTTP needs none, and a container
    /// without them must still reach the simulator.
    pub(super) fn new(
        urls: &[&Url],
        connect_timeout: Duration,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ClientError> {
        let mut builder = Client::builder()
            .user_agent(concat!("sandbox-broker/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(connect_timeout)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            // A redirect would send a DELETE, with our token, to another host.
            .redirect(reqwest::redirect::Policy::none())
            // The broker ignores the process's proxy variables.
            .no_proxy();
        if urls.iter().all(|url| url.scheme() == "http") {
            builder = builder.tls_certs_only([]);
        }
        let client = builder.build().map_err(ClientError::Client)?;
        Ok(Self { client, clock })
    }

    /// The client that builds requests.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Sends `request` and reads at most `body_bytes_max` of a successful answer. `timeout` covers everything, a new
    /// connection and a slow body included.
    pub(super) async fn send(
        &self,
        request: RequestBuilder,
        timeout: Duration,
        body_bytes_max: usize,
    ) -> Result<Answer, ProviderError> {
        let response =
            request.timeout(timeout).send().await.map_err(|error| transport_error(error, timeout))?;
        let status = response.status();
        let retry_after = retry_after(response.headers(), self.clock.now_ms());
        let body = if status.is_success() {
            read_all(response, timeout, body_bytes_max).await?
        } else {
            read_beginning(response, FAILURE_BODY_BYTES_MAX).await
        };
        Ok(Answer { status: status.as_u16(), retry_after, body })
    }
}

// === impl Answer ===

impl Answer {
    /// Whether the answer is a web page. Gateways, maintenance pages and wrong base URLs answer with one; the
    /// provider's API never does.
    pub(super) fn is_html(&self) -> bool {
        self.body.trim_ascii_start().first() == Some(&b'<')
    }

    /// The reason in the answer, safe for a log line.
    pub(super) fn reason(&self) -> String {
        reason(&self.body)
    }

    /// The body as JSON.
    pub(super) fn json(&self) -> Result<Value, ProviderError> {
        serde_json::from_slice(&self.body).map_err(|error| ProviderError::Malformed {
            message: format!("status {} without readable JSON ({error}): {}", self.status, self.reason()),
        })
    }

    /// The error for an answer that is not the expected one.
    pub(super) fn error(&self) -> ProviderError {
        let status = self.status;
        let message = format!("status {status}: {}", self.reason());
        let retry_after = self.retry_after;
        match status {
            401 => ProviderError::Unauthorized { message },
            403 => ProviderError::Forbidden { message },
            429 => ProviderError::Throttled { retry_after, message },
            503 if retry_after.is_some() => ProviderError::Throttled { retry_after, message },
            500..=599 => ProviderError::Failed { message },
            400..=499 => ProviderError::Refused { message },
            _ => ProviderError::Malformed { message: format!("unexpected {message}") },
        }
    }
}

async fn read_all(
    mut response: Response,
    timeout: Duration,
    body_bytes_max: usize,
) -> Result<Vec<u8>, ProviderError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| transport_error(error, timeout))? {
        if body.len().saturating_add(chunk.len()) > body_bytes_max {
            return Err(ProviderError::Malformed { message: format!("more than {body_bytes_max} bytes") });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Reads up to the limit. If a failure answer breaks off, it is still that failure.
async fn read_beginning(mut response: Response, bytes_max: usize) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        let room = bytes_max.saturating_sub(body.len());
        body.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
        if body.len() >= bytes_max {
            break;
        }
    }
    body
}

fn transport_error(error: reqwest::Error, timeout: Duration) -> ProviderError {
    // A connection that timed out before it was established has sent nothing, so the outcome is known.
    if error.is_timeout() && !error.is_connect() {
        let waited_seconds = u64::try_from(timeout.as_millis().div_ceil(1_000)).unwrap_or(u64::MAX);
        return ProviderError::UnknownOutcome { waited_seconds };
    }
    let error = error.without_url();
    ProviderError::Unreachable { message: clean(&Chain(&error).to_string()) }
}

fn retry_after(headers: &HeaderMap, now_ms: u64) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
    }
    let moment = OffsetDateTime::parse(text, &Rfc2822).ok()?.unix_timestamp();
    let now = i64::try_from(now_ms / 1_000).unwrap_or(i64::MAX);
    let seconds = u64::try_from(moment.saturating_sub(now)).unwrap_or(0);
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

fn reason(body: &[u8]) -> String {
    let said = serde_json::from_slice::<Value>(body)
        .ok()
        .and_then(|json| Some(json.get("error")?.get(0)?.get("message")?.as_str()?.to_owned()))
        .unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    let said = clean(&said);
    if said.is_empty() { "no reason given".to_owned() } else { said }
}

/// One line of limited length without control characters, which could forge log lines and break headers.
fn clean(text: &str) -> String {
    let printable: String = text.chars().filter(|c| !c.is_control()).take(REASON_CHARS_MAX).collect();
    printable.trim().to_owned()
}

/// `base` with `segments` appended to its path, each escaped.
pub(super) fn under(base: &Url, segments: &[&str]) -> Result<Url, ProviderError> {
    let mut url = base.clone();
    for segment in segments {
        // An empty or dotted last segment would address the whole collection.
        if segment.is_empty() || *segment == "." || *segment == ".." {
            return Err(ProviderError::Malformed {
                message: "an id without a usable last segment".to_owned(),
            });
        }
    }
    match url.path_segments_mut() {
        Ok(mut path) => path.pop_if_empty().extend(segments),
        Err(()) => {
            return Err(ProviderError::Malformed {
                message: "a base URL that cannot have a path".to_owned(),
            });
        }
    };
    Ok(url)
}

/// A base URL: `http` or `https`, a host, no query.
pub(super) fn parse_base(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("is no URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err("must be an http or https URL".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() {
        return Err("must have no query, fragment or user".to_owned());
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_445_412_480_000; // Wed, 21 Oct 2015 07:28:00 GMT

    fn after(value: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, value.parse().unwrap());
        retry_after(&headers, NOW_MS)
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(after("17"), Some(Duration::from_secs(17)));
        assert_eq!(after("Wed, 21 Oct 2015 07:28:30 GMT"), Some(Duration::from_secs(30)));
        assert_eq!(after("Wed, 21 Oct 2015 07:27:00 GMT"), Some(Duration::ZERO));
        assert_eq!(after("99999999"), Some(RETRY_AFTER_MAX));
        assert_eq!(after("Fri, 21 Oct 2115 07:28:00 GMT"), Some(RETRY_AFTER_MAX));
        assert_eq!(after("soon"), None);
        assert_eq!(retry_after(&HeaderMap::new(), NOW_MS), None);
    }

    #[test]
    fn reason_is_the_first_error_message_or_the_body_start() {
        assert_eq!(reason(br#"{"error":[{"message":"no licences"},{"message":"x"}]}"#), "no licences");
        assert_eq!(reason(br#"{"error":"plain"}"#), r#"{"error":"plain"}"#);
        assert_eq!(reason(b" <html>\r\n\x1b[31mred "), "<html>[31mred");
        assert_eq!(reason(b" \n"), "no reason given");
        assert_eq!(reason("ä".repeat(1_000).as_bytes()).chars().count(), REASON_CHARS_MAX);
        let forged = br#"{"error":[{"message":"bad\nlevel=ERROR"}]}"#;
        assert_eq!(reason(forged), "badlevel=ERROR");
    }

    #[test]
    fn statuses_map_to_provider_errors() {
        let error = |status, retry_after| Answer { status, retry_after, body: b"why".to_vec() }.error();
        let wait = Some(Duration::from_secs(3));
        let message = |status| format!("status {status}: why");
        assert_eq!(error(401, None), ProviderError::Unauthorized { message: message(401) });
        assert_eq!(error(403, None), ProviderError::Forbidden { message: message(403) });
        for (status, retry_after) in [(429, None), (429, wait), (503, wait)] {
            assert_eq!(
                error(status, retry_after),
                ProviderError::Throttled { retry_after, message: message(status) }
            );
        }
        for (status, retry_after) in [(500, None), (500, wait), (503, None), (599, None)] {
            assert_eq!(error(status, retry_after), ProviderError::Failed { message: message(status) });
        }
        for status in [400, 404, 409, 422] {
            assert_eq!(error(status, None), ProviderError::Refused { message: message(status) });
        }
        for status in [202, 302] {
            assert!(matches!(error(status, None), ProviderError::Malformed { .. }), "{status}");
        }
    }

    #[test]
    fn path_segments_are_encoded_and_never_empty() {
        let base = parse_base("https://csp.example/v2/").unwrap();
        let url = under(&base, &["sandbox", "accounts", "a/b?c%2f#d"]).unwrap();
        assert_eq!(url.as_str(), "https://csp.example/v2/sandbox/accounts/a%2Fb%3Fc%252f%23d");
        for bad in ["", ".", ".."] {
            assert!(under(&base, &["sandbox", "accounts", bad]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn base_url_allows_no_credentials_or_query() {
        assert!(parse_base("http://127.0.0.1:8090/v2").is_ok());
        for bad in
            ["", "csp.example", "ftp://csp.example", "https://u@csp.example", "https://csp.example?x=1"]
        {
            assert!(parse_base(bad).is_err(), "{bad:?}");
        }
    }
}
