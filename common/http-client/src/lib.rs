//! The caller's side of requests over the broker's HTTP API, behind the same port as over NATS. `bench` measures both
//! transports with it.

use async_trait::async_trait;
use bytes::Bytes;
use contract::claims::{ClaimsRequest, RuntimeRequest};
use contract::nodes::ExecutionRequest;
use contract::templates::{
    PutTemplateRequest, RemoveTemplateRequest, TemplateRequest, TemplateVersionsRequest, TemplatesRequest,
};
use contract::{
    AllocateRequest, ExtendRequest, Fault, FaultCode, HealthReply, LabDuration, Outcome, ReleaseRequest,
    SandboxRequest, Verb, headers,
};
use domain::{SandboxId, TemplateId};
use ports::bus::{BusError, Context, Reply, RequestError, Requests};
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use runtime::requests::{parse_runtime_action, parse_sandbox};
use runtime::settings::Secret;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

/// Time-out of opening a connection; it normally takes milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The owner.
const OWNER_HEADER: &str = "X-Instruqt-Sandbox-ID";
/// The lab.
const LAB_HEADER: &str = "X-Instruqt-Track-ID";
/// The prefix of acceptable sandbox names.
const NAME_PREFIX_HEADER: &str = "X-Sandbox-Name-Prefix";
/// The pool.
const POOL_HEADER: &str = "X-Sandbox-Pool";
/// What it does about free containers.
const WARM_HEADER: &str = "X-Sandbox-Warm";
/// The idempotency key.
const IDEMPOTENCY_KEY_HEADER: &str = "Idempotency-Key";
/// Length of the lease, in whole hours.
const LAB_DURATION_HEADER: &str = "X-Lab-Duration";

/// The epoch of the lease.
const LEASE_EPOCH_HEADER: &str = "X-Lease-Epoch";

/// A caller of the HTTP API, with as many kept-alive connections as it has requests in progress.
#[derive(Clone, Debug)]
pub struct HttpRequests {
    client: Client,
    root: String,
    token: Secret,
    /// Whether native claims wait.
    waits: bool,
}

/// The answer of `/readyz`: the result of each check, `ok` or the problem.
#[derive(Deserialize)]
struct Readiness {
    checks: BTreeMap<String, String>,
}

// === impl HttpRequests ===

