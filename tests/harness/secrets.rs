//! A stand-in for AWS Secrets Manager: it implements the one call that we make, with values set by the test.

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The operation, as in the header of AWS's JSON protocol.
const READ: &str = "secretsmanager.GetSecretValue";
const CONTENT_TYPE: &str = "application/x-amz-json-1.1";

/// The stored value of a secret.
#[derive(Clone, Debug)]
pub enum Kept {
    /// A text.
    Text(String),
    /// Access is denied.
    Forbidden,
    /// Reading fails at the service.
    Failing,
}

/// A store of secrets on a separate port; it ends when it is dropped.
#[derive(Debug)]
pub struct SecretsManager {
    /// Its address, as `http://host:port`.
    pub endpoint: String,
    kept: Arc<Mutex<BTreeMap<String, Kept>>>,
    serving: JoinHandle<()>,
}

// === impl SecretsManager ===

impl SecretsManager {
    /// A store without secrets.
    ///
    /// # Panics
    /// If no port is free.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("no port on the loopback interface");
        let endpoint = format!("http://{}", listener.local_addr().expect("the listener has no address"));
        let kept = Arc::<Mutex<BTreeMap<String, Kept>>>::default();
        let router = Router::new().fallback(answer).with_state(Arc::clone(&kept));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.expect("it serves") });
        Self { endpoint, kept, serving }
    }

    /// Sets a secret.
    pub fn put(&self, name: &str, kept: Kept) {
        self.kept.lock().insert(name.to_owned(), kept);
    }
}

impl Drop for SecretsManager {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer(
    State(kept): State<Arc<Mutex<BTreeMap<String, Kept>>>>,
    headers: HeaderMap,
    body: axum::body::Bytes,
) -> Response {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if header("x-amz-target") != READ {
        return refuse(StatusCode::BAD_REQUEST, "UnknownOperationException");
    }
    let authorization = header("authorization");
    if !authorization.starts_with("AWS4-HMAC-SHA256 ")
        || !authorization.contains("/secretsmanager/aws4_request")
    {
        return refuse(StatusCode::BAD_REQUEST, "IncompleteSignature");
    }
    let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
    let Some(name) = asked["SecretId"].as_str() else {
        return refuse(StatusCode::BAD_REQUEST, "InvalidParameterException");
    };
    let found = kept.lock().get(name).cloned();
    match found {
        Some(Kept::Text(text)) => {
            let arn = format!("arn:aws:secretsmanager:us-east-1:123456789012:secret:{name}-AbCdEf");
            let body = json!({
                "ARN": arn, "Name": name, "SecretString": text, "VersionId": uuid::Uuid::now_v7().to_string(),
                "VersionStages": ["AWSCURRENT"], "CreatedDate": 1_800_000_000,
            });
            ([("content-type", CONTENT_TYPE)], body.to_string()).into_response()
        }
        Some(Kept::Forbidden) => refuse(StatusCode::BAD_REQUEST, "AccessDeniedException"),
        Some(Kept::Failing) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "InternalServiceError"),
        None => refuse(StatusCode::BAD_REQUEST, "ResourceNotFoundException"),
    }
}

fn refuse(status: StatusCode, kind: &str) -> Response {
    let body = json!({"__type": kind, "message": "as the test wants it"});
    (status, [("content-type", CONTENT_TYPE)], body.to_string()).into_response()
}
