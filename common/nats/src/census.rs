//! The last census, under a key of the bucket.

use super::publish::encode;
use super::{NatsBus, failed};
use async_trait::async_trait;
use contract::Census;
use ports::bus::{BusError, CensusStore};

/// Key of the last census.
const CENSUS_KEY: &str = "census";

#[async_trait]
impl CensusStore for NatsBus {
    async fn keep_census(&self, census: &Census) -> Result<(), BusError> {
        const OPERATION: &str = "keep a census";
        let value = encode(census, OPERATION)?;
        self.bucket().await?.put(CENSUS_KEY, value).await.map(|_| ()).map_err(failed(OPERATION))
    }

    async fn last_census(&self) -> Result<Option<Census>, BusError> {
        const OPERATION: &str = "read the census";
        let Some(value) = self.bucket().await?.get(CENSUS_KEY).await.map_err(failed(OPERATION))? else {
            return Ok(None);
        };
        serde_json::from_slice(&value).map(Some).map_err(failed(OPERATION))
    }
}