impl HttpRequests {
    /// A caller of the API at `root` (`http://host:port`) with `token`. It does not connect yet.
    ///
    /// # Errors
    /// [`BusError`] when no client can be built, for example without CA certificates for an `https` address.
    pub fn new(root: &str, token: Secret) -> Result<Self, BusError> {
        crypto::install_crypto();
        let mut builder = Client::builder()
            .user_agent(concat!("sandbox-broker/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            // The broker ignores the process's proxy variables.
            .no_proxy();
        if root.starts_with("http://") {
            builder = builder.tls_certs_only([]);
        }
        let client = builder
            .build()
            .map_err(|source| BusError { operation: "make an HTTP client", source: Box::new(source) })?;
        Ok(Self { client, root: root.trim_end_matches('/').to_owned(), token, waits: false })
    }

    /// The same caller, whose native claims are answered when the sandbox can be used.
    #[must_use]
    pub fn waiting(self) -> Self {
        Self { waits: true, ..self }
    }

    /// The HTTP request that is equivalent to `body` over NATS.
    fn request_of(&self, verb: Verb, body: &[u8]) -> Result<RequestBuilder, Fault> {
        Ok(match verb {
            Verb::Allocate => self.allocate(&decode(body)?)?,
            Verb::Release => {
                let (id, owner) = target(body)?;
                let path = format!("/v1/sandboxes/{id}/mark-for-deletion");
                let call = self.call(Method::POST, &path).header(OWNER_HEADER, owner);
                let ReleaseRequest { lease_epoch, .. } = decode(body)?;
                with_epoch(call, lease_epoch)
            }
            Verb::Get => {
                let (id, owner) = target(body)?;
                self.call(Method::GET, &format!("/v1/sandboxes/{id}")).header(OWNER_HEADER, owner)
            }
            Verb::Stats => self.call(Method::GET, "/v1/admin/stats"),
            Verb::Health => self.call(Method::GET, "/readyz"),
            Verb::Extend => self.extend(&decode(body)?)?,
            Verb::Execute => self.execute(decode(body)?)?,
            Verb::Claim => self.claim(decode(body)?)?,
            Verb::Claims => {
                let ClaimsRequest { owner, cursor, limit } = decode(body)?;
                self.page("/v1/claims", cursor.as_deref(), limit).header(OWNER_HEADER, owner)
            }
            Verb::ShowClaim => {
                let (id, owner) = target(body)?;
                self.call(Method::GET, &format!("/v1/claims/{id}")).header(OWNER_HEADER, owner)
            }
            Verb::Runtime => {
                let RuntimeRequest { sandbox_id, owner, action, lease_epoch, by: _ } = decode(body)?;
                let (id, action) = (parse_sandbox(&sandbox_id)?, parse_runtime_action(&action)?);
                let path = format!("/v1/sandboxes/{id}/{}", action.as_str());
                with_epoch(self.call(Method::POST, &path).header(OWNER_HEADER, owner), lease_epoch)
            }
            Verb::Templates
            | Verb::Template
            | Verb::PutTemplate
            | Verb::RemoveTemplate
            | Verb::TemplateVersions => self.about_templates(verb, body)?,
            Verb::Deletions
            | Verb::Parked
            | Verb::Deletion
            | Verb::Replay
            | Verb::ReplayAll
            | Verb::ReplayProvision
            | Verb::ReplayProvisions
            | Verb::Remove
            | Verb::Quarantine
            | Verb::Unquarantine
            | Verb::ForceRelease
            | Verb::Sandboxes
            | Verb::Sandbox
            | Verb::BulkDelete
            | Verb::Pools
            | Verb::Pool
            | Verb::PutPool
            | Verb::DrainPool
            | Verb::RemovePool
            | Verb::Nodes
            | Verb::Node
            | Verb::DrainNode
            | Verb::ActivateNode
            | Verb::RegisterNode
            | Verb::NodePools
            | Verb::ProvisionWanted
            | Verb::Provisioned
            | Verb::ProvisionFailed
            | Verb::Held
            | Verb::Pause
            | Verb::Resume => return Err(not_here()),
        })
    }

    fn about_templates(&self, verb: Verb, body: &[u8]) -> Result<RequestBuilder, Fault> {
        Ok(match verb {
            Verb::Templates => {
                let TemplatesRequest { cursor, limit } = decode(body)?;
                self.page("/v1/templates", cursor.as_deref(), limit)
            }
            Verb::Template => {
                let TemplateRequest { template, version } = decode(body)?;
                with_version(self.call(Method::GET, &template_path(&template)?), version)
            }
            Verb::PutTemplate => {
                // Over HTTP the token identifies the actor.
                let PutTemplateRequest { template, settings, version, by: _ } = decode(body)?;
                with_version(self.call(Method::PUT, &template_path(&template)?), version).json(&settings)
            }
            Verb::RemoveTemplate => {
                let RemoveTemplateRequest { template, version, by: _ } = decode(body)?;
                with_version(self.call(Method::DELETE, &template_path(&template)?), version)
            }
            Verb::TemplateVersions => {
                let TemplateVersionsRequest { template, cursor, limit } = decode(body)?;
                let path = format!("{}/versions", template_path(&template)?);
                self.page(&path, cursor.as_deref(), limit)
            }
            _ => return Err(not_here()),
        })
    }

    /// A claim by the native route, which takes all that a claim can say except for a prefix.
    fn claim(&self, request: AllocateRequest) -> Result<RequestBuilder, Fault> {
        let duration = LabDuration::of_fields(request.lab_duration_hours, request.lab_duration_minutes)
            .map(LabDuration::length);
        // Over HTTP the token identifies the actor.
        let AllocateRequest {
            owner,
            lab,
            idempotency_key,
            pool,
            name_prefix,
            lab_duration_hours: _,
            lab_duration_minutes: _,
            warm,
            template,
            replica_of,
            env,
            labels,
            by: _,
        } = request;
        if name_prefix.is_some() {
            return Err(Fault::invalid("name_prefix", "is not available for this request over HTTP"));
        }
        let says_more = pool.is_some() || template.is_some() || lab.is_some() || warm.is_some();
        if replica_of.is_some() && (says_more || idempotency_key.is_none()) {
            let problem = "needs a key over HTTP, and no pool, template, lab or policy beside it";
            return Err(Fault::invalid("replica_of", problem));
        }
        let lease_minutes = duration.map(|length| length.as_secs() / 60);
        let (path, body) = match replica_of {
            Some(original) => {
                let body = json!({
                    "key": idempotency_key, "lease_minutes": lease_minutes, "env": env, "labels": labels,
                });
                (format!("/v1/sandboxes/{}/replicate", parse_sandbox(&original)?), body)
            }
            None => {
                let body = json!({
                    "key": idempotency_key, "pool": pool, "template": template, "lab": lab,
                    "lease_minutes": lease_minutes, "warm": warm, "env": env, "labels": labels,
                });
                ("/v1/claims".to_owned(), body)
            }
        };
        let call = self.call(Method::POST, &path).header(OWNER_HEADER, owner).json(&body);
        Ok(if self.waits { call.query(&[("wait", "ready")]) } else { call })
    }

    fn allocate(&self, request: &AllocateRequest) -> Result<RequestBuilder, Fault> {
        let AllocateRequest {
            owner,
            lab,
            idempotency_key,
            pool,
            name_prefix,
            lab_duration_hours,
            lab_duration_minutes,
            warm,
            template,
            replica_of,
            env,
            labels,
            by: _,
        } = request;
        if template.is_some() || replica_of.is_some() || !env.is_empty() || !labels.is_empty() {
            let problem = "with a template, an original, an environment or labels has to be sent as `claim`";
            return Err(Fault::invalid("a claim", problem));
        }
        let mut call = self.call(Method::POST, "/v1/allocate").header(OWNER_HEADER, owner);
        for (name, value) in [
            (LAB_HEADER, lab),
            (IDEMPOTENCY_KEY_HEADER, idempotency_key),
            (POOL_HEADER, pool),
            (NAME_PREFIX_HEADER, name_prefix),
            (WARM_HEADER, warm),
        ] {
            if let Some(value) = value {
                call = call.header(name, value);
            }
        }
        if let Some(duration) = LabDuration::of_fields(*lab_duration_hours, *lab_duration_minutes) {
            call = call.header(LAB_DURATION_HEADER, duration.to_string());
        }
        Ok(call)
    }

    fn extend(&self, request: &ExtendRequest) -> Result<RequestBuilder, Fault> {
        let ExtendRequest { sandbox_id, owner, lab_duration_hours, lab_duration_minutes, lease_epoch, by: _ } =
            request;
        // It becomes a segment of the path.
        let id = parse_sandbox(sandbox_id)?;
        let path = format!("/v1/sandboxes/{id}/extend");
        let mut call = self.call(Method::POST, &path).header(OWNER_HEADER, owner);
        if let Some(duration) = LabDuration::of_fields(*lab_duration_hours, *lab_duration_minutes) {
            call = call.header(LAB_DURATION_HEADER, duration.to_string());
        }
        Ok(with_epoch(call, *lease_epoch))
    }

    fn execute(&self, request: ExecutionRequest) -> Result<RequestBuilder, Fault> {
        // Over HTTP the token identifies the actor.
        let ExecutionRequest {
            sandbox_id,
            owner,
            lease_epoch,
            command,
            env,
            cwd,
            stdin,
            timeout_seconds,
            by: _,
        } = request;
        let id = parse_sandbox(&sandbox_id)?;
        let path = format!("/v1/sandboxes/{id}/executions");
        let body = json!({
            "command": command, "env": env, "cwd": cwd, "stdin": stdin, "timeout_seconds": timeout_seconds,
        });
        let call = self.call(Method::POST, &path).header(OWNER_HEADER, owner).json(&body);
        Ok(with_epoch(call, lease_epoch))
    }

    fn page(&self, path: &str, cursor: Option<&str>, limit: Option<u32>) -> RequestBuilder {
        let limit = limit.map(|limit| limit.to_string());
        let query = [("cursor", cursor), ("limit", limit.as_deref())];
        self.call(Method::GET, path).query(&query)
    }

    fn call(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.root)).bearer_auth(self.token.expose())
    }
}

