//! The Infoblox CSP over its HTTP API: lists, pre-cleans and deletes accounts.
//!
//! It makes the calls that the predecessor made in production: `GET current_user/accounts` and `DELETE
//! sandbox/accounts/{uuid}`, with `Authorization: Token …`. In addition, bodies are limited, listings are paged, and
//! every failure states what follows from it ([`ProviderError`]). Nothing here retries: the reaper decides about rate
//! and attempts.

mod exchange;
#[doc(hidden)]
pub mod fuzz_support;
mod listing;
pub mod preclean;

pub use exchange::ClientError;

use crate::exchange::Exchange;
use crate::preclean::{PreCleanConfig, PreCleaner};
use async_trait::async_trait;
use parking_lot::Mutex;
use ports::clock::Clock;
use ports::provider::{Abilities, Deleted, Listing, Prepared, Provider, ProviderError, Target};
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use runtime::settings::{Secret, Settings};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Most bytes of a listing: about 40,000 accounts, for a server that returns all of them at once.
pub const LISTING_BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most bytes of the answer to a deletion, which is normally nearly empty.
pub const DELETION_BODY_BYTES_MAX: usize = 64 * 1024;

/// How to reach the CSP.
#[derive(Clone, Debug)]
pub struct CspConfig {
    /// `CSP_BASE_URL`: address of the API with its version, as `https://host/v2`. Required, because an unset one must
    /// neither call the real CSP nor simulate it.
    pub base_url: String,
    /// `CSP_API_TOKEN`: our token. Required unless there is a file.
    pub api_token: Secret,
    /// `CSP_API_TOKEN_FILE`: a file with the token.
    pub api_token_file: Option<PathBuf>,
    /// `CSP_CONNECT_TIMEOUT_SECONDS`: longest wait for a connection (5 s).
    pub connect_timeout: Duration,
    /// `CSP_READ_TIMEOUT_SECONDS`: time-out of a whole call, a new connection included (15 s; a delete takes 3 to 10).
    pub read_timeout: Duration,
    /// `CSP_PAGE_SIZE`: accounts per page (100).
    pub page_size: usize,
    /// Settings of the pre-clean.
    pub pre_clean: PreCleanConfig,
}

/// The CSP.
#[derive(Debug)]
pub struct CspProvider {
    base_url: Url,
    token: Token,
    read_timeout: Duration,
    page_size: usize,
    exchange: Exchange,
    pre_cleaner: Option<PreCleaner>,
    last_page: Mutex<Option<PageMark>>,
}

/// Our token.
#[derive(Debug)]
enum Token {
    /// Fixed for the life of the process.
    Fixed(HeaderValue),
    /// Read from the file at each call, so that a renewed token needs no restart.
    File(PathBuf),
}

/// The start of the last full page, to detect a server that ignores paging.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PageMark {
    next: u64,
    first_id: String,
}

/// For the fuzz targets: parses one page.
pub(crate) fn listing_of(body: &[u8], offset: u64, page_size: usize) -> Result<Listing, ProviderError> {
    let body = serde_json::from_slice(body)
        .map_err(|error| ProviderError::Malformed { message: format!("no readable JSON: {error}") })?;
    Ok(listing::read(&body, offset, page_size)?.listing)
}

// === impl CspConfig ===

impl CspConfig {
    /// Reads the `CSP_…` and `NIOSXAAS_…` variables.
    pub fn read(settings: &mut Settings<'_>) -> Self {
        let base_url = settings
            .parsed(
                "CSP_BASE_URL",
                "",
                "address of the CSP's API with its version (`https://host/v2`); required",
                parse_csp_base,
            )
            .unwrap_or_default();
        let api_token_file = settings
            .optional(
                "CSP_API_TOKEN_FILE",
                "file with the token, instead of `CSP_API_TOKEN`; read at every call, so that a renewed token needs no restart",
            )
            .map(PathBuf::from);
        let api_token = settings.secret_unless(
            api_token_file.is_some(),
            "CSP_API_TOKEN",
            "the broker's token for the CSP",
        );
        if api_token_file.is_some() && !api_token.expose().is_empty() {
            settings
                .mistake("CSP_API_TOKEN_FILE", "and CSP_API_TOKEN exclude each other; leave one of them out");
        }
        let connect_timeout = settings.seconds(
            "CSP_CONNECT_TIMEOUT_SECONDS",
            5,
            1..=60,
            "time-out of connecting to the CSP, in seconds",
        );
        let read_timeout = settings.seconds(
            "CSP_READ_TIMEOUT_SECONDS",
            15,
            1..=300,
            "time-out of a whole call of the CSP, in seconds; a delete takes 3 to 10",
        );
        let page_size = settings.size("CSP_PAGE_SIZE", 100, 1..=1_000, "accounts per page of a CSP listing");
        let pre_clean = PreCleanConfig::read(settings, &base_url);
        Self { base_url, api_token, api_token_file, connect_timeout, read_timeout, page_size, pre_clean }
    }
}

