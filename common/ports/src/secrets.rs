//! The port of an external secret store: AWS Secrets Manager, or a stand-in for it.

use async_trait::async_trait;
use std::fmt;

/// Longest name of a secret, in bytes: an ARN is at most that long.
pub const SECRET_ID_BYTES_MAX: usize = 2_048;
/// Longest value of a secret, in bytes: the limit of AWS Secrets Manager.
pub const SECRET_BYTES_MAX: usize = 64 * 1_024;

/// Name or ARN of a secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretId(String);

/// Why a secret could not be read. Contains no part of it.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The secret does not exist or has no value.
    #[error("there is no such secret, or it has no value")]
    Missing,
    /// Access is denied.
    #[error("reading it is not allowed")]
    Forbidden,
    /// The secret is too long.
    #[error("it has more than {SECRET_BYTES_MAX} bytes")]
    TooLong,
    /// No usable answer.
    #[error("the secret store is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Reads secrets.
#[async_trait]
pub trait Secrets: Send + Sync {
    /// The current value of the secret.
    async fn read(&self, id: &SecretId) -> Result<Vec<u8>, SecretError>;
}

impl SecretId {
    /// Parses a name or ARN.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        // The rules of Secrets Manager: letters, digits and /_+=.@- in names, and colons in ARNs.
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/_+=.@-:!".contains(&byte);
        if (1..=SECRET_ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err("must be the name or the ARN of a secret".to_owned())
        }
    }

    /// The text of it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SecretId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_arns_are_accepted() {
        let arn = "arn:aws:secretsmanager:us-east-1:123456789012:secret:broker/tokens-AbCdEf";
        for good in ["tokens", "broker/tokens", arn] {
            assert_eq!(SecretId::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a\nb", "é", &"x".repeat(SECRET_ID_BYTES_MAX + 1)] {
            assert!(SecretId::parse(bad).is_err(), "{bad:?}");
        }
    }
}
