//! The table: its definition, its creation and its check.

use super::attributes::{GRANTED_AT, GROUP, GROUP_SORT, HELD_LAB, PK, SK, STATE_SHARD, STATE_SORT, TTL};
use super::config::READ_GROUP_INDEX;
use super::indexes::{is_readable, status_of};
use super::{DynamoStore, back_fill};
use aws_sdk_dynamodb::error::{BuildError, DisplayErrorContext};
use aws_sdk_dynamodb::operation::create_table::CreateTableError;
use aws_sdk_dynamodb::operation::describe_table::DescribeTableError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection,
    ProjectionType, ScalarAttributeType, TableDescription, TableStatus, TimeToLiveSpecification,
    TimeToLiveStatus,
};
use runtime::telemetry::Chain;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long to wait for a change of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    /// Number of looks at the table.
    pub(super) polls_max: u32,
    /// Time between two of them.
    pub(super) pause: Duration,
}

/// Two minutes, for a new table.
const UNTIL_ACTIVE: Wait = Wait { polls_max: 600, pause: Duration::from_millis(200) };

/// Kind of a key attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// A string.
    Text,
    /// A number.
    Number,
}

/// A key attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyAttribute {
    /// Its name.
    pub name: &'static str,
    /// Its kind.
    pub kind: KeyKind,
}

/// The keys of the table or of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys {
    /// Name of the index; "table" for the table itself.
    pub name: &'static str,
    /// The hash (partition) key.
    pub hash: KeyAttribute,
    /// The range (sort) key.
    pub range: KeyAttribute,
}

/// The table's own keys.
pub const TABLE_KEYS: Keys = Keys { name: "table", hash: key_text(PK), range: key_text(SK) };
/// Candidates, expiry, sweeps, lists and counts. Sparse: tombstones and claims are not in it.
pub const STATE_INDEX: Keys =
    Keys { name: "StateIndex", hash: key_text(STATE_SHARD), range: key_text(STATE_SORT) };
/// Which sandboxes a lab holds. Sparse: only what is held for a lab is in it.
pub const LAB_INDEX: Keys = Keys {
    name: "LabIndex",
    hash: key_text(HELD_LAB),
    range: KeyAttribute { name: GRANTED_AT, kind: KeyKind::Number },
};
/// What belongs to a group: the sandboxes that a lab holds. Sparse, and the successor of [`LAB_INDEX`].
pub const GROUP_INDEX: Keys = Keys { name: "GroupIndex", hash: key_text(GROUP), range: key_text(GROUP_SORT) };
/// The indexes of a new table; each projects all attributes. `LabIndex` is among them, because the build before
/// `GroupIndex` starts on no table without it.
pub const INDEXES: [Keys; 3] = [STATE_INDEX, LAB_INDEX, GROUP_INDEX];
/// The attribute of DynamoDB's time to live.
pub const TTL_ATTRIBUTE: &str = TTL;

/// What [`DynamoStore::ensure_table`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ensured {
    /// It created the table.
    Created,
    /// The table existed, with the right keys.
    Found,
}

/// Why there is no usable table.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// A call failed.
    #[error("table {table}: {operation} failed")]
    Failed {
        /// The table.
        table: String,
        /// The operation.
        operation: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Its keys or indexes differ from those that this version needs.
    #[error("table {table} has another layout: {}", differences.join("; "))]
    Differs {
        /// The table.
        table: String,
        /// What differs, one sentence each.
        differences: Vec<String>,
    },
    /// This process has to list labs from `GroupIndex`, which cannot be read yet.
    #[error(
        "table {table}: labs cannot be listed from GroupIndex ({READ_GROUP_INDEX}, or no LabIndex): {problem}; \
         `broker table index show` prints the next step (docs/operations.md)"
    )]
    GroupIndexUnusable {
        /// The table.
        table: String,
        /// What is missing.
        problem: &'static str,
    },
    /// It did not become active in time.
    #[error("table {table} is still {status} after {waited_seconds} s")]
    NotActive {
        /// The table.
        table: String,
        /// Its status.
        status: String,
        /// How long we waited.
        waited_seconds: u64,
    },
}

const fn key_text(name: &'static str) -> KeyAttribute {
    KeyAttribute { name, kind: KeyKind::Text }
}

// === impl KeyKind ===

impl KeyKind {
    fn scalar(self) -> ScalarAttributeType {
        match self {
            Self::Text => ScalarAttributeType::S,
            Self::Number => ScalarAttributeType::N,
        }
    }
}

// === impl Keys ===

impl Keys {
    /// The attribute definitions of the two keys.
    pub(super) fn attributes(&self) -> Result<Vec<AttributeDefinition>, BuildError> {
        let define = |key: KeyAttribute| {
            AttributeDefinition::builder().attribute_name(key.name).attribute_type(key.kind.scalar()).build()
        };
        [self.hash, self.range].into_iter().map(define).collect()
    }

