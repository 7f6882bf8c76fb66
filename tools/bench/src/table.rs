//! The table to measure or fill, from the usual settings.

use anyhow::bail;
use broker::up::Overlay;
use domain::{LeasePolicy, Pools};
use dynamodb::{DynamoConfig, DynamoStore};
use runtime::pools::read_pools;
use runtime::settings::{Env, Settings};
use std::sync::Arc;

/// Time-out of one attempt of a call: a slow answer is measured, not retried.
const ATTEMPT_TIMEOUT_MS: &str = "10000";
/// Time-out of a call with all its attempts.
const OPERATION_TIMEOUT_MS: &str = "30000";

/// Which table.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(skip)]
pub struct Options {
    /// DynamoDB of AWS, instead of an engine at `DYNAMODB_ENDPOINT`. It costs money.
    #[arg(long, value_name = "aws", value_parser = ["aws"])]
    pub dynamodb: Option<String>,
}

/// An existing table, and the pools of its fleet.
pub(super) struct Table {
    pub(super) store: Arc<DynamoStore>,
    pub(super) pools: Pools,
}

// === impl Options ===

impl Options {
    /// Opens the table, and creates it if necessary.
    pub(super) async fn open(&self, env: &dyn Env) -> anyhow::Result<Table> {
        let mut overlay = Overlay::over(env);
        overlay.set_default("STORE_ATTEMPT_TIMEOUT_MS", ATTEMPT_TIMEOUT_MS);
        overlay.set_default("STORE_OPERATION_TIMEOUT_MS", OPERATION_TIMEOUT_MS);
        if self.dynamodb.is_some() {
            overlay.set("DYNAMODB_ENDPOINT", "");
        } else if env.get("DYNAMODB_ENDPOINT").is_none() {
            // A forgotten variable must not fill a table at AWS.
            bail!("DYNAMODB_ENDPOINT is not set; for a table of AWS itself, say --dynamodb aws");
        }
        let mut settings = Settings::new(&overlay);
        let (config, pools) = (DynamoConfig::read(&mut settings), read_pools(&mut settings));
        let (config, pools) = settings.finish((config, pools))?;
        let pools = Pools::new(pools.specs, LeasePolicy::default());
        let store = DynamoStore::connect(&config).await;
        store.ensure_table().await?;
        Ok(Table { store: Arc::new(store), pools })
    }
}