#[async_trait]
impl Requests for HttpRequests {
    async fn request(
        &self,
        verb: Verb,
        context: &Context,
        body: Bytes,
        patience: Duration,
    ) -> Result<Reply, RequestError> {
        let request = match self.request_of(verb, &body) {
            Ok(request) => request,
            Err(fault) => return Ok(refused(&fault, &context.request_id)),
        };
        let mut request = request.timeout(patience).header(headers::REQUEST_ID, &context.request_id);
        if let Some(traceparent) = &context.traceparent {
            request = request.header(headers::TRACEPARENT, traceparent);
        }
        let response = request.send().await.map_err(|error| lost(&error))?;
        let status = response.status();
        let body = response.bytes().await.map_err(|error| lost(&error))?;
        if verb == Verb::Health
            && let Ok(readiness) = serde_json::from_slice(&body)
        {
            return Ok(health(&readiness, &context.request_id));
        }
        let outcome = match status {
            _ if !matches!(verb, Verb::Allocate | Verb::Claim) => None,
            StatusCode::CREATED => Some(Outcome::Created),
            StatusCode::OK => Some(Outcome::Existing),
            _ => None,
        };
        Ok(Reply { outcome, is_fault: !status.is_success(), body })
    }

    /// Always true: connections are opened on demand.
    fn is_connected(&self) -> bool {
        true
    }
}