    pub(super) fn schema(&self) -> Result<Vec<KeySchemaElement>, BuildError> {
        [(self.hash, KeyType::Hash), (self.range, KeyType::Range)]
            .into_iter()
            .map(|(key, kind)| KeySchemaElement::builder().attribute_name(key.name).key_type(kind).build())
            .collect()
    }

    fn index(&self) -> Result<GlobalSecondaryIndex, BuildError> {
        GlobalSecondaryIndex::builder()
            .index_name(self.name)
            .set_key_schema(Some(self.schema()?))
            .projection(Projection::builder().projection_type(ProjectionType::All).build())
            .build()
    }
}

// === impl DynamoStore ===

impl DynamoStore {
    /// Creates the table unless it exists, waits until it is active, checks its keys and the indexes that this process
    /// reads, and selects the index that labs are listed from.
    ///
    /// Time to live is switched on where it is off, unless the settings leave it alone. A table without it is usable, so
    /// a failure is a warning. Safe to repeat and to run concurrently.
    ///
    /// # Errors
    /// [`TableError`] when a call fails, the table has other keys or indexes, or it does not become active.
    pub async fn ensure_table(&self) -> Result<Ensured, TableError> {
        let ensured = match self.look().await? {
            Some(_) => Ensured::Found,
            None => self.create().await?,
        };
        let description = self.until(UNTIL_ACTIVE, is_active).await?;
        let labs = self.index_of_labs(&description);
        if labs == GROUP_INDEX && status_of(&description, GROUP_INDEX).is_none() {
            return Err(self.unusable("it is missing"));
        }
        let differences = differences(&description, &[STATE_INDEX, labs]);
        if !differences.is_empty() {
            return Err(TableError::Differs { table: self.table.clone(), differences });
        }
        if ensured == Ensured::Created && is_readable(&description, GROUP_INDEX) {
            // Every build that knows this index writes groups from the first record on.
            self.note_back_filled().await.map_err(|error| self.failed(back_fill::OPERATION, error))?;
        }
        if labs == GROUP_INDEX {
            self.check_group_index(&description).await?;
        }
        self.reads_group_index.store(labs == GROUP_INDEX, Ordering::Relaxed);
        if !self.ttl_is_on().await? {
            self.turn_ttl_on().await;
        }
        Ok(ensured)
    }

    async fn turn_ttl_on(&self) {
        if !self.enables_ttl {
            tracing::warn!(
                table = self.table,
                "time to live on `{TTL_ATTRIBUTE}` is off, and DYNAMODB_ENABLE_TTL leaves it so: tombstones and old claims will pile up"
            );
            return;
        }
        match self.enable_ttl().await {
            Ok(()) => tracing::info!(table = self.table, "time to live on `{TTL_ATTRIBUTE}` was switched on"),
            Err(error) => tracing::warn!(
                table = self.table,
                error = %Chain(&error),
                "time to live on `{TTL_ATTRIBUTE}` is off and cannot be switched on: tombstones and old claims will pile up; \
                 permit dynamodb:UpdateTimeToLive, or switch it on",
            ),
        }
    }

    /// `GroupIndex` if the setting says so or there is nothing else, otherwise `LabIndex`.
    pub(super) fn index_of_labs(&self, found: &TableDescription) -> Keys {
        let has_only_groups = !is_readable(found, LAB_INDEX) && status_of(found, GROUP_INDEX).is_some();
        if self.wants_group_index || has_only_groups { GROUP_INDEX } else { LAB_INDEX }
    }

    async fn check_group_index(&self, found: &TableDescription) -> Result<(), TableError> {
        let progress = self.back_fill().await.map_err(|error| self.failed(back_fill::OPERATION, error))?;
        match progress.completed_at {
            _ if !is_readable(found, GROUP_INDEX) => Err(self.unusable("it is not ACTIVE yet")),
            None => Err(self.unusable("it is not back-filled")),
            Some(_) => Ok(()),
        }
    }

    /// Waits until `condition` holds; its error is what the table still is.
    pub(super) async fn until(
        &self,
        wait: Wait,
        condition: impl Fn(&TableDescription) -> Result<(), String>,
    ) -> Result<TableDescription, TableError> {
        let mut looks = 1;
        loop {
            let status = match self.look().await? {
                Some(description) => match condition(&description) {
                    Ok(()) => return Ok(description),
                    Err(status) => status,
                },
                None => "absent".to_owned(),
            };
            if looks >= wait.polls_max {
                let waited_seconds = wait.pause.saturating_mul(looks).as_secs();
                return Err(TableError::NotActive { table: self.table.clone(), status, waited_seconds });
            }
            looks += 1;
            tokio::time::sleep(wait.pause).await;
        }
    }