fn parse_csp_base(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("is required and not set".to_owned());
    }
    // Without the version every call is a 404, and a 404 on a deletion means that the account is gone.
    if exchange::parse_base(text)?.path() == "/" {
        return Err("must end in the API's version, as in https://host/v2".to_owned());
    }
    Ok(text.to_owned())
}

// === impl Token ===

impl Token {
    /// Fails if the file cannot be used now.
    fn of_file(file: PathBuf) -> Result<Self, ClientError> {
        let text = std::fs::read_to_string(&file).map_err(ClientError::TokenFile)?;
        header_of(text.trim())?;
        Ok(Self::File(file))
    }

    /// An unusable file is handled like a refused token: no sandbox is at fault.
    async fn header(&self) -> Result<HeaderValue, ProviderError> {
        let refused = |error: &dyn std::fmt::Display| ProviderError::Unauthorized {
            message: format!("CSP_API_TOKEN_FILE cannot be used: {error}"),
        };
        match self {
            Self::Fixed(header) => Ok(header.clone()),
            Self::File(file) => {
                let text = tokio::fs::read_to_string(file).await.map_err(|error| refused(&error))?;
                header_of(text.trim()).map_err(|error| refused(&error))
            }
        }
    }
}

fn header_of(token: &str) -> Result<HeaderValue, ClientError> {
    if token.is_empty() {
        return Err(ClientError::Token);
    }
    let mut header = HeaderValue::from_str(&format!("Token {token}")).map_err(|_| ClientError::Token)?;
    header.set_sensitive(true);
    Ok(header)
}

// === impl CspProvider ===

impl CspProvider {
    /// A client of the CSP with a separate connection pool. `clock` interprets dates in `Retry-After`.
    ///
    /// # Errors
    /// [`ClientError`] when a base URL or the token is invalid, or an `https` URL finds no CA certificates.
    pub fn new(config: CspConfig, clock: Arc<dyn Clock>) -> Result<Self, ClientError> {
        let CspConfig {
            base_url,
            api_token,
            api_token_file,
            connect_timeout,
            read_timeout,
            page_size,
            pre_clean,
        } = config;
        let base_url = exchange::parse_base(&base_url)
            .map_err(|problem| ClientError::BaseUrl { variable: "CSP_BASE_URL", problem })?;
        let token = match api_token_file {
            Some(file) => Token::of_file(file)?,
            None => Token::Fixed(header_of(api_token.expose())?),
        };
        let pre_clean_url = pre_clean.url()?;
        let urls: Vec<&Url> = std::iter::once(&base_url).chain(pre_clean_url.as_ref()).collect();
        let exchange = Exchange::new(&urls, connect_timeout, clock)?;
        let pre_cleaner = pre_clean_url.map(|url| PreCleaner::new(pre_clean, url, exchange.clone()));
        Ok(Self {
            base_url,
            token,
            read_timeout,
            page_size,
            exchange,
            pre_cleaner,
            last_page: Mutex::new(None),
        })
    }

    /// Whether this page, requested at `offset`, repeats the page before it and the server states that this is
    /// everything: the server ignores paging, and its listing has exactly one page. Without that statement, the page
    /// looks like one of a server with overlapping pages; then it is passed on, and the reader of the whole listing
    /// detects the repeated entries.
    fn repeats_last_page(&self, offset: u64, page: &listing::Page) -> bool {
        let (first_id, next) = (page.first_id.as_deref(), page.listing.next);
        let is_everything = page.total.is_some_and(|total| total <= offset);
        let mut last_page = self.last_page.lock();
        let repeats = offset > 0
            && is_everything
            && last_page
                .as_ref()
                .is_some_and(|mark| mark.next == offset && Some(mark.first_id.as_str()) == first_id);
        *last_page = match (next, first_id) {
            (Some(next), Some(first_id)) if !repeats => {
                Some(PageMark { next, first_id: first_id.to_owned() })
            }
            _ => None,
        };
        repeats
    }
}

