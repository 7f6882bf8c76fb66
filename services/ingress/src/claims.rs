//! The native routes of holders: claim, list, show, extend and release, and what a container does.

use axum::Extension;
use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use contract::claims::{ClaimView, ClaimsReply, ClaimsRequest, RuntimeRequest};
use contract::{
    Action, AllocateRequest, ExtendRequest, Fault, Outcome, ReleaseRequest, SandboxRequest, Verb,
};
use domain::RuntimeAction;
use futures_util::StreamExt as _;
use ports::bus::{EventsWanted, Reply};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;
use utoipa::ToSchema;

use crate::error::{Failure, pass_on};
use crate::events::EventService;
use crate::openapi::faults::{OfClaim, OfExtend, OfOwnList, OfRelease, OfRuntime, OwnReadFaults};
use crate::query::{Asked, NoQuery, Paged, json_object};
use crate::relay::Relay;
use crate::request_id::Facts;
use crate::sandboxes::{
    LEASE_EPOCH_HEADER, bounded, lease_epoch, owner, sandbox_in_path, token_pool, whose_token,
};

/// Where the time of an answer went (W3C Server Timing).
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
/// Time that a claim waits by default, in seconds.
const WAIT_SECONDS_DEFAULT: u64 = 30;
/// Longest time that a claim waits, in seconds.
const WAIT_SECONDS_MAX: u64 = 60;
/// Time after which a claim that waits is looked at without an event, in case that was lost.
const LOOK_PERIOD: Duration = Duration::from_secs(2);
/// Longest time of a change of a container; a main command may take some seconds to end.
const RUNTIME_PATIENCE: Duration = Duration::from_secs(25);

/// A claim.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClaimSettings {
    /// What makes a repeat the same claim; the owner without it.
    key: Option<String>,
    /// The pool; the default one without it.
    pool: Option<String>,
    /// The template; it stands for the only pool that names it.
    template: Option<String>,
    /// The lab.
    lab: Option<String>,
    /// Length of the lease in minutes; that of the pool without it.
    lease_minutes: Option<u32>,
    /// In a pool of containers: `prefer` a free one (the default), `require` one, or `never` take one, so that one is created.
    warm: Option<String>,
    /// In a pool of containers: variables of every command, beside those of the template. They are no secrets.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// The holder's own notes, shown with the claim.
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// A claim of a sandbox that is made as another one.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReplicaSettings {
    /// What makes a repeat the same claim. It is another one than that of the sandbox.
    key: String,
    /// Length of the lease in minutes; that of the pool without it.
    lease_minutes: Option<u32>,
    /// Variables beside those of the other claim; the same names replace them.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// Labels beside those of the other claim; the same names replace them.
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// What a claim can wait for, in the description.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "it only describes a parameter")]
enum WaitFor {
    Ready,
}

/// What a claim waits for.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wait {
    wait: Option<String>,
    wait_seconds: Option<u64>,
}

/// A longer lease.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Longer {
    lease_minutes: u32,
}

type PathId = Result<Path<String>, PathRejection>;

