//! The pre-clean: deletes "universal services" (`NIOSXaaS`) that a student left inside a sandbox. Deleting the account
//! alone would orphan them.
//!
//! The calls: sign in, switch to the sandbox's account, list its services, delete those that match. One sign-in serves
//! many sandboxes until the CSP rejects it as expired. A sandbox counts as cleaned only when every service is gone;
//! anything less is an error, because the account is deleted next.

use super::exchange::{self, Answer, ClientError, Exchange};
use ports::provider::{Prepared, ProviderError, Target};
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{RequestBuilder, Url};
use runtime::settings::{Secret, Settings};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::Mutex;

/// The name of services that labs create, with their spelling.
pub const DEFAULT_SERVICE_NAME: &str = "Instrqt-SaaS";
/// The value of `NIOSXAAS_SERVICE_NAME` for every service; an empty variable counts as unset.
pub const EVERY_SERVICE: &str = "*";
/// Services per page.
const SERVICES_PAGE_SIZE: usize = 100;
/// Most pages of services; a student creates one or two services.
const SERVICE_PAGES_MAX: usize = 100;
/// Most bytes of an answer.
const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What to clean, and how to sign in.
#[derive(Clone, Debug)]
pub struct PreCleanConfig {
    /// `NIOSXAAS_ENABLED`: whether the pre-clean is on (no).
    pub enabled: bool,
    /// `NIOSXAAS_SHADOW_MODE`: count services without deleting them (yes).
    pub shadow: bool,
    /// `NIOSXAAS_BASE_URL`: address of the API; the origin of `CSP_BASE_URL` unless set.
    pub base_url: String,
    /// `NIOSXAAS_EMAIL`: the user who signs in.
    pub email: String,
    /// `NIOSXAAS_PASSWORD`: that user's password.
    pub password: Secret,
    /// `NIOSXAAS_SERVICE_NAME`: services of exactly this name are deleted; empty means every one.
    pub service_name: String,
    /// `NIOSXAAS_TIMEOUT_SECONDS`: time-out of one call (30 s).
    pub timeout: Duration,
}

/// Runs the pre-clean.
#[derive(Debug)]
pub(super) struct PreCleaner {
    config: PreCleanConfig,
    base_url: Url,
    exchange: Exchange,
    /// The current session. The lock is held while signing in, so that concurrent tasks sign in once.
    session: Mutex<Option<Session>>,
}

/// `Bearer …`. Comparing sessions shows whether another task has renewed an expired one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Session(HeaderValue);

/// A service inside a sandbox.
struct Service {
    id: String,
}

// === impl PreCleanConfig ===

impl PreCleanConfig {
    /// A configuration that cleans nothing.
    #[must_use]
    pub fn off() -> Self {
        Self {
            enabled: false,
            shadow: true,
            base_url: String::new(),
            email: String::new(),
            password: Secret::new(""),
            service_name: DEFAULT_SERVICE_NAME.to_owned(),
            timeout: Duration::from_secs(30),
        }
    }

    /// Reads the `NIOSXAAS_…` variables. Credentials are required only if the pre-clean is on.
    pub(super) fn read(settings: &mut Settings<'_>, csp_base_url: &str) -> Self {
        let enabled = settings.switch(
            "NIOSXAAS_ENABLED",
            false,
            "whether the pre-clean deletes services that a student left inside a sandbox before the sandbox is deleted",
        );
        let shadow = settings.switch(
            "NIOSXAAS_SHADOW_MODE",
            true,
            "whether the pre-clean only counts the services that it would delete",
        );
        let base_url = settings
            .optional(
                "NIOSXAAS_BASE_URL",
                "address of the API for the pre-clean; none means the host of `CSP_BASE_URL`",
            )
            .unwrap_or_else(|| origin(csp_base_url));
        let email = settings.optional("NIOSXAAS_EMAIL", "user who signs in for the pre-clean");
        let password = settings.optional("NIOSXAAS_PASSWORD", "password of that user").map(Secret::new);
        let service_name = settings.text(
            "NIOSXAAS_SERVICE_NAME",
            DEFAULT_SERVICE_NAME,
            "name of the services that the pre-clean deletes; `*` means all",
        );
        let timeout = settings.seconds(
            "NIOSXAAS_TIMEOUT_SECONDS",
            30,
            1..=300,
            "time-out of one call of the pre-clean, in seconds",
        );
        if enabled {
            for (name, missing) in
                [("NIOSXAAS_EMAIL", email.is_none()), ("NIOSXAAS_PASSWORD", password.is_none())]
            {
                if missing {
                    settings.mistake(name, "is required when NIOSXAAS_ENABLED is true");
                }
            }
            // If the base URL is missing, only `CSP_BASE_URL` is reported.
            if let (false, Err(problem)) = (base_url.is_empty(), exchange::parse_base(&base_url)) {
                settings.mistake("NIOSXAAS_BASE_URL", &problem);
            }
        }
        let service_name = if service_name == EVERY_SERVICE { String::new() } else { service_name };
        let email = email.unwrap_or_default();
        let password = password.unwrap_or_else(|| Secret::new(""));
        Self { enabled, shadow, base_url, email, password, service_name, timeout }
    }

