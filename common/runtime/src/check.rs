//! Readiness checks.

use async_trait::async_trait;

/// A condition of readiness.
#[async_trait]
pub trait Check: Send + Sync {
    /// Its name in the answer.
    fn name(&self) -> &'static str;

    /// The problem, in words for an operator and without internal causes.
    async fn check(&self) -> Result<(), String>;

    /// A problem that operators should know but that does not affect readiness; none if there is none.
    async fn note(&self) -> Option<String> {
        None
    }
}
