//! The OpenAPI description of the API: generated from the handlers, served as JSON, and shown as a page.
//!
//! The page is Swagger UI (`docs/decisions/0039-swagger-ui-from-the-binary.md`): its files are in the binary, nothing
//! is loaded from elsewhere, and there is no inline script.

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use contract::{Fault, FaultBody, FaultCode, Role};
use ops::Ops;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use strum::IntoEnumIterator as _;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_swagger_ui::Config;

use crate::error::{Failure, json};
use crate::routes;

mod bounds;
pub(crate) mod faults;

use faults::{OfOpen, OfProbe};

/// The document without its routes, which [`routes::described`] adds.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Sandbox broker",
        description = "Hands out pre-created cloud sandboxes, takes them back, and deletes them without losing one. \
                       Times are Unix seconds. Every answer has X-Request-ID. Every failure has one shape; a program \
                       acts on its code. Unknown paths are 404 NOT_FOUND, and wrong methods 405 METHOD_NOT_ALLOWED. A \
                       path with one slash too many at its end is redirected (307)."
    ),
    tags(
        (name = "labs", description = "What a lab does: get a sandbox, look at it, extend its lease, give it back. \
                                       For a token with the role `lab` or `user`."),
        (name = "claims", description = "What a holder of any sandbox does: claim it and wait until it is ready, list and show claims, \
                                         extend and release them, start, stop, pause and replicate containers, run commands."),
        (name = "operators", description = "What operators do: look at sandboxes, deletions and events, start runs, change \
                                            pools. For a token with the role `operator` or `admin`; `read-only` may look."),
        (name = "templates", description = "How sandboxes of created kinds are made. Any token for all pools may look; one with the role \
                                            `operator` or `admin` may change them."),
        (name = "open", description = "What needs no token: health, metrics, this description, the console.")
    ),
    components(schemas(FaultBody)),
    modifiers(&Tokens),
)]
struct Api;

/// The kinds of tokens.
struct Tokens;

impl Modify for Tokens {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let components = api.components.get_or_insert_default();
        for role in Role::iter().map(Role::as_str) {
            let scheme = HttpBuilder::new()
                .scheme(HttpAuthScheme::Bearer)
                .description(Some(format!("a token with the role `{role}`")))
                .build();
            components.add_security_scheme(role, SecurityScheme::Http(scheme));
        }
    }
}

static DOCUMENT: LazyLock<Option<Bytes>> = LazyLock::new(|| {
    let mut document = serde_json::to_value(routes::described(Api::openapi())).ok()?;
    routes::describe_access(&mut document);
    bounds::add(&mut document);
    Some(document.to_string().into())
});

const STYLE: &str = "swagger-ui.css";
const BUNDLE: &str = "swagger-ui-bundle.js";

/// The page may load its own files and call this API, and nothing else. Its icons are inside its style sheet and
/// script.
const PAGE_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'",
);

/// The API's description of itself, as OpenAPI 3.1.
#[utoipa::path(
    get, path = "/v1/openapi.json", tag = "open",
    responses((status = 200, description = "this document", body = serde_json::Value), OfOpen)
)]
pub(crate) async fn document() -> Result<Response, Failure> {
    match DOCUMENT.as_ref() {
        Some(text) => Ok(json(StatusCode::OK, text.clone())),
        None => Err(Fault::new(FaultCode::InternalError, "the description could not be written").into()),
    }
}

/// The description as a page.
#[utoipa::path(
    get, path = "/v1/docs", tag = "open",
    responses((status = 200, description = "the page", body = String, content_type = "text/html"), OfOpen)
)]
pub(crate) async fn page() -> Response {
    file("text/html; charset=utf-8", include_str!("../assets/docs.html"))
}

/// The same page as under `docs`, at the address of the predecessor's second page.
#[utoipa::path(
    get, path = "/v1/redoc", tag = "open",
    responses((status = 200, description = "the page", body = String, content_type = "text/html"), OfOpen)
)]
pub(crate) async fn redoc() -> Response {
    page().await
}