/// Claims a sandbox of any kind, or returns the claim that this owner and key have already.
#[utoipa::path(
    post, path = "/v1/claims", tag = "claims", extensions(("x-action" = json!(Action::Ask(Verb::Claim).as_str()))),
    params(
        ("X-Instruqt-Sandbox-ID" = String, Header, description = "the owner; older scripts send `X-Track-ID`"),
        ("wait" = inline(Option<WaitFor>), Query, description = "`ready`: answer when the sandbox can be used or cannot be created, or when the time is over"),
        ("wait_seconds" = Option<u64>, Query, description = "longest time to wait, 1 to 60; 30 without it", minimum = 1, maximum = 60)
    ),
    request_body(content = ClaimSettings, example = json!({"pool": "shell", "key": "demo", "env": {"LANG": "C"}})),
    responses(
        (status = 201, description = "a new claim; `status` says whether it can be used", body = ClaimView),
        (status = 200, description = "the claim that this owner and key have already", body = ClaimView), OfClaim)
)]
pub(crate) async fn claim(
    State(relay): State<Relay>,
    State(events): State<EventService>,
    Extension(facts): Extension<Facts>,
    Asked(wait): Asked<Wait>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Failure> {
    let owner = owner(&headers, &facts)?.to_string();
    let patience = wait.patience()?;
    let ClaimSettings { key, pool, template, lab, lease_minutes, warm, env, labels } = json_object(&body)?;
    let pool = match (&template, pool) {
        // A worker finds the pool of a template, and checks the token for it.
        (Some(_), None) => None,
        (_, pool) => token_pool(pool, &facts)?,
    };
    let request = AllocateRequest {
        owner,
        lab,
        idempotency_key: key,
        pool,
        template,
        lab_duration_minutes: lease_minutes,
        warm,
        env,
        labels,
        by: whose_token(&facts),
        ..AllocateRequest::default()
    };
    send_claim(&relay, &events, &facts, request, patience).await
}

/// Claims a sandbox that is made as one of the caller's own: of the same pool and version of the template, with the same
/// environment and labels. Files are not copied.
#[utoipa::path(
    post, path = "/v1/sandboxes/{id}/replicate", tag = "claims", extensions(("x-action" = json!(Action::Ask(Verb::Claim).as_str()))),
    params(
        ("id" = String, Path, description = "the sandbox"),
        ("X-Instruqt-Sandbox-ID" = String, Header, description = "the owner; older scripts send `X-Track-ID`"),
        ("wait" = inline(Option<WaitFor>), Query, description = "`ready`: answer when the new sandbox can be used or cannot be created, or when the time is over"),
        ("wait_seconds" = Option<u64>, Query, description = "longest time to wait, 1 to 60; 30 without it", minimum = 1, maximum = 60)
    ),
    request_body(content = ReplicaSettings, example = json!({"key": "demo-2"})),
    responses(
        (status = 201, description = "a new claim; `status` says whether it can be used", body = ClaimView),
        (status = 200, description = "the claim that this owner and key have already", body = ClaimView), OfClaim)
)]
pub(crate) async fn replicate(
    State(relay): State<Relay>,
    State(events): State<EventService>,
    Extension(facts): Extension<Facts>,
    path: PathId,
    Asked(wait): Asked<Wait>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Failure> {
    let owner = owner(&headers, &facts)?.to_string();
    let patience = wait.patience()?;
    let other = sandbox_in_path(path)?.to_string();
    let ReplicaSettings { key, lease_minutes, env, labels } = json_object(&body)?;
    let request = AllocateRequest {
        owner,
        idempotency_key: Some(key),
        replica_of: Some(other),
        lab_duration_minutes: lease_minutes,
        env,
        labels,
        by: whose_token(&facts),
        ..AllocateRequest::default()
    };
    send_claim(&relay, &events, &facts, request, patience).await
}

/// Lists the caller's claims, page by page.
#[utoipa::path(
    get, path = "/v1/claims", tag = "claims", extensions(("x-action" = json!(Action::Ask(Verb::Claims).as_str()))),
    params(
        ("X-Instruqt-Sandbox-ID" = String, Header, description = "the owner; older scripts send `X-Track-ID`"),
        ("limit" = Option<u32>, Query, description = "claims of a page, 1 to 100; 50 without it"),
        ("cursor" = Option<String>, Query, description = "the cursor of the last page")
    ),
    responses(
        (status = 200, description = "a page, by key; it may have fewer than its limit and still be followed by another one", body = ClaimsReply), OfOwnList)
)]
pub(crate) async fn list_claims(
    State(relay): State<Relay>,
    Extension(facts): Extension<Facts>,
    Asked(Paged { cursor, limit }): Asked<Paged>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let owner = owner(&headers, &facts)?.to_string();
    let reply = relay.send(Verb::Claims, &facts, None, &ClaimsRequest { owner, cursor, limit }).await?;
    Ok(pass_on(reply, StatusCode::OK))
}

