//! What every client of AWS is made of here.

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use std::time::Duration;

/// What a stand-in on this machine is signed in with. It wants a signature, and takes any.
const LOCAL_KEY: &str = "local";

/// Whom a client asks, and how patiently.
pub struct Calls<'a> {
    /// The AWS region.
    pub region: &'a str,
    /// Address of a stand-in; AWS itself if there is none.
    pub endpoint: Option<&'a str>,
    /// Time for one try of a call.
    pub attempt_timeout: Duration,
    /// Time for a call with all its tries.
    pub operation_timeout: Duration,
    /// How often, and after which pauses, a call is tried.
    pub retries: RetryConfig,
}

impl Calls<'_> {
    /// What a client is built from. Calls nothing but the sources of credentials, and those without an endpoint only.
    pub async fn config(self) -> SdkConfig {
        let Calls { region, endpoint, attempt_timeout, operation_timeout, retries } = self;
        // Pinned: a new behaviour version may change retries and time-outs below us.
        let behaviour = BehaviorVersion::v2026_01_12();
        let region = Region::new(region.to_owned());
        let base = match endpoint {
            // No TLS (the usual connector would load the machine's root certificates for nothing, and fails where
            // there are none) and no real credentials.
            Some(endpoint) => SdkConfig::builder()
                .behavior_version(behaviour)
                .endpoint_url(endpoint)
                .region(region)
                .credentials_provider(SharedCredentialsProvider::new(Credentials::new(
                    LOCAL_KEY, LOCAL_KEY, None, None, LOCAL_KEY,
                )))
                .http_client(aws_smithy_http_client::Builder::new().build_http()),
            None => aws_config::defaults(behaviour).region(region).load().await.into_builder(),
        };
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(attempt_timeout)
            .operation_attempt_timeout(attempt_timeout)
            .operation_timeout(operation_timeout)
            .build();
        base.timeout_config(timeouts).retry_config(retries).build()
    }
}
