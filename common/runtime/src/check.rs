//! What readiness depends on.

use async_trait::async_trait;

/// Something that has to work before the role is ready.
#[async_trait]
pub trait Check: Send + Sync {
    /// Its name in the answer.
    fn name(&self) -> &'static str;

    /// Nothing, or what is wrong in words for an operator; shows no internal cause.
    async fn check(&self) -> Result<(), String>;

    /// Something that an operator should know though it works; none if there is nothing.
    async fn note(&self) -> Option<String> {
        None
    }
}