    async fn create(&self) -> Result<Ensured, TableError> {
        let failed = |source: BuildError| self.failed("create_table", source);
        let mut request = self
            .client
            .create_table()
            .table_name(&self.table)
            .billing_mode(BillingMode::PayPerRequest)
            .set_key_schema(Some(TABLE_KEYS.schema().map_err(failed)?));
        let mut attributes = TABLE_KEYS.attributes().map_err(failed)?;
        for index in INDEXES {
            attributes.extend(index.attributes().map_err(failed)?);
            request = request.global_secondary_indexes(index.index().map_err(failed)?);
        }
        request = request.set_attribute_definitions(Some(attributes));
        match request.send().await {
            Ok(_) => Ok(Ensured::Created),
            Err(error) => match error.as_service_error() {
                // Another process was faster, or an earlier attempt succeeded and its reply was lost.
                Some(CreateTableError::ResourceInUseException(_)) => Ok(Ensured::Created),
                _ => Err(self.failed("create_table", error)),
            },
        }
    }

    pub(super) async fn look(&self) -> Result<Option<TableDescription>, TableError> {
        match self.client.describe_table().table_name(&self.table).send().await {
            Ok(found) => Ok(found.table),
            Err(error) => match error.as_service_error() {
                Some(DescribeTableError::ResourceNotFoundException(_)) => Ok(None),
                _ => Err(self.failed("describe_table", error)),
            },
        }
    }

    async fn enable_ttl(&self) -> Result<(), TableError> {
        let specification = TimeToLiveSpecification::builder()
            .enabled(true)
            .attribute_name(TTL_ATTRIBUTE)
            .build()
            .map_err(|source| self.failed("update_time_to_live", source))?;
        let request = self.client.update_time_to_live().table_name(&self.table);
        match request.time_to_live_specification(specification).send().await {
            Ok(_) => Ok(()),
            // DynamoDB also refuses if it is on already, with an error that only differs in its text.
            Err(error) if self.ttl_is_on().await? => {
                tracing::debug!(error = %DisplayErrorContext(&error), "time to live was on already");
                Ok(())
            }
            Err(error) => Err(self.failed("update_time_to_live", error)),
        }
    }

    pub(super) async fn ttl_is_on(&self) -> Result<bool, TableError> {
        let found = self
            .client
            .describe_time_to_live()
            .table_name(&self.table)
            .send()
            .await
            .map_err(|error| self.failed("describe_time_to_live", error))?;
        Ok(found.time_to_live_description().is_some_and(|ttl| {
            matches!(ttl.time_to_live_status(), Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling))
                && ttl.attribute_name() == Some(TTL_ATTRIBUTE)
        }))
    }

    pub(super) fn failed(
        &self,
        operation: &'static str,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> TableError {
        TableError::Failed { table: self.table.clone(), operation, source: Box::new(source) }
    }

    fn unusable(&self, problem: &'static str) -> TableError {
        TableError::GroupIndexUnusable { table: self.table.clone(), problem }
    }
}

/// Active, or updating while it serves.
pub(super) fn is_active(description: &TableDescription) -> Result<(), String> {
    match description.table_status() {
        Some(TableStatus::Active | TableStatus::Updating) => Ok(()),
        status => Err(status.map_or("unknown", TableStatus::as_str).to_owned()),
    }
}

/// Differences from the definition with these indexes. Additional indexes do no harm.
pub(super) fn differences(found: &TableDescription, needed: &[Keys]) -> Vec<String> {
    let kinds: BTreeMap<&str, &ScalarAttributeType> = found
        .attribute_definitions()
        .iter()
        .map(|key| (key.attribute_name(), key.attribute_type()))
        .collect();
    let mut differences = key_differences(TABLE_KEYS, found.key_schema(), &kinds);
    for keys in needed.iter().copied() {
        let indexes = found.global_secondary_indexes();
        let Some(index) = indexes.iter().find(|index| index.index_name() == Some(keys.name)) else {
            differences.push(format!("index {} is missing", keys.name));
            continue;
        };
        differences.extend(key_differences(keys, index.key_schema(), &kinds));
        let projection = index.projection().and_then(Projection::projection_type);
        if projection != Some(&ProjectionType::All) {
            differences.push(format!("{} does not hold whole items (projection ALL)", keys.name));
        }
    }
    differences
}

fn key_differences(
    keys: Keys,
    schema: &[KeySchemaElement],
    kinds: &BTreeMap<&str, &ScalarAttributeType>,
) -> Vec<String> {
    let mut differences = Vec::new();
    for (role, key, kind) in [("hash", keys.hash, KeyType::Hash), ("range", keys.range, KeyType::Range)] {
        let found = schema.iter().find(|part| *part.key_type() == kind).map(KeySchemaElement::attribute_name);
        let wanted = key.kind.scalar();
        match found {
            Some(name) if name == key.name => {
                let found_kind = kinds.get(name).map_or("unknown", |kind| kind.as_str());
                if found_kind != wanted.as_str() {
                    differences.push(format!(
                        "{}: {role} key {name} is of type {found_kind}, not {}",
                        keys.name,
                        wanted.as_str()
                    ));
                }
            }
            found => differences.push(format!(
                "{}: {role} key is {}, not {}",
                keys.name,
                found.unwrap_or("missing"),
                key.name
            )),
        }
    }
    differences
}
