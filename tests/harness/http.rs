//! A plain HTTP client of the broker, like a lab script.

use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::Value;
use std::net::SocketAddr;

/// Calls one broker with one fleet's tokens.
#[derive(Clone, Debug)]
pub struct Api {
    /// The underlying client.
    pub client: Client,
    /// `http://host:port`.
    pub root: String,
    /// The lab token.
    pub lab_token: String,
    /// The admin token.
    pub admin_token: String,
}

/// Status, headers that matter, and body of an answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The body; null if it is not JSON.
    pub body: Value,
    /// `Retry-After`.
    pub retry_after: Option<String>,
    /// `X-Request-ID`.
    pub request_id: Option<String>,
}

// === impl Api ===

impl Api {
    /// A client of the broker at `address`.
    pub fn new(address: SocketAddr, lab_token: &str, admin_token: &str) -> Self {
        crypto::install_crypto();
        Self {
            client: Client::new(),
            root: format!("http://{address}"),
            lab_token: lab_token.to_owned(),
            admin_token: admin_token.to_owned(),
        }
    }

    /// `POST /v1/allocate` as `owner`.
    pub async fn allocate(&self, owner: &str) -> Answer {
        self.allocate_with(owner, &[]).await
    }

    /// `POST /v1/allocate` as `owner`, with further headers.
    pub async fn allocate_with(&self, owner: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = self.lab(Method::POST, "/v1/allocate", owner);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        answer(request.send().await.expect("the broker answers")).await
    }

    /// `POST /v1/allocate` as the owner with these bytes in the header.
    pub async fn allocate_as(&self, owner: &[u8]) -> Answer {
        let request = self.client.post(format!("{}/v1/allocate", self.root)).bearer_auth(&self.lab_token);
        answer(request.header("X-Instruqt-Sandbox-ID", owner).send().await.expect("the broker answers")).await
    }

    /// `GET /v1/sandboxes/{id}` as `owner`.
    pub async fn get(&self, id: &str, owner: &str) -> Answer {
        let request = self.lab(Method::GET, &format!("/v1/sandboxes/{id}"), owner);
        answer(request.send().await.expect("the broker answers")).await
    }

    /// `POST /v1/sandboxes/{id}/mark-for-deletion` as `owner`.
    pub async fn release(&self, id: &str, owner: &str) -> Answer {
        let request = self.lab(Method::POST, &format!("/v1/sandboxes/{id}/mark-for-deletion"), owner);
        answer(request.send().await.expect("the broker answers")).await
    }

    /// `POST /v1/sandboxes/{id}/extend` as `owner`, to `hours` in total.
    pub async fn extend(&self, id: &str, owner: &str, hours: u32) -> Answer {
        let request = self.lab(Method::POST, &format!("/v1/sandboxes/{id}/extend"), owner);
        let request = request.header("X-Lab-Duration", hours.to_string());
        answer(request.send().await.expect("the broker answers")).await
    }

    /// `POST /v1/admin/sandboxes/{id}/{order}` by the operator `alice`.
    pub async fn order(&self, id: &str, order: &str, reason: &str) -> Answer {
        let path = format!("{}/v1/admin/sandboxes/{id}/{order}", self.root);
        let request = self.client.post(path).bearer_auth(&self.admin_token).header("X-Operator", "alice");
        let body = serde_json::json!({"reason": reason}).to_string();
        answer(request.body(body).send().await.expect("the broker answers")).await
    }

    /// An admin call.
    pub async fn admin(&self, method: Method, path: &str) -> Answer {
        let request =
            self.client.request(method, format!("{}{path}", self.root)).bearer_auth(&self.admin_token);
        answer(request.send().await.expect("the broker answers")).await
    }

    /// An admin call with a JSON body.
    pub async fn admin_with(&self, method: Method, path: &str, body: &Value) -> Answer {
        let request =
            self.client.request(method, format!("{}{path}", self.root)).bearer_auth(&self.admin_token);
        let request = request.header("Content-Type", "application/json").body(body.to_string());
        answer(request.send().await.expect("the broker answers")).await
    }

    /// `GET /v1/admin/events` of one sandbox, up to the end of the event log, unparsed.
    pub async fn events_of(&self, id: &str) -> String {
        let url = format!("{}/v1/admin/events?sandbox={id}&after=0&follow=false", self.root);
        let answer = self.client.get(url).bearer_auth(&self.admin_token).send().await;
        answer.expect("the broker answers").text().await.expect("a stream that ends")
    }

    /// `GET /v1/admin/stats`.
    pub async fn stats(&self) -> Value {
        let stats = self.admin(Method::GET, "/v1/admin/stats").await;
        assert_eq!(stats.status, 200, "{stats:?}");
        stats.body
    }

    /// A call without any token.
    pub async fn open(&self, method: Method, path: &str) -> Answer {
        let request = self.client.request(method, format!("{}{path}", self.root));
        answer(request.send().await.expect("the broker answers")).await
    }

    fn lab(&self, method: Method, path: &str, owner: &str) -> RequestBuilder {
        self.client
            .request(method, format!("{}{path}", self.root))
            .bearer_auth(&self.lab_token)
            .header("X-Instruqt-Sandbox-ID", owner.as_bytes())
    }
}

/// Reads an answer.
pub async fn answer(response: Response) -> Answer {
    let header = |name: &str| {
        response.headers().get(name).and_then(|value| value.to_str().ok()).map(ToOwned::to_owned)
    };
    let (retry_after, request_id) = (header("retry-after"), header("x-request-id"));
    let status = response.status().as_u16();
    let body = response.json().await.unwrap_or(Value::Null);
    Answer { status, body, retry_after, request_id }
}

// === impl Answer ===

impl Answer {
    /// `detail.code` of a failure.
    pub fn code(&self) -> &str {
        self.body["detail"]["code"].as_str().unwrap_or_default()
    }

    /// `sandbox_id` of a success.
    pub fn sandbox(&self) -> &str {
        self.body["sandbox_id"].as_str().unwrap_or_else(|| panic!("no sandbox in {self:?}"))
    }
}