#[async_trait]
impl Provider for CspProvider {
    fn abilities(&self) -> Abilities {
        // The CSP has no call for a single account.
        Abilities { list: true, delete: true, prepare_delete: self.pre_cleaner.is_some(), check: false }
    }

    async fn list(&self, offset: u64) -> Result<Listing, ProviderError> {
        let url = exchange::under(&self.base_url, &["current_user", "accounts"])?;
        let request = self
            .exchange
            .client()
            .get(url)
            .query(&[("_limit", self.page_size as u64), ("_offset", offset)])
            .header(AUTHORIZATION, self.token.header().await?);
        let answer = self.exchange.send(request, self.read_timeout, LISTING_BODY_BYTES_MAX).await?;
        if answer.status != 200 {
            return Err(answer.error());
        }
        let page = listing::read(&answer.json()?, offset, self.page_size)?;
        if self.repeats_last_page(offset, &page) {
            tracing::warn!(csp.offset = offset, "the CSP ignores paging, so this page is the whole listing");
            return Ok(Listing::default());
        }
        Ok(page.listing)
    }

    async fn prepare_delete(&self, target: &Target) -> Result<Prepared, ProviderError> {
        match &self.pre_cleaner {
            Some(pre_cleaner) => pre_cleaner.pre_clean(target).await,
            None => Ok(Prepared::Skipped),
        }
    }

    async fn delete(&self, target: &Target) -> Result<Deleted, ProviderError> {
        let url = exchange::under(&self.base_url, &["sandbox", "accounts", target.external_id.bare()])?;
        let authorization = self.token.header().await?;
        let request = self.exchange.client().delete(url).header(AUTHORIZATION, authorization);
        let answer = self.exchange.send(request, self.read_timeout, DELETION_BODY_BYTES_MAX).await?;
        match answer.status {
            // A web page comes from a gateway in front of the API and proves nothing about the account.
            200 | 202 | 404 if answer.is_html() => Err(ProviderError::Malformed {
                message: format!("status {} with a web page: {}", answer.status, answer.reason()),
            }),
            // Accepted counts as deleted: later listings check that the account disappears.
            200 | 202 | 204 => Ok(Deleted::Now),
            404 => Ok(Deleted::AlreadyGone),
            _ => Err(answer.error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn base_url_and_token_are_required() {
        let env = env(&[]);
        let mut settings = Settings::new(&env);
        let config = CspConfig::read(&mut settings);
        let mistakes = settings.finish(config).unwrap_err().to_string();
        assert!(mistakes.contains("CSP_BASE_URL is required"), "{mistakes}");
        assert!(mistakes.contains("CSP_API_TOKEN is required"), "{mistakes}");
    }

    #[test]
    fn default_timeouts_and_page_size_are_stable() {
        let env = env(&[("CSP_BASE_URL", "https://csp.example/v2/"), ("CSP_API_TOKEN", "t")]);
        let mut settings = Settings::new(&env);
        let config = CspConfig::read(&mut settings);
        let config = settings.finish(config).unwrap();
        assert_eq!(config.connect_timeout, Duration::from_secs(5));
        assert_eq!(config.read_timeout, Duration::from_secs(15));
        assert_eq!(config.page_size, 100);
        assert!(!config.pre_clean.enabled);
    }

    #[test]
    fn base_url_without_a_version_is_rejected() {
        for bad in ["https://csp.example", "https://csp.example/", "csp.example/v2", "file:///v2"] {
            let env = env(&[("CSP_BASE_URL", bad), ("CSP_API_TOKEN", "t")]);
            let mut settings = Settings::new(&env);
            let config = CspConfig::read(&mut settings);
            assert_eq!(settings.finish(config).unwrap_err().0.len(), 1, "{bad}");
        }
    }

    #[test]
    fn token_is_redacted_in_debug_output() {
        let env = env(&[("CSP_BASE_URL", "http://127.0.0.1:1/v2"), ("CSP_API_TOKEN", "s3cr3t")]);
        let mut settings = Settings::new(&env);
        let config = CspConfig::read(&mut settings);
        assert!(!format!("{config:?}").contains("s3cr3t"));
        let provider = CspProvider::new(config, Arc::new(ports::clock::SystemClock)).unwrap();
        assert!(!format!("{provider:?}").contains("s3cr3t"));
        assert!(!provider.abilities().prepare_delete);
    }
}
