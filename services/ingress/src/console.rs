//! The operators' console. Its files are compiled in, and it does everything through this API, with the token that it
//! asks for (`docs/decisions/0038-the-console-keeps-its-token-in-memory.md`).

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use contract::{Fault, FaultCode};

use crate::error::Failure;
use crate::openapi::faults::{OfOpen, OfOpenFile};

/// The page may load its own files and call this API, and nothing else. No code in it can turn text into markup or
/// script: browsers with Trusted Types reject that whatever the script does.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
);

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const ICON: &str = "image/svg+xml";

/// A file of the console.
#[derive(Debug)]
pub struct File {
    /// Its name below `/console/`.
    pub name: &'static str,
    /// Its contents.
    pub text: &'static str,
    kind: &'static str,
}

/// Builds the list of files from their names, so that no file can be served under another name.
macro_rules! files {
    ($($name:literal is $kind:ident),+ $(,)?) => {
        /// The files that the page loads.
        pub const FILES: &[File] = &[$(
            File { name: $name, text: include_str!(concat!("../assets/console/", $name)), kind: $kind },
        )+];
    };
}

files! {
    "style.css" is CSS,
    "icon.svg" is ICON,
    "main.js" is SCRIPT,
    "api.js" is SCRIPT,
    "dom.js" is SCRIPT,
    "work.js" is SCRIPT,
    "overview.js" is SCRIPT,
    "sandboxes.js" is SCRIPT,
    "sandbox.js" is SCRIPT,
    "deletions.js" is SCRIPT,
    "runs.js" is SCRIPT,
    "fleet.js" is SCRIPT,
    "events.js" is SCRIPT,
}

/// The page of the console.
#[utoipa::path(
    get, path = "/console", operation_id = "console", tag = "open",
    responses((status = 200, description = "the page; it asks for a token", body = String, content_type = "text/html"), OfOpen)
)]
pub(crate) async fn page() -> Response {
    served(HTML, include_str!("../assets/console/index.html"))
}

/// The files of the console.
#[utoipa::path(
    get, path = "/console/{file}", operation_id = "console_file", tag = "open",
    params(("file" = String, Path, description = "as the page names it")),
    responses((status = 200, description = "the file", body = String, content_type = "text/javascript"), OfOpenFile)
)]
pub(crate) async fn file(path: Result<Path<String>, PathRejection>) -> Result<Response, Failure> {
    let wanted = path.ok().and_then(|Path(name)| FILES.iter().find(|file| file.name == name));
    let File { name: _, text, kind } =
        wanted.ok_or_else(|| Fault::new(FaultCode::NotFound, "the page has no such file"))?;
    Ok(served(kind, text))
}

fn served(kind: &'static str, text: &'static str) -> Response {
    let kind = HeaderValue::from_static(kind);
    ([(header::CONTENT_TYPE, kind), (header::CONTENT_SECURITY_POLICY, POLICY)], text).into_response()
}
