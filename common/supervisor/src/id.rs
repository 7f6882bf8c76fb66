//! Ids of jobs.

use serde::{Deserialize, Serialize};

/// The longest id.
pub const JOB_ID_BYTES_MAX: usize = 64;

/// The id of a job: 1 to [`JOB_ID_BYTES_MAX`] of `A-Z a-z 0-9 . _ -`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobId(String);

/// A text that is no [`JobId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id of a job has 1 to {JOB_ID_BYTES_MAX} letters, digits, dots, underscores and hyphens")]
pub struct InvalidJobId;

impl JobId {
    /// The id that this text is.
    pub fn parse(text: &str) -> Result<Self, InvalidJobId> {
        Self::try_from(text.to_owned())
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for JobId {
    type Error = InvalidJobId;

    fn try_from(text: String) -> Result<Self, InvalidJobId> {
        let is_good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let is_id = (1..=JOB_ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_good);
        if is_id { Ok(Self(text)) } else { Err(InvalidJobId) }
    }
}

impl From<JobId> for String {
    fn from(id: JobId) -> Self {
        id.0
    }
}

impl std::fmt::Display for JobId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_short_and_plain() {
        for good in ["a", "exec-01J9.x_y", &"a".repeat(JOB_ID_BYTES_MAX)] {
            assert_eq!(JobId::parse(good).map(String::from).as_deref(), Ok(good));
        }
        for bad in ["", "a b", "a/b", "ü", &"a".repeat(JOB_ID_BYTES_MAX + 1)] {
            assert_eq!(JobId::parse(bad), Err(InvalidJobId), "{bad:?}");
        }
    }
}
