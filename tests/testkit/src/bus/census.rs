//! The last census.

use super::{Call, MemoryBus};
use async_trait::async_trait;
use contract::Census;
use ports::bus::{BusError, CensusStore};

#[async_trait]
impl CensusStore for MemoryBus {
    async fn keep_census(&self, census: &Census) -> Result<(), BusError> {
        self.call(Call::KeepCensus, |inside, _| inside.census = Some(census.clone()))
    }

    async fn last_census(&self) -> Result<Option<Census>, BusError> {
        self.read("read the census", |inside| inside.census.clone())
    }
}
