//! Secrets in memory, for tests.

use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard};
use ports::secrets::{SecretError, SecretId, Secrets};
use std::collections::BTreeMap;

/// Secrets that a test has set.
#[derive(Debug, Default)]
pub struct MemorySecrets(Mutex<Inside>);

#[derive(Debug, Default)]
struct Inside {
    values: BTreeMap<SecretId, Vec<u8>>,
    is_broken: bool,
}

#[async_trait]
impl Secrets for MemorySecrets {
    async fn read(&self, id: &SecretId) -> Result<Vec<u8>, SecretError> {
        let inside = self.inside();
        if inside.is_broken {
            return Err(SecretError::Unavailable("broken on purpose".into()));
        }
        inside.values.get(id).cloned().ok_or(SecretError::Missing)
    }
}

impl MemorySecrets {
    /// Sets a secret.
    pub fn put(&self, id: &SecretId, value: &[u8]) {
        self.inside().values.insert(id.clone(), value.to_owned());
    }

    /// Makes reads fail, or work again.
    pub fn set_broken(&self, is_broken: bool) {
        self.inside().is_broken = is_broken;
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.lock()
    }
}