    /// The address of the API; none if the pre-clean is off.
    pub(super) fn url(&self) -> Result<Option<Url>, ClientError> {
        if !self.enabled {
            return Ok(None);
        }
        exchange::parse_base(&self.base_url)
            .map(Some)
            .map_err(|problem| ClientError::BaseUrl { variable: "NIOSXAAS_BASE_URL", problem })
    }
}

fn origin(csp_base_url: &str) -> String {
    Url::parse(csp_base_url).map(|url| url.origin().ascii_serialization()).unwrap_or_default()
}

// === impl PreCleaner ===

impl PreCleaner {
    pub(super) fn new(config: PreCleanConfig, base_url: Url, exchange: Exchange) -> Self {
        Self { config, base_url, exchange, session: Mutex::new(None) }
    }

    /// Cleans one sandbox. Safe to repeat.
    pub(super) async fn pre_clean(&self, target: &Target) -> Result<Prepared, ProviderError> {
        let mut deleted = 0;
        let session = self.session(None).await?;
        match self.clean_as(&session, target, &mut deleted).await {
            Err(ProviderError::Unauthorized { .. }) => {
                tracing::debug!("the session of the pre-clean has expired; signing in again");
                let session = self.session(Some(&session)).await?;
                self.clean_as(&session, target, &mut deleted).await
            }
            result => result,
        }
    }

    /// The current session; a new one if there is none, or only the `expired` one.
    async fn session(&self, expired: Option<&Session>) -> Result<Session, ProviderError> {
        let mut current = self.session.lock().await;
        match &*current {
            Some(session) if Some(session) != expired => Ok(session.clone()),
            _ => {
                *current = None;
                let session = self.sign_in().await?;
                *current = Some(session.clone());
                Ok(session)
            }
        }
    }

    async fn sign_in(&self) -> Result<Session, ProviderError> {
        let body = json!({"email": self.config.email, "password": self.config.password.expose()});
        let request = self.exchange.client().post(self.url(&SIGN_IN)?).json(&body);
        let answer = self.call(request).await?;
        match answer.status {
            200 | 201 => read_session(&answer),
            // A failed sign-in is always the fault of our credentials and not of the sandbox.
            _ => Err(match answer.error() {
                ProviderError::Refused { message } | ProviderError::Forbidden { message } => {
                    ProviderError::Unauthorized { message }
                }
                error => error,
            }),
        }
    }

    async fn clean_as(
        &self,
        session: &Session,
        target: &Target,
        deleted: &mut usize,
    ) -> Result<Prepared, ProviderError> {
        let Some(inside) = self.switch_account(session, target).await? else {
            return Ok(Prepared::AlreadyGone);
        };
        let services = self.services(&inside).await?;
        if self.config.shadow {
            return Ok(match services.len() {
                0 => Prepared::Skipped,
                count => Prepared::Shadowed { count },
            });
        }
        self.delete_all(&inside, &services, deleted).await?;
        Ok(match *deleted {
            0 => Prepared::Skipped,
            count => Prepared::Done { count },
        })
    }

    /// A session inside the sandbox's account; none if the account no longer exists, because an earlier attempt deleted
    /// it and its answer was lost.
    async fn switch_account(
        &self,
        session: &Session,
        target: &Target,
    ) -> Result<Option<Session>, ProviderError> {
        let body = json!({"id": target.external_id.as_str()});
        let request = self.exchange.client().post(self.url(&SWITCH)?).json(&body);
        let answer = self.call(request.header(AUTHORIZATION, &session.0)).await?;
        match answer.status {
            200 | 201 => read_session(&answer).map(Some),
            404 if !answer.is_html() => Ok(None),
            _ => Err(inside_error(&answer)),
        }
    }