fn not_here() -> Fault {
    Fault::invalid("the verb", "is not available over this transport")
}

fn with_epoch(call: RequestBuilder, epoch: Option<u64>) -> RequestBuilder {
    match epoch {
        Some(epoch) => call.header(LEASE_EPOCH_HEADER, epoch.to_string()),
        None => call,
    }
}

fn with_version(call: RequestBuilder, version: Option<u64>) -> RequestBuilder {
    call.query(&[("version", version)])
}

/// The path of a template, of which the id becomes a segment.
fn template_path(id: &str) -> Result<String, Fault> {
    let id = TemplateId::parse(id).map_err(|problem| Fault::invalid("template", problem))?;
    Ok(format!("/v1/templates/{id}"))
}

fn target(body: &[u8]) -> Result<(SandboxId, String), Fault> {
    // Over HTTP the token identifies the actor.
    let SandboxRequest { sandbox_id, owner, by: _ } = decode(body)?;
    // It becomes a segment of the path.
    let id = parse_sandbox(&sandbox_id)?;
    Ok((id, owner))
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(body)
        .map_err(|error| Fault::invalid("the body", format!("is not the expected JSON object: {error}")))
}

/// The reply to a request that cannot be sent over HTTP; over NATS the worker replies the same.
fn refused(fault: &Fault, request_id: &str) -> Reply {
    let body = serde_json::to_vec(&fault.body(request_id)).unwrap_or_default().into();
    Reply { outcome: None, is_fault: true, body }
}

/// The reply of a worker that is equivalent to the readiness of the ingress, which asks a worker about its store.
fn health(Readiness { checks }: &Readiness, request_id: &str) -> Reply {
    const OK: &str = "ok";
    let problems = checks.iter().filter(|(_, finding)| *finding != OK);
    let problems: Vec<_> = problems.map(|(check, problem)| format!("{check}: {problem}")).collect();
    if !problems.is_empty() {
        let message = format!("the broker is not ready: {}", problems.join("; "));
        return refused(&Fault::new(FaultCode::UpstreamUnavailable, message), request_id);
    }
    let body = serde_json::to_vec(&HealthReply { store: OK.to_owned() }).unwrap_or_default().into();
    Reply { outcome: None, is_fault: false, body }
}

