//! Items that this build cannot read. Each is logged once, and none prevents reading the others on its page.

use super::attributes::Item;
use super::{DynamoStore, item};
use domain::Sandbox;
use parking_lot::Mutex;
use ports::store::{StoreError, Unreadable, index};
use std::collections::BTreeSet;

/// Items remembered as logged, about 100 bytes each; beyond this, they are logged again.
const REPORTED_MAX: usize = 4_096;

/// The items that were logged.
#[derive(Debug, Default)]
pub(super) struct Reported(Mutex<BTreeSet<(String, &'static str)>>);

// === impl Reported ===

impl Reported {
    fn is_new(&self, unreadable: &Unreadable) -> bool {
        let mut reported = self.0.lock();
        if reported.len() >= REPORTED_MAX {
            reported.clear();
        }
        reported.insert((unreadable.item.clone(), unreadable.attribute))
    }
}

// === impl DynamoStore ===

impl DynamoStore {
    /// Decodes an item and logs it if it cannot be read.
    pub(super) fn decode(&self, item: &Item) -> Result<Sandbox, StoreError> {
        item::decode(item).inspect_err(|error| {
            if let StoreError::Corrupt { item, attribute, problem } = error {
                let (item, problem) = (item.clone(), problem.clone());
                self.report(&Unreadable { sandbox: index::sandbox_in(&item), item, attribute, problem });
            }
        })
    }

    /// Splits the items of a page into readable and unreadable ones.
    pub(super) fn sort_out<T>(
        &self,
        items: &[Item],
        decode: impl Fn(&Item) -> Result<T, StoreError>,
    ) -> Result<(Vec<T>, Vec<Unreadable>), StoreError> {
        let (mut readable, mut unreadable) = (Vec::with_capacity(items.len()), Vec::new());
        for item in items {
            match decode(item) {
                Ok(read) => readable.push(read),
                Err(error) => {
                    let found = error.into_unreadable()?;
                    self.report(&found);
                    unreadable.push(found);
                }
            }
        }
        Ok((readable, unreadable))
    }

    pub(super) fn report(&self, unreadable: &Unreadable) {
        if !self.unreadable.is_new(unreadable) {
            return;
        }
        let Unreadable { item, sandbox, attribute, problem } = unreadable;
        tracing::error!(
            item,
            sandbox.id = sandbox.as_ref().map(|id| id.as_str()),
            attribute,
            problem,
            "item {item} cannot be read and is skipped: attribute {attribute} {problem}; a newer build may have written it",
        );
    }
}
