//! The providers: whether each of them answers, and takes our token.

use super::{Fault, Findings};
use crate::transport::Ports;
use csp::{CspConfig, CspProvider};
use domain::ProviderName;
use ports::provider::{Provider as _, ProviderError};
use runtime::telemetry::Chain;
use std::sync::Arc;

const CHECK: &str = "provider";

/// Checks a provider with the first page of its listing.
pub(super) async fn examine(name: &ProviderName, config: CspConfig, ports: &Ports, findings: &mut Findings) {
    let provider = match CspProvider::new(config, Arc::clone(&ports.clock)) {
        Ok(provider) => provider,
        Err(error) => {
            return findings.fail(CHECK, Fault::SettingsInvalid, format!("{name}: {}", Chain(&error)));
        }
    };
    match provider.list(0).await {
        Ok(_) => findings.ok(CHECK, format!("{name} answers and takes the token")),
        Err(error) => findings.fail(CHECK, fault_of(&error), format!("{name}: {error}")),
    }
}

const fn fault_of(error: &ProviderError) -> Fault {
    match error {
        ProviderError::Unauthorized { .. } | ProviderError::Forbidden { .. } => Fault::ProviderTokenRefused,
        ProviderError::Unreachable { .. } | ProviderError::UnknownOutcome { .. } => {
            Fault::ProviderUnreachable
        }
        ProviderError::Throttled { .. }
        | ProviderError::Failed { .. }
        | ProviderError::Malformed { .. }
        | ProviderError::Refused { .. } => Fault::ProviderFails,
    }
}