/// Shows one of the caller's claims.
#[utoipa::path(
    get, path = "/v1/claims/{id}", tag = "claims", extensions(("x-action" = json!(Action::Ask(Verb::ShowClaim).as_str()))),
    params(
        ("id" = String, Path, description = "the sandbox"),
        ("X-Instruqt-Sandbox-ID" = String, Header, description = "the owner; older scripts send `X-Track-ID`")
    ),
    responses((status = 200, description = "the claim, also for a while after its end", body = ClaimView), OwnReadFaults)
)]
pub(crate) async fn show_claim(
    State(relay): State<Relay>,
    Extension(facts): Extension<Facts>,
    path: PathId,
    _: NoQuery,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let owner = owner(&headers, &facts)?.to_string();
    let sandbox = sandbox_in_path(path)?;
    facts.note_sandbox(&sandbox);
    let request = SandboxRequest { sandbox_id: sandbox.to_string(), owner, by: whose_token(&facts) };
    let reply = relay.send(Verb::ShowClaim, &facts, None, &bounded(request, &facts)).await?;
    Ok(pass_on(reply, StatusCode::OK))
}

/// Gives the lease of a claim more time.
#[utoipa::path(
    post, path = "/v1/claims/{id}/extend", tag = "claims", extensions(("x-action" = json!(Action::Ask(Verb::Extend).as_str()))),
    params(
        ("id" = String, Path, description = "the sandbox"),
        ("X-Instruqt-Sandbox-ID" = String, Header, description = "the owner; older scripts send `X-Track-ID`"),
        ("X-Lease-Epoch" = u64, Header, description = "the epoch of the lease"),
        ("lease_minutes" = u32, Query, description = "total length of the lease, in minutes", minimum = 1)
    ),
    responses((status = 200, description = "the lease with its new end", body = contract::Allocation), OfExtend)
)]
pub(crate) async fn extend_claim(
    State(relay): State<Relay>,
    Extension(facts): Extension<Facts>,
    path: PathId,
    Asked(Longer { lease_minutes }): Asked<Longer>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let owner = owner(&headers, &facts)?.to_string();
    let sandbox = sandbox_in_path(path)?;
    facts.note_sandbox(&sandbox);
    let request = ExtendRequest {
        sandbox_id: sandbox.to_string(),
        owner,
        lab_duration_hours: None,
        lab_duration_minutes: Some(lease_minutes),
        lease_epoch: Some(named_epoch(&headers)?),
        by: whose_token(&facts),
    };
    let reply = relay.send(Verb::Extend, &facts, None, &bounded(request, &facts)).await?;
    Ok(pass_on(reply, StatusCode::OK))
}

/// Gives a sandbox back: its lease ends, and it is deleted.
#[utoipa::path(
    delete, path = "/v1/claims/{id}", tag = "claims", extensions(("x-action" = json!(Action::Ask(Verb::Release).as_str()))),
    params(
        ("id" = String, Path, description = "the sandbox"),
        ("X-Instruqt-Sandbox-ID" = String, Header, description = "the owner; older scripts send `X-Track-ID`"),
        ("X-Lease-Epoch" = u64, Header, description = "the epoch of the lease")
    ),
    responses((status = 200, description = "its deletion is wanted; a repeat has the same answer", body = contract::ReleaseReply), OfRelease)
)]
pub(crate) async fn release_claim(
    State(relay): State<Relay>,
    Extension(facts): Extension<Facts>,
    path: PathId,
    _: NoQuery,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let owner = owner(&headers, &facts)?.to_string();
    let sandbox = sandbox_in_path(path)?;
    facts.note_sandbox(&sandbox);
    let request = ReleaseRequest {
        sandbox_id: sandbox.to_string(),
        owner,
        lease_epoch: Some(named_epoch(&headers)?),
        by: whose_token(&facts),
    };
    let reply = relay.send(Verb::Release, &facts, None, &bounded(request, &facts)).await?;
    Ok(pass_on(reply, StatusCode::OK))
}

