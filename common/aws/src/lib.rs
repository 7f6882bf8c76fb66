//! Common configuration of all AWS clients.

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use std::time::Duration;

/// Dummy credentials for a local stand-in, which requires a signature but does not check it.
const LOCAL_KEY: &str = "local";

/// Where and how a client calls.
pub struct Calls<'a> {
    /// The AWS region.
    pub region: &'a str,
    /// Address of a local stand-in; AWS itself if none.
    pub endpoint: Option<&'a str>,
    /// Time-out of one attempt of a call.
    pub attempt_timeout: Duration,
    /// Time-out of a call with all its attempts.
    pub operation_timeout: Duration,
    /// Number of attempts and the pauses between them.
    pub retries: RetryConfig,
}

impl Calls<'_> {
    /// The configuration of a client. Contacts only the sources of credentials, and only without an endpoint.
    pub async fn config(self) -> SdkConfig {
        let Calls { region, endpoint, attempt_timeout, operation_timeout, retries } = self;
        // Pinned, because a newer behaviour version may change retries and time-outs.
        let behaviour = BehaviorVersion::v2026_01_12();
        let region = Region::new(region.to_owned());
        let base = match endpoint {
            // No TLS, because the default connector loads the machine's root certificates and fails where there are
            // none; and no real credentials.
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
