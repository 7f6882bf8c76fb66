//! The highest mark of the table.

use super::MemoryBus;
use async_trait::async_trait;
use contract::KnownMark;
use ports::bus::{BusError, TableMarks};

const OPERATION: &str = "keep the mark of the table";

#[async_trait]
impl TableMarks for MemoryBus {
    async fn known_mark(&self) -> Result<Option<KnownMark>, BusError> {
        self.read(OPERATION, |inside| inside.mark)
    }

    async fn raise_mark(&self, mark: KnownMark) -> Result<(), BusError> {
        self.read(OPERATION, |_| ())?;
        self.change(|inside, _| {
            if inside.mark.is_none_or(|known| known.number < mark.number) {
                inside.mark = Some(mark);
            }
        });
        Ok(())
    }

    fn is_reachable(&self) -> bool {
        self.read(OPERATION, |_| ()).is_ok()
    }
}

impl MemoryBus {
    /// Drops the mark, like a recreated bucket.
    pub fn forget_mark(&self) {
        self.change(|inside, _| inside.mark = None);
    }
}
