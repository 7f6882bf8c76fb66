//! The table: keys, indexes, time to live, and the settings that all processes on it share.

use super::{Fault, Findings};
use dynamodb::examine::TableFault;
use dynamodb::{DynamoConfig, DynamoStore};
use ports::store::{Agreed, Layout as _};
use runtime::agreement::differences;
use runtime::telemetry::Chain;

const TABLE: &str = "table";
const INDEXES: &str = "indexes";
const TTL: &str = "ttl";

/// Checks the table.
pub(super) async fn examine(config: &DynamoConfig, own: &Agreed, findings: &mut Findings) {
    let store = DynamoStore::connect(config).await;
    let faults = match store.table_faults().await {
        Ok(faults) => faults,
        Err(error) => return findings.fail(TABLE, Fault::TableUnreachable, Chain(&error).to_string()),
    };
    let name = store.table_name();
    let mut troubled = Vec::new();
    for fault in faults {
        let (check, named, detail) = match fault {
            TableFault::Missing => {
                return findings.fail(TABLE, Fault::TableMissing, format!("there is no table {name}"));
            }
            TableFault::NotActive(status) => {
                let detail = format!("{name} does not serve: it is {status}");
                return findings.fail(TABLE, Fault::TableUnreachable, detail);
            }
            TableFault::KeysDiffer(differences) => (TABLE, Fault::TableDiffers, differences.join("; ")),
            TableFault::IndexMissing(index) => (INDEXES, Fault::IndexMissing, format!("{index} is missing")),
            TableFault::IndexNotReady { name, status } => {
                (INDEXES, Fault::IndexNotReady, format!("{name} is {status}"))
            }
            TableFault::TimeToLiveOff => {
                findings.warn(TTL, Fault::TtlOff, "is off");
                troubled.push(TTL);
                continue;
            }
        };
        findings.fail(check, named, detail);
        troubled.push(check);
    }
    for (check, detail) in [(TABLE, "answers"), (INDEXES, "can be read"), (TTL, "is on")] {
        if !troubled.contains(&check) {
            findings.ok(check, detail);
        }
    }
    match store.agreed().await {
        Ok(kept) => {
            let differences = differences(own, &kept);
            if differences.is_empty() {
                findings.ok("agreement", "the shared settings are those of this environment");
            } else {
                findings.fail("agreement", Fault::SharedSettingsDiffer, differences.join("; "));
            }
        }
        Err(error) => findings.fail("agreement", Fault::TableUnreachable, Chain(&error).to_string()),
    }
}
