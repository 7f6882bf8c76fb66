//! Adding and removing an index of a live table, and what it looks like meanwhile.
//!
//! DynamoDB changes one index at a time and serves reads and writes of the table all along.

use super::DynamoStore;
use super::table::{GROUP_INDEX, INDEXES, Keys, LAB_INDEX, TableError, Wait, is_active};
use aws_sdk_dynamodb::error::BuildError;
use aws_sdk_dynamodb::types::{
    CreateGlobalSecondaryIndexAction, DeleteGlobalSecondaryIndexAction, GlobalSecondaryIndexDescription,
    GlobalSecondaryIndexUpdate, IndexStatus, Projection, ProjectionType, TableDescription,
};
use std::time::Duration;

/// The status of an index that the table does not have.
const ABSENT: &str = "absent";
/// The table has to be there already.
const AT_ONCE: Wait = Wait { polls_max: 1, pause: Duration::ZERO };
/// Three hours: AWS reads the whole table for a new index.
const UNTIL_CHANGED: Wait = Wait { polls_max: 10_800, pause: Duration::from_secs(1) };

/// An index as the table describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexView {
    /// Its name.
    pub name: &'static str,
    /// `ACTIVE`, `CREATING`, `DELETING`, `UPDATING` or `absent`.
    pub status: String,
    /// Its items; AWS counts them about every six hours.
    pub items: Option<i64>,
}

// === impl IndexView ===

impl IndexView {
    /// Whether queries find everything that has its attributes.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        [IndexStatus::Active, IndexStatus::Updating].iter().any(|status| status.as_str() == self.status)
    }

    /// Whether the table has it, in whatever state.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.status != ABSENT
    }
}

// === impl DynamoStore ===

impl DynamoStore {
    /// Every index of this build.
    ///
    /// # Errors
    /// [`TableError`] when the table does not answer or does not exist.
    pub async fn indexes(&self) -> Result<[IndexView; 3], TableError> {
        let found = self.until(AT_ONCE, is_active).await?;
        Ok(INDEXES.map(|keys| {
            let index = index_of(&found, keys);
            let status = status_of(&found, keys);
            IndexView {
                name: keys.name,
                status: status.as_ref().map_or(ABSENT, IndexStatus::as_str).to_owned(),
                items: index.and_then(GlobalSecondaryIndexDescription::item_count),
            }
        }))
    }

    /// Adds `GroupIndex`, or `LabIndex` again, and waits until queries find everything in it. An index that is there
    /// already is only waited for.
    ///
    /// # Errors
    /// [`TableError`] when a call fails, another index is being changed, or it is not active in time.
    pub async fn add_index(&self, index: OptionalIndex) -> Result<(), TableError> {
        let keys = index.keys();
        // An index that is being removed has to be gone before it can be added again.
        let found = self
            .until(UNTIL_CHANGED, |found| until(found, keys, |status| status != Some(IndexStatus::Deleting)))
            .await?;
        if status_of(&found, keys).is_none() {
            let failed = |source: BuildError| self.failed("update_table", source);
            let create = CreateGlobalSecondaryIndexAction::builder()
                .index_name(keys.name)
                .set_key_schema(Some(keys.schema().map_err(failed)?))
                .projection(Projection::builder().projection_type(ProjectionType::All).build())
                .build()
                .map_err(failed)?;
            let update = GlobalSecondaryIndexUpdate::builder().create(create).build();
            let sent = self
                .client
                .update_table()
                .table_name(&self.table)
                .set_attribute_definitions(Some(keys.attributes().map_err(failed)?))
                .global_secondary_index_updates(update)
                .send()
                .await;
            // Another process may have been faster, or the reply of an earlier attempt was lost.
            if let Err(error) = sent
                && self.look().await?.is_none_or(|found| status_of(&found, keys).is_none())
            {
                return Err(self.failed("update_table", error));
            }
        }
        self.until(UNTIL_CHANGED, |found| until(found, keys, |_| is_readable(found, keys))).await.map(drop)
    }

    /// Removes an index and waits until it is gone. An absent one is no error.
    ///
    /// # Errors
    /// [`TableError`] when a call fails, another index is being changed, or it is not gone in time.
    pub async fn drop_index(&self, index: OptionalIndex) -> Result<(), TableError> {
        let keys = index.keys();
        let found = self.until(AT_ONCE, is_active).await?;
        if !matches!(status_of(&found, keys), None | Some(IndexStatus::Deleting)) {
            let delete = DeleteGlobalSecondaryIndexAction::builder().index_name(keys.name).build();
            let delete = delete.map_err(|source| self.failed("update_table", source))?;
            let update = GlobalSecondaryIndexUpdate::builder().delete(delete).build();
            let request = self.client.update_table().table_name(&self.table);
            let sent = request.global_secondary_index_updates(update).send().await;
            if let Err(error) = sent
                && self.look().await?.is_none_or(|found| is_readable(&found, keys))
            {
                return Err(self.failed("update_table", error));
            }
        }
        self.until(UNTIL_CHANGED, |found| until(found, keys, |status| status.is_none())).await.map(drop)
    }
}

/// An index that a table may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionalIndex {
    /// `GroupIndex`.
    Group,
    /// `LabIndex`, its predecessor.
    Lab,
}

// === impl OptionalIndex ===

impl OptionalIndex {
    /// Its keys.
    #[must_use]
    pub const fn keys(self) -> Keys {
        match self {
            Self::Group => GROUP_INDEX,
            Self::Lab => LAB_INDEX,
        }
    }
}

fn index_of(found: &TableDescription, keys: Keys) -> Option<&GlobalSecondaryIndexDescription> {
    found.global_secondary_indexes().iter().find(|index| index.index_name() == Some(keys.name))
}

/// The status of an index; none if the table does not have it.
pub(super) fn status_of(found: &TableDescription, keys: Keys) -> Option<IndexStatus> {
    // A local engine may leave the status out.
    index_of(found, keys).map(|index| index.index_status().cloned().unwrap_or(IndexStatus::Active))
}

fn until(
    found: &TableDescription,
    keys: Keys,
    condition: impl Fn(Option<IndexStatus>) -> bool,
) -> Result<(), String> {
    let status = status_of(found, keys);
    let text = status.as_ref().map_or(ABSENT, IndexStatus::as_str);
    let still = format!("changing {}, which is {text},", keys.name);
    if condition(status) { Ok(()) } else { Err(still) }
}

/// Whether queries of the index find everything that has its attributes.
pub(super) fn is_readable(found: &TableDescription, keys: Keys) -> bool {
    matches!(status_of(found, keys), Some(IndexStatus::Active | IndexStatus::Updating))
}