fn lost(error: &reqwest::Error) -> RequestError {
    if error.is_timeout() { RequestError::TimedOut } else { RequestError::Disconnected }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller() -> HttpRequests {
        HttpRequests::new("http://127.0.0.1:1/", Secret::new("t")).unwrap()
    }

    fn request_of(verb: Verb, body: &str) -> Result<reqwest::Request, Fault> {
        caller().request_of(verb, body.as_bytes()).map(|request| request.build().unwrap())
    }

    #[test]
    fn claim_is_sent_as_headers() {
        let body = r#"{"owner":"p-1","lab":"dns","pool":"main","name_prefix":"lab-","lab_duration_hours":2}"#;
        let request = request_of(Verb::Allocate, body).unwrap();
        assert_eq!((request.method(), request.url().path()), (&Method::POST, "/v1/allocate"));
        let header = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap());
        assert_eq!(header(OWNER_HEADER), Some("p-1"));
        assert_eq!(header(LAB_HEADER), Some("dns"));
        assert_eq!(header(POOL_HEADER), Some("main"));
        assert_eq!(header(NAME_PREFIX_HEADER), Some("lab-"));
        assert_eq!(header(LAB_DURATION_HEADER), Some("2"));
        assert_eq!(header(IDEMPOTENCY_KEY_HEADER), None);
        assert_eq!(header("Authorization"), Some("Bearer t"));
    }

    #[test]
    fn native_claims_wait_if_the_caller_does() {
        let body = r#"{"owner":"p-1","pool":"main"}"#;
        let claim = |caller: HttpRequests| {
            let request = caller.request_of(Verb::Claim, body.as_bytes()).unwrap().build().unwrap();
            (request.url().path().to_owned(), request.url().query().map(str::to_owned))
        };
        assert_eq!(claim(caller()), ("/v1/claims".to_owned(), None));
        assert_eq!(claim(caller().waiting()), ("/v1/claims".to_owned(), Some("wait=ready".to_owned())));
    }

    #[test]
    fn sandbox_id_becomes_the_path_and_traversal_is_rejected() {
        let request = request_of(Verb::Release, r#"{"sandbox_id":"7","owner":"p-1"}"#).unwrap();
        assert_eq!(request.url().path(), "/v1/sandboxes/7/mark-for-deletion");
        let body = r#"{"sandbox_id":"7","owner":"p-1","lab_duration_hours":6,"lease_epoch":1}"#;
        let request = request_of(Verb::Extend, body).unwrap();
        assert_eq!(request.url().path(), "/v1/sandboxes/7/extend");
        let header = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap());
        assert_eq!((header(LAB_DURATION_HEADER), header(LEASE_EPOCH_HEADER)), (Some("6"), Some("1")));
        assert!(request_of(Verb::Extend, r#"{"sandbox_id":"../7","owner":"p-1"}"#).is_err());
        assert!(request_of(Verb::Get, r#"{"sandbox_id":"../7","owner":"p-1"}"#).is_err());
        assert!(request_of(Verb::Allocate, "[1]").is_err());
    }

    #[test]
    fn requests_about_templates_become_paths_and_queries() {
        let sent = |verb, body: &str| {
            let request = request_of(verb, body).unwrap();
            let (path, query) = (request.url().path().to_owned(), request.url().query().unwrap_or_default());
            let query = query.to_owned();
            let body = request.body().and_then(|body| body.as_bytes()).unwrap_or_default().to_vec();
            (request.method().clone(), path, query, String::from_utf8(body).unwrap())
        };
        let of = |method, path: &str, query: &str, body: &str| {
            (method, path.to_owned(), query.to_owned(), body.to_owned())
        };
        let put = r#"{"template":"python","settings":{"image":"host"},"version":2,"by":"alice"}"#;
        assert_eq!(
            sent(Verb::PutTemplate, put),
            of(Method::PUT, "/v1/templates/python", "version=2", r#"{"image":"host"}"#)
        );
        let python = r#"{"template":"python"}"#;
        assert_eq!(sent(Verb::Template, python), of(Method::GET, "/v1/templates/python", "", ""));
        assert_eq!(sent(Verb::RemoveTemplate, python), of(Method::DELETE, "/v1/templates/python", "", ""));
        let versions = r#"{"template":"python","cursor":"x","limit":7}"#;
        assert_eq!(
            sent(Verb::TemplateVersions, versions),
            of(Method::GET, "/v1/templates/python/versions", "cursor=x&limit=7", "")
        );
        assert_eq!(sent(Verb::Templates, "{}"), of(Method::GET, "/v1/templates", "", ""));
        let run =
            r#"{"sandbox_id":"ctr_1","owner":"p","lease_epoch":2,"command":["true"],"timeout_seconds":9}"#;
        assert_eq!(
            sent(Verb::Execute, run),
            of(
                Method::POST,
                "/v1/sandboxes/ctr_1/executions",
                "",
                r#"{"command":["true"],"cwd":null,"env":{},"stdin":null,"timeout_seconds":9}"#
            )
        );
        assert!(request_of(Verb::Template, r#"{"template":"../pools"}"#).is_err());
    }

    #[test]
    fn requests_about_claims_become_the_native_routes() {
        let sent = |verb, body: &str| {
            let request = request_of(verb, body).unwrap();
            let body = request.body().and_then(|body| body.as_bytes()).unwrap_or_default();
            let owner = request.headers().get(OWNER_HEADER).unwrap().to_str().unwrap().to_owned();
            assert_eq!(owner, "p");
            let body = String::from_utf8(body.to_vec()).unwrap();
            format!("{} {} {body}", request.method(), request.url().path())
        };
        let claim = r#"{"owner":"p","pool":"shell","lab_duration_hours":2,"env":{"A":"1"}}"#;
        assert_eq!(
            sent(Verb::Claim, claim),
            r#"POST /v1/claims {"env":{"A":"1"},"key":null,"lab":null,"labels":{},"lease_minutes":120,"pool":"shell","template":null,"warm":null}"#
        );
        let replica = r#"{"owner":"p","idempotency_key":"k","replica_of":"ctr_1"}"#;
        assert_eq!(
            sent(Verb::Claim, replica),
            r#"POST /v1/sandboxes/ctr_1/replicate {"env":{},"key":"k","labels":{},"lease_minutes":null}"#
        );
        assert_eq!(sent(Verb::Claims, r#"{"owner":"p"}"#), "GET /v1/claims ");
        assert_eq!(sent(Verb::ShowClaim, r#"{"sandbox_id":"ctr_1","owner":"p"}"#), "GET /v1/claims/ctr_1 ");
        let stop = r#"{"sandbox_id":"ctr_1","owner":"p","action":"stop"}"#;
        assert_eq!(sent(Verb::Runtime, stop), "POST /v1/sandboxes/ctr_1/stop ");
        for (verb, body) in [
            (Verb::Claim, r#"{"owner":"p","name_prefix":"lab-"}"#),
            (Verb::Allocate, r#"{"owner":"p","env":{"A":"1"}}"#),
            (Verb::Runtime, r#"{"sandbox_id":"ctr_1","owner":"p","action":"../x"}"#),
        ] {
            assert!(request_of(verb, body).is_err(), "{body}");
        }
    }

    #[test]
    fn readiness_becomes_the_reply_of_a_worker() {
        let reply = |body: &str| health(&serde_json::from_str(body).unwrap(), "r-1");
        let ready = reply(r#"{"status":"ready","checks":{"queue":"ok","store":"ok"}}"#);
        assert_eq!((ready.is_fault, ready.body.as_ref()), (false, br#"{"store":"ok"}"#.as_slice()));
        let unready =
            reply(r#"{"status":"not_ready","checks":{"queue":"ok","store":"no worker is available"}}"#);
        let body: contract::FaultBody = serde_json::from_slice(&unready.body).unwrap();
        assert!(unready.is_fault && body.detail.code == FaultCode::UpstreamUnavailable);
        assert_eq!(body.detail.message, "the broker is not ready: store: no worker is available");
    }

    #[tokio::test]
    async fn connection_refused_is_reported_as_disconnected() {
        let context = Context {
            request_id: "r-1".to_owned(),
            deadline_ms: None,
            traceparent: None,
            idempotency_key: None,
            attempt: None,
            principal: contract::Principal::default(),
        };
        let body = Bytes::from_static(br#"{"owner":"p-1"}"#);
        let asked = caller().request(Verb::Allocate, &context, body, CONNECT_TIMEOUT).await;
        assert_eq!(asked.unwrap_err(), RequestError::Disconnected);
    }
}