/// A route that changes what a container does.
macro_rules! runtime_route {
    ($name:ident, $action:expr, $path:literal, $summary:literal) => {
        #[doc = $summary]
        #[utoipa::path(
            post, path = $path, tag = "claims", extensions(("x-action" = json!(Action::Ask(Verb::Runtime).as_str()))),
            params(
                ("id" = String, Path, description = "the sandbox"),
                ("X-Instruqt-Sandbox-ID" = String, Header, description = "the owner; older scripts send `X-Track-ID`"),
                ("X-Lease-Epoch" = Option<u64>, Header, description = "the epoch of the lease")
            ),
            responses((status = 200, description = "the claim, with what its container does now", body = ClaimView), OfRuntime)
        )]
        pub(crate) async fn $name(
            State(relay): State<Relay>,
            Extension(facts): Extension<Facts>,
            path: PathId,
            _: NoQuery,
            headers: HeaderMap,
        ) -> Result<Response, Failure> {
            change_runtime($action, relay, &facts, path, &headers).await
        }
    };
}

runtime_route!(
    start_container,
    RuntimeAction::Start,
    "/v1/sandboxes/{id}/start",
    "Starts one's own container, which was stopped or has ended. One that runs stays as it is."
);
runtime_route!(
    stop_container,
    RuntimeAction::Stop,
    "/v1/sandboxes/{id}/stop",
    "Stops one's own container. Its workspace and its lease stay."
);
runtime_route!(
    restart_container,
    RuntimeAction::Restart,
    "/v1/sandboxes/{id}/restart",
    "Stops one's own container and starts it again; a repeat does so again."
);
runtime_route!(
    pause_container,
    RuntimeAction::Pause,
    "/v1/sandboxes/{id}/pause",
    "Freezes the processes of one's own container."
);
runtime_route!(
    resume_container,
    RuntimeAction::Resume,
    "/v1/sandboxes/{id}/resume",
    "Lets the processes of one's own container continue."
);

async fn change_runtime(
    action: RuntimeAction,
    relay: Relay,
    facts: &Facts,
    path: PathId,
    headers: &HeaderMap,
) -> Result<Response, Failure> {
    let owner = owner(headers, facts)?.to_string();
    let sandbox = sandbox_in_path(path)?;
    facts.note_sandbox(&sandbox);
    let request = RuntimeRequest {
        sandbox_id: sandbox.to_string(),
        owner,
        action: action.as_str().to_owned(),
        lease_epoch: lease_epoch(headers)?,
        by: whose_token(facts),
    };
    let relay = relay.waiting(RUNTIME_PATIENCE);
    let reply = relay.send(Verb::Runtime, facts, None, &bounded(request, facts)).await?;
    Ok(pass_on(reply, StatusCode::OK))
}

async fn send_claim(
    relay: &Relay,
    events: &EventService,
    facts: &Facts,
    request: AllocateRequest,
    patience: Option<Duration>,
) -> Result<Response, Failure> {
    let began = events.clock.monotonic();
    let since_begin = || events.clock.monotonic().saturating_sub(began);
    let deadline_ms = patience.map(|patience| events.clock.now_ms() + crate::relay::millis(patience));
    let (key, owner) = (request.idempotency_key.clone(), request.owner.clone());
    let reply = relay.send(Verb::Claim, facts, key.as_deref(), &bounded(request, facts)).await?;
    let claimed_after = since_begin();
    let success = match reply.outcome {
        Some(Outcome::Created) => StatusCode::CREATED,
        Some(Outcome::Existing) | None => StatusCode::OK,
    };
    let claimed = (!reply.is_fault).then(|| serde_json::from_slice::<ClaimView>(&reply.body).ok()).flatten();
    let Some(claimed) = claimed else { return Ok(pass_on(reply, success)) };
    if let Ok(sandbox) = domain::SandboxId::parse(&claimed.sandbox_id) {
        facts.note_sandbox(&sandbox);
    }
    let reply = match deadline_ms.filter(|_| claimed.is_under_way()) {
        Some(deadline_ms) => {
            until_ready(relay, events, facts, &claimed, owner, deadline_ms).await.unwrap_or(reply)
        }
        None => reply,
    };
    let mut response = pass_on(reply, success);
    response.headers_mut().insert(SERVER_TIMING, timing(claimed_after, since_begin()));
    Ok(response)
}

