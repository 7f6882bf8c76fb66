//! The settings that all processes on one table must share, and how a process compares its own with them.

use super::policy::read_tombstone_kept;
use super::settings::Settings;
use contract::Subjects;
use ports::store::{Agreed, Store, StoreError};

const DAY_SECONDS: u64 = 24 * 3_600;
/// What this build means by the items of the table. Raise it with a change after which older builds would do harm.
const TABLE_GENERATION: u64 = 1;

/// Why a process must not work on its table.
#[derive(Debug, thiserror::Error)]
pub enum AgreementError {
    /// The table failed.
    #[error("the table failed")]
    Store(#[from] StoreError),
    /// One or more settings differ.
    #[error(
        "the settings differ from those of the table: {}; all processes on one table must agree on them: change them here, \
         or have the table take those of this process with `broker table agree` (docs/recovery.md)", .0.join("; ")
    )]
    Differs(Vec<String>),
}

/// Reads the settings that all processes must share.
///
/// `SUBJECT_PREFIX`: with two prefixes, two queues would contain the same deletions. `TOMBSTONE_DAYS`: a process that
/// keeps tombstones for a shorter time than the others would let a used account return. The number of shards is not
/// among them, because the table stores it already.
pub fn read_agreed(settings: &mut Settings<'_>, subjects: &Subjects) -> Agreed {
    let tombstone_days = read_tombstone_kept(settings).as_secs() / DAY_SECONDS;
    Agreed::from(
        [
            ("SUBJECT_PREFIX", subjects.prefix().to_owned()),
            ("TABLE_GENERATION", TABLE_GENERATION.to_string()),
            ("TOMBSTONE_DAYS", tombstone_days.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    )
}

/// Compares the settings of this process with those of the table. The table stores settings that it does not have yet.
///
/// # Errors
/// [`AgreementError`]; retry if the table failed.
pub async fn agree(store: &dyn Store, own: &Agreed) -> Result<(), AgreementError> {
    let differences = differences(own, &store.agree(own, false).await?);
    if differences.is_empty() { Ok(()) } else { Err(AgreementError::Differs(differences)) }
}

/// The differences between `own` and the stored settings, in words.
#[must_use]
pub fn differences(own: &Agreed, kept: &Agreed) -> Vec<String> {
    let differs = own.iter().filter_map(|(name, here)| {
        let there = kept.get(name).filter(|there| *there != here)?;
        Some(format!("{name} is {here} here and {there} in the table"))
    });
    differs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ports::store::Layout as _;
    use std::collections::BTreeMap;
    use testkit::store::MemoryStore;

    fn read(tombstone_days: &str) -> Agreed {
        let env = BTreeMap::from([("TOMBSTONE_DAYS".to_owned(), tombstone_days.to_owned())]);
        let mut settings = Settings::new(&env);
        let agreed = read_agreed(&mut settings, &Subjects::default());
        settings.finish(agreed).unwrap()
    }

    #[tokio::test]
    async fn settings_mismatch_names_the_setting_and_both_values() {
        let store = MemoryStore::new(1);
        agree(&store, &read("30")).await.unwrap();
        agree(&store, &read("30")).await.unwrap();
        let refused = agree(&store, &read("7")).await.unwrap_err().to_string();
        for part in ["TOMBSTONE_DAYS is 7 here and 30 in the table", "broker table agree"] {
            assert!(refused.contains(part), "{refused}");
        }
        assert!(!refused.contains("SUBJECT_PREFIX"), "{refused}");
        store.agree(&read("7"), true).await.unwrap();
        agree(&store, &read("7")).await.unwrap();
    }

    #[test]
    fn setting_unknown_to_one_version_is_no_mismatch() {
        let (own, mut kept) = (read("30"), read("30"));
        kept.insert("OF_A_NEWER_BUILD".to_owned(), "1".to_owned());
        assert_eq!(differences(&own, &kept), Vec::<String>::new());
        assert_eq!(differences(&own, &Agreed::new()), Vec::<String>::new());
    }
}
