//! What an operator has to know when something is wrong with the table. Nothing here changes anything.

use super::indexes::{is_readable, status_of};
use super::table::{GROUP_INDEX, STATE_INDEX, TableError, differences, is_active};
use super::{DynamoStore, back_fill};

/// Something that is wrong with the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableFault {
    /// There is no such table.
    Missing,
    /// It does not serve; its status.
    NotActive(String),
    /// It has other keys, one sentence for each.
    KeysDiffer(Vec<String>),
    /// An index that this process reads is missing.
    IndexMissing(&'static str),
    /// An index that this process reads is not complete yet.
    IndexNotReady {
        /// The index.
        name: &'static str,
        /// Its status, or what is missing.
        status: String,
    },
    /// Its time to live is off.
    TimeToLiveOff,
}

impl DynamoStore {
    /// The table.
    #[must_use]
    pub fn table_name(&self) -> &str {
        &self.table
    }

    /// Everything that is wrong with the table.
    ///
    /// # Errors
    /// [`TableError`] when it does not answer.
    pub async fn table_faults(&self) -> Result<Vec<TableFault>, TableError> {
        let Some(found) = self.look().await? else { return Ok(vec![TableFault::Missing]) };
        if let Err(status) = is_active(&found) {
            return Ok(vec![TableFault::NotActive(status)]);
        }
        let mut faults = Vec::new();
        let mut there = Vec::new();
        let labs = self.index_of_labs(&found);
        for keys in [STATE_INDEX, labs] {
            match status_of(&found, keys) {
                None => faults.push(TableFault::IndexMissing(keys.name)),
                Some(_) if is_readable(&found, keys) => there.push(keys),
                Some(status) => faults
                    .push(TableFault::IndexNotReady { name: keys.name, status: status.as_str().to_owned() }),
            }
        }
        let differences = differences(&found, &there);
        if !differences.is_empty() {
            faults.push(TableFault::KeysDiffer(differences));
        }
        if labs == GROUP_INDEX && there.contains(&GROUP_INDEX) {
            let progress =
                self.back_fill().await.map_err(|error| self.failed(back_fill::OPERATION, error))?;
            if progress.completed_at.is_none() {
                let status = "not back-filled".to_owned();
                faults.push(TableFault::IndexNotReady { name: labs.name, status });
            }
        }
        if !self.ttl_is_on().await? {
            faults.push(TableFault::TimeToLiveOff);
        }
        Ok(faults)
    }
}