/// Where the time of a claim went, in milliseconds: `claim` until the lease was there, `ready` from then until the answer.
fn timing(claimed_after: Duration, ready_after: Duration) -> HeaderValue {
    let ms = |span: Duration| span.as_secs_f64() * 1_000.0;
    let waited = ready_after.saturating_sub(claimed_after);
    let text = format!("claim;dur={:.1}, ready;dur={:.1}", ms(claimed_after), ms(waited));
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

/// Waits until a claim can be used or has failed, or until the time is over; then what it is. None if it could not be looked
/// at: the claim itself has succeeded.
async fn until_ready(
    relay: &Relay,
    events: &EventService,
    facts: &Facts,
    claimed: &ClaimView,
    owner: String,
    deadline_ms: u64,
) -> Option<Reply> {
    let sandbox = domain::SandboxId::parse(&claimed.sandbox_id).ok()?;
    let request = SandboxRequest { sandbox_id: claimed.sandbox_id.clone(), owner, by: whose_token(facts) };
    let wanted = EventsWanted { cause: None, sandbox: Some(sandbox) };
    // Before the first look, so that nothing is missed in between. Without it, the looks alone tell.
    let place = events.waits.try_acquire();
    let notifications = match &place {
        Ok(_) => events.feed.event_notifications(&wanted).await.ok(),
        Err(_) => None,
    };
    let mut notifications = notifications.unwrap_or_else(|| futures_util::stream::pending().boxed());
    let mut latest = None;
    loop {
        let looked = relay.send(Verb::ShowClaim, facts, None, &bounded(request.clone(), facts)).await;
        // One that failed is followed by another one: the claim itself has succeeded.
        if let Some(reply) = looked.ok().filter(|reply| !reply.is_fault) {
            let view = serde_json::from_slice::<ClaimView>(&reply.body);
            latest = Some(reply);
            if view.is_ok_and(|view| !view.is_under_way()) {
                return latest;
            }
        }
        let left = Duration::from_millis(deadline_ms.saturating_sub(events.clock.now_ms()));
        if left.is_zero() {
            return latest;
        }
        tokio::select! {
            notified = notifications.next() => if notified.is_none() {
                notifications = futures_util::stream::pending().boxed();
            },
            () = events.clock.sleep(left.min(LOOK_PERIOD)) => {}
        }
    }
}

/// The native routes name the lease that they mean.
fn named_epoch(headers: &HeaderMap) -> Result<u64, Fault> {
    lease_epoch(headers)?
        .ok_or_else(|| Fault::invalid(LEASE_EPOCH_HEADER, "has to be the `lease_epoch` of the claim"))
}

// === impl Wait ===

impl Wait {
    /// How long a claim waits; none if it does not.
    fn patience(&self) -> Result<Option<Duration>, Fault> {
        match (self.wait.as_deref(), self.wait_seconds) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(Fault::invalid("wait_seconds", "needs `wait=ready`")),
            (Some("ready"), seconds) => {
                let seconds = seconds.unwrap_or(WAIT_SECONDS_DEFAULT);
                if (1..=WAIT_SECONDS_MAX).contains(&seconds) {
                    return Ok(Some(Duration::from_secs(seconds)));
                }
                Err(Fault::invalid("wait_seconds", format!("must be from 1 to {WAIT_SECONDS_MAX}")))
            }
            (Some(_), _) => Err(Fault::invalid("wait", "must be ready")),
        }
    }
}
