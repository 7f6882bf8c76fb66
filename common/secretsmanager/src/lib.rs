//! AWS Secrets Manager.

use async_trait::async_trait;
use aws::Calls;
use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::config::retry::RetryConfig;
use aws_sdk_secretsmanager::error::{ProvideErrorMetadata as _, SdkError};
use aws_sdk_secretsmanager::operation::get_secret_value::GetSecretValueError;
use ports::secrets::{SECRET_BYTES_MAX, SecretError, SecretId, Secrets};
use runtime::policy::read_region;
use runtime::settings::Settings;
use std::time::Duration;

/// Time-out of one attempt of a call. Only the start of a process waits for it.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// Time-out of a call with all its attempts.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(10);
/// Attempts of one call, the first included.
const ATTEMPTS_MAX: u32 = 3;
/// AWS's code for missing permissions.
const ACCESS_DENIED: &str = "AccessDeniedException";

/// Where secrets are read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretsConfig {
    /// The AWS region (`AWS_REGION`).
    pub region: String,
    /// Address of a local stand-in (`SECRETS_MANAGER_ENDPOINT`); AWS itself if none.
    pub endpoint: Option<String>,
}

/// Reads secrets from AWS Secrets Manager.
#[derive(Clone, Debug)]
pub struct AwsSecrets {
    client: Client,
}

// === impl SecretsConfig ===

impl SecretsConfig {
    /// Reads the settings; mistakes stay with `settings`.
    pub fn read(settings: &mut Settings<'_>) -> Self {
        let endpoint = settings.optional(
            "SECRETS_MANAGER_ENDPOINT",
            "address of a stand-in for AWS Secrets Manager (http://host:port); AWS itself without it",
        );
        if endpoint.as_ref().is_some_and(|endpoint| !endpoint.starts_with("http://")) {
            settings.mistake(
                "SECRETS_MANAGER_ENDPOINT",
                "must begin with http:// (it is for a local stand-in; AWS itself needs none)",
            );
        }
        Self { region: read_region(settings), endpoint }
    }
}

// === impl AwsSecrets ===

impl AwsSecrets {
    /// A client for `config`. Calls nothing yet but the sources of credentials, and only without an endpoint.
    pub async fn connect(config: &SecretsConfig) -> Self {
        let SecretsConfig { region, endpoint } = config;
        let calls = Calls {
            region,
            endpoint: endpoint.as_deref(),
            attempt_timeout: ATTEMPT_TIMEOUT,
            operation_timeout: OPERATION_TIMEOUT,
            retries: RetryConfig::standard().with_max_attempts(ATTEMPTS_MAX),
        };
        Self { client: Client::new(&calls.config().await) }
    }
}

#[async_trait]
impl Secrets for AwsSecrets {
    async fn read(&self, id: &SecretId) -> Result<Vec<u8>, SecretError> {
        let read = self.client.get_secret_value().secret_id(id.as_str()).send().await.map_err(refusal)?;
        let text = read.secret_string.map(String::into_bytes);
        let value = text.or_else(|| read.secret_binary.map(|blob| blob.into_inner()));
        match value.ok_or(SecretError::Missing)? {
            value if value.len() > SECRET_BYTES_MAX => Err(SecretError::TooLong),
            value => Ok(value),
        }
    }
}

fn refusal(error: SdkError<GetSecretValueError>) -> SecretError {
    match error.as_service_error() {
        Some(GetSecretValueError::ResourceNotFoundException(_)) => SecretError::Missing,
        Some(refused) if refused.code() == Some(ACCESS_DENIED) => SecretError::Forbidden,
        _ => SecretError::Unavailable(Box::new(error)),
    }
}