/// The style sheet of Swagger UI.
#[utoipa::path(
    get, path = "/v1/docs/swagger-ui.css", tag = "open",
    responses((status = 200, description = "a style sheet", body = String, content_type = "text/css"), OfOpen)
)]
pub(crate) async fn style() -> Result<Response, Failure> {
    of_swagger_ui(STYLE, "text/css; charset=utf-8")
}

/// Swagger UI.
#[utoipa::path(
    get, path = "/v1/docs/swagger-ui-bundle.js", tag = "open",
    responses((status = 200, description = "a script", body = String, content_type = "text/javascript"), OfOpen)
)]
pub(crate) async fn bundle() -> Result<Response, Failure> {
    of_swagger_ui(BUNDLE, "text/javascript; charset=utf-8")
}

/// The script that starts it.
#[utoipa::path(
    get, path = "/v1/docs/page.js", tag = "open",
    responses((status = 200, description = "a script", body = String, content_type = "text/javascript"), OfOpen)
)]
pub(crate) async fn script() -> Response {
    file("text/javascript; charset=utf-8", include_str!("../assets/docs.js"))
}

/// The files of Swagger UI, shared by all callers, who are unauthenticated and may read slowly.
static SWAGGER_UI: LazyLock<BTreeMap<&'static str, Bytes>> = LazyLock::new(|| {
    let config = Arc::new(Config::from("/v1/openapi.json"));
    let found = [STYLE, BUNDLE].map(|name| (name, utoipa_swagger_ui::serve(name, Arc::clone(&config))));
    found
        .into_iter()
        .filter_map(|(name, found)| Some((name, Bytes::from(found.ok()??.bytes.into_owned()))))
        .collect()
});

/// A file of Swagger UI, as it is in the binary: compressed.
fn of_swagger_ui(name: &str, kind: &'static str) -> Result<Response, Failure> {
    let Some(bytes) = SWAGGER_UI.get(name) else {
        return Err(Fault::new(FaultCode::InternalError, "the page could not be read").into());
    };
    let headers = [(header::CONTENT_TYPE, kind), (header::CONTENT_ENCODING, "gzip")];
    Ok((headers, bytes.clone()).into_response())
}

fn file(kind: &'static str, text: &'static str) -> Response {
    let kind = HeaderValue::from_static(kind);
    ([(header::CONTENT_TYPE, kind), (header::CONTENT_SECURITY_POLICY, PAGE_POLICY)], text).into_response()
}

/// Whether the process is alive.
#[utoipa::path(
    get, path = "/healthz", tag = "open",
    responses((status = 200, description = "it is; with the time of its clock", body = serde_json::Value,
               example = json!({"status": "healthy", "timestamp": 1_763_683_200})), OfProbe)
)]
pub(crate) async fn healthz(ops: State<Ops>) -> Response {
    ops::health(ops).await
}

/// Whether the queue and, through a worker, the store can be reached.
#[utoipa::path(
    get, path = "/readyz", tag = "open",
    responses(
        (status = 200, description = "all can be reached", body = serde_json::Value,
         example = json!({"status": "ready", "checks": {"queue": "ok", "store": "ok"}})),
        (status = 503, description = "something cannot; it is named", body = serde_json::Value,
         example = json!({"status": "not_ready", "checks": {"queue": "ok", "store": "no worker is available"}})),
        OfProbe
    )
)]
pub(crate) async fn readyz(ops: State<Ops>) -> Response {
    ops::ready(ops).await
}

/// The process's metrics.
#[utoipa::path(
    get, path = "/metrics", tag = "open",
    responses((status = 200, description = "in the text format of Prometheus", body = String, content_type = "text/plain"), OfOpen)
)]
pub(crate) async fn metrics(ops: State<Ops>) -> Response {
    ops::metrics(ops).await
}