    /// Every matching service inside the account, all pages.
    async fn services(&self, inside: &Session) -> Result<Vec<Service>, ProviderError> {
        let mut services = Vec::new();
        let mut offset = 0;
        for _ in 0..SERVICE_PAGES_MAX {
            let request = self
                .exchange
                .client()
                .get(self.url(&SERVICES)?)
                .query(&[("_limit", SERVICES_PAGE_SIZE), ("_offset", offset)]);
            let answer = self.call(request.header(AUTHORIZATION, &inside.0)).await?;
            if answer.status != 200 {
                return Err(inside_error(&answer));
            }
            let body = answer.json()?;
            let page = results(&body)?;
            for service in page {
                services.extend(self.ours(service)?);
            }
            // More than requested: the server ignores paging and returned everything.
            if page.len() != SERVICES_PAGE_SIZE {
                return Ok(services);
            }
            offset += page.len();
        }
        Err(ProviderError::Malformed { message: format!("more than {SERVICE_PAGES_MAX} pages of services") })
    }

    /// The service, if it has to be deleted. A matching one without an id cannot be deleted, which is an error.
    fn ours(&self, service: &Value) -> Result<Option<Service>, ProviderError> {
        let name = service.get("name").and_then(Value::as_str).unwrap_or_default();
        if !self.config.service_name.is_empty() && name != self.config.service_name {
            return Ok(None);
        }
        match service.get("id").and_then(Value::as_str).and_then(|id| id.rsplit('/').next()) {
            Some(id) if !id.is_empty() => Ok(Some(Service { id: id.to_owned() })),
            _ => Err(ProviderError::Malformed { message: "a service without an id".to_owned() }),
        }
    }

    /// Deletes each service and continues after a failure, so that a repeat has less to do; returns the first failure.
    /// A failure that would affect every other call ends the loop at once.
    async fn delete_all(
        &self,
        inside: &Session,
        services: &[Service],
        deleted: &mut usize,
    ) -> Result<(), ProviderError> {
        let mut first_error = None;
        for service in services {
            match self.delete_one(inside, service).await {
                Ok(()) => *deleted += 1,
                Err(
                    error @ (ProviderError::Failed { .. }
                    | ProviderError::Refused { .. }
                    | ProviderError::Malformed { .. }),
                ) => {
                    first_error.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    async fn delete_one(&self, inside: &Session, service: &Service) -> Result<(), ProviderError> {
        let url = exchange::under(&self.url(&SERVICES)?, &[&service.id])?;
        let request = self.exchange.client().delete(url).header(AUTHORIZATION, &inside.0);
        let answer = self.call(request).await?;
        match answer.status {
            200 | 204 | 404 if !answer.is_html() => Ok(()),
            _ => Err(inside_error(&answer)),
        }
    }

    async fn call(&self, request: RequestBuilder) -> Result<Answer, ProviderError> {
        self.exchange.send(request, self.config.timeout, BODY_BYTES_MAX).await
    }

    fn url(&self, path: &[&str]) -> Result<Url, ProviderError> {
        exchange::under(&self.base_url, path)
    }
}

const SIGN_IN: [&str; 4] = ["v2", "session", "users", "sign_in"];
const SWITCH: [&str; 3] = ["v2", "session", "account_switch"];
const SERVICES: [&str; 4] = ["api", "universalinfra", "v1", "universalservices"];

fn read_session(answer: &Answer) -> Result<Session, ProviderError> {
    let body = answer.json()?;
    let jwt = body.get("jwt").and_then(Value::as_str).unwrap_or_default();
    match HeaderValue::from_str(&format!("Bearer {jwt}")) {
        Ok(mut value) if !jwt.is_empty() => {
            value.set_sensitive(true);
            Ok(Session(value))
        }
        // The answer may contain a token, so it is not repeated.
        _ => Err(ProviderError::Malformed { message: "a sign-in or switch without a jwt".to_owned() }),
    }
}

/// The services of a page. A gateway may leave an empty list out, so an empty object counts as an empty list. Any other
/// answer without a list is an error, because the deletion of the account would orphan hidden services.
fn results(body: &Value) -> Result<&[Value], ProviderError> {
    let says_nothing_else = body.as_object().is_some_and(|body| body.keys().all(|key| key == "page"));
    match body.get("results") {
        Some(Value::Array(results)) => Ok(results),
        None if says_nothing_else => Ok(&[]),
        _ => Err(ProviderError::Malformed { message: "a list of services without results".to_owned() }),
    }
}

/// The error of a call inside one account. A 403 is about that account and not about our credentials: it counts against
/// the sandbox, so that one faulty account is parked and does not stop all deletions.
fn inside_error(answer: &Answer) -> ProviderError {
    match answer.error() {
        ProviderError::Forbidden { message } => ProviderError::Refused { message },
        error => error,
    }
}

#[cfg(test)]
mod tests;
