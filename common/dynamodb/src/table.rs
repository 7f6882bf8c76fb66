//! The table: its definition, its creation and its check.

use super::DynamoStore;
use super::attributes::{GRANTED_AT, HELD_LAB, PK, SK, STATE_SHARD, STATE_SORT, TTL};
use aws_sdk_dynamodb::error::{BuildError, DisplayErrorContext};
use aws_sdk_dynamodb::operation::create_table::CreateTableError;
use aws_sdk_dynamodb::operation::describe_table::DescribeTableError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection,
    ProjectionType, ScalarAttributeType, TableDescription, TableStatus, TimeToLiveSpecification,
    TimeToLiveStatus,
};
use std::collections::BTreeMap;
use std::time::Duration;

/// Number of polls, [`POLL_PAUSE`] apart, until a new table has to be active: two minutes.
const POLLS_MAX: u32 = 600;
/// Time between two polls of a table that is not active yet.
const POLL_PAUSE: Duration = Duration::from_millis(200);

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
/// Every index; each projects all attributes.
pub const INDEXES: [Keys; 2] = [STATE_INDEX, LAB_INDEX];
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
    fn schema(&self) -> Result<Vec<KeySchemaElement>, BuildError> {
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
    /// Creates the table unless it exists, waits until it is active, and checks its keys and indexes.
    ///
    /// Time to live is enabled on a table that was created here. On an existing table, only a warning says that it is
    /// off, because the owner of that table decides about the cost. Safe to repeat and to run concurrently.
    ///
    /// # Errors
    /// [`TableError`] when a call fails, the table has other keys or indexes, or it does not become active.
    pub async fn ensure_table(&self) -> Result<Ensured, TableError> {
        let (mut ensured, mut active) = (Ensured::Found, self.look().await?);
        if active.is_none() {
            ensured = self.create().await?;
            active = self.look().await?;
        }
        let mut looks = 1;
        let description = loop {
            match active {
                Some(description) if is_active(&description) => break description,
                description if looks >= POLLS_MAX => return Err(self.not_active(description.as_ref())),
                _ => tokio::time::sleep(POLL_PAUSE).await,
            }
            looks += 1;
            active = self.look().await?;
        };
        let differences = differences(&description);
        if !differences.is_empty() {
            return Err(TableError::Differs { table: self.table.clone(), differences });
        }
        if ensured == Ensured::Created {
            self.enable_ttl().await?;
        } else if !self.ttl_is_on().await? {
            tracing::warn!(
                table = self.table,
                "time to live on `{TTL_ATTRIBUTE}` is off: tombstones and old claims will pile up"
            );
        }
        Ok(ensured)
    }

    async fn create(&self) -> Result<Ensured, TableError> {
        let failed = |source: BuildError| self.failed("create_table", source);
        let mut request = self
            .client
            .create_table()
            .table_name(&self.table)
            .billing_mode(BillingMode::PayPerRequest)
            .set_key_schema(Some(TABLE_KEYS.schema().map_err(failed)?));
        for keys in [TABLE_KEYS, STATE_INDEX, LAB_INDEX] {
            for key in [keys.hash, keys.range] {
                let definition =
                    AttributeDefinition::builder().attribute_name(key.name).attribute_type(key.kind.scalar());
                request = request.attribute_definitions(definition.build().map_err(failed)?);
            }
        }
        for index in INDEXES {
            request = request.global_secondary_indexes(index.index().map_err(failed)?);
        }
        match request.send().await {
            Ok(_) => Ok(Ensured::Created),
            Err(error) => match error.as_service_error() {
                // Another process was faster, or an earlier attempt succeeded and its reply was lost. Either way the
                // table is new, so time to live has to be enabled here.
                Some(CreateTableError::ResourceInUseException(_)) => Ok(Ensured::Created),
                _ => Err(self.failed("create_table", error)),
            },
        }
    }

    async fn look(&self) -> Result<Option<TableDescription>, TableError> {
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

    async fn ttl_is_on(&self) -> Result<bool, TableError> {
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

    fn failed(
        &self,
        operation: &'static str,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> TableError {
        TableError::Failed { table: self.table.clone(), operation, source: Box::new(source) }
    }

    fn not_active(&self, description: Option<&TableDescription>) -> TableError {
        let status = description.and_then(TableDescription::table_status);
        TableError::NotActive {
            table: self.table.clone(),
            status: status.map_or("absent", TableStatus::as_str).to_owned(),
            waited_seconds: POLL_PAUSE.saturating_mul(POLLS_MAX).as_secs(),
        }
    }
}

/// Active, or updating while it serves.
fn is_active(description: &TableDescription) -> bool {
    matches!(description.table_status(), Some(TableStatus::Active | TableStatus::Updating))
}

/// Differences from the definition. Additional indexes do no harm.
fn differences(found: &TableDescription) -> Vec<String> {
    let kinds: BTreeMap<&str, &ScalarAttributeType> = found
        .attribute_definitions()
        .iter()
        .map(|key| (key.attribute_name(), key.attribute_type()))
        .collect();
    let mut differences = key_differences(TABLE_KEYS, found.key_schema(), &kinds);
    for keys in INDEXES {
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
