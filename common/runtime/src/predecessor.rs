//! What the predecessor of this system called its settings and metrics, for operators who move from it.
//!
//! Its settings are not read, because their units and meanings differ; a start reports those that are set.

use crate::settings::Env;

pub mod metrics;

/// Settings of the predecessor that no role reads, and what to do instead. Settings that have kept their names are not
/// among them.
pub const SETTINGS: [(&str, &str); 31] = [
    ("API_BASE_PATH", "remove it; the API is always below /v1"),
    ("AUTO_EXPIRY_INTERVAL_SEC", "use EXPIRY_INTERVAL_SECONDS"),
    ("BACKOFF_BASE_MS", "remove it; an allocator tries candidates until the deadline of the claim"),
    ("BACKOFF_MAX_MS", "remove it; an allocator tries candidates until the deadline of the claim"),
    ("CIRCUIT_BREAKER_THRESHOLD", "use BREAKER_FAILURES_MAX"),
    ("CIRCUIT_BREAKER_TIMEOUT_SEC", "use BREAKER_OPEN_SECONDS_MIN"),
    ("CLEANUP_BATCH_DELAY_SEC", "use DELETIONS_PER_MINUTE"),
    ("CLEANUP_BATCH_SIZE", "use DELETIONS_IN_FLIGHT_MAX"),
    ("CLEANUP_INTERVAL_SEC", "remove it; deletions begin at once"),
    ("CLEANUP_PER_SANDBOX_DELAY_SEC", "use DELETIONS_PER_MINUTE"),
    ("CORS_ORIGINS", "use CORS_ALLOWED_ORIGINS"),
    ("CSP_TIMEOUT_CONNECT_SEC", "use CSP_CONNECT_TIMEOUT_SECONDS"),
    ("CSP_TIMEOUT_READ_SEC", "use CSP_READ_TIMEOUT_SECONDS"),
    ("DDB_ENDPOINT_URL", "use DYNAMODB_ENDPOINT"),
    ("DDB_GSI1_NAME", "remove it; the names of the indexes are fixed"),
    ("DDB_GSI2_NAME", "remove it; the names of the indexes are fixed"),
    ("DDB_GSI3_NAME", "remove it; the names of the indexes are fixed"),
    ("DDB_TABLE_NAME", "use DYNAMODB_TABLE, with a new table"),
    ("DELETION_RETRY_MAX_ATTEMPTS", "use DELETION_ATTEMPTS_MAX"),
    ("ENABLE_RATE_LIMITS", "use OWNER_RATE_PER_SECOND"),
    ("ENABLE_REQUEST_ID", "remove it; every request has an id"),
    ("EXPIRY_BUFFER_HOURS", "use GRACE_PERIOD_MINUTES"),
    ("JOB_TYPE", "remove it; the role is the first argument of the program"),
    ("K_CANDIDATES", "remove it; an allocator tries candidates until the deadline of the claim"),
    ("LOG_LEVEL", "use LOG_FILTER"),
    ("METRICS_PORT", "use OPS_LISTEN"),
    ("NIOSXAAS_CLEANUP_INTERVAL_SEC", "remove it; the pre-clean is part of a deletion"),
    ("NIOSXAAS_PER_SANDBOX_DELAY_SEC", "use DELETIONS_PER_MINUTE"),
    ("NIOSXAAS_TIMEOUT_SEC", "use NIOSXAAS_TIMEOUT_SECONDS"),
    ("SYNC_INTERVAL_SEC", "use SYNC_INTERVAL_SECONDS"),
    ("USE_MOCK_CSP", "use CSP_BASE_URL, with the address of a simulator"),
];

/// Warns about each setting of the predecessor in `env`.
pub fn warn_of_settings(env: &dyn Env) {
    for warning in warnings(env) {
        tracing::warn!("{warning}");
    }
}

fn warnings(env: &dyn Env) -> impl Iterator<Item = String> {
    let set = SETTINGS.iter().filter(|(name, _)| env.get(name).is_some());
    set.map(|(name, instead)| format!("{name} is a setting of the predecessor and has no effect: {instead}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn settings_of_the_predecessor_are_named_with_their_replacement() {
        let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let env = BTreeMap::from([
            set("SYNC_INTERVAL_SEC", "300"),
            set("SYNC_INTERVAL_SECONDS", "300"),
            set("DDB_TABLE_NAME", "secret-table"),
            set("K_CANDIDATES", " "),
        ]);
        let found: Vec<_> = warnings(&env).collect();
        assert_eq!(
            found,
            [
                "DDB_TABLE_NAME is a setting of the predecessor and has no effect: use DYNAMODB_TABLE, with a new table",
                "SYNC_INTERVAL_SEC is a setting of the predecessor and has no effect: use SYNC_INTERVAL_SECONDS",
            ]
        );
    }
}
