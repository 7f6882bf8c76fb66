//! Parses one page of the CSP's account listing. No I/O.

use domain::Descriptor;
use ports::provider::{Account, Listing, Malformed, ProviderError};
use serde_json::{Map, Value};

/// The CSP's type of sandbox accounts.
const SANDBOX_TYPE: &str = "sandbox";
/// The CSP's state of active accounts.
const ACTIVE_STATE: &str = "active";

/// One page, with the id of its first entry and the stated total, by which a server that ignores paging is detected.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) listing: Listing,
    pub(super) first_id: Option<String>,
    pub(super) total: Option<u64>,
}

enum Entry {
    Account(Account),
    Ignored(Option<String>),
    Malformed(Malformed),
}

/// Parses the answer to a request for `page_size` entries from `offset` on. A malformed entry is counted with its
/// reason and does not affect the other entries.
pub(super) fn read(body: &Value, offset: u64, page_size: usize) -> Result<Page, ProviderError> {
    let Some(results) = body.get("results").and_then(Value::as_array) else {
        return Err(ProviderError::Malformed { message: "a listing without results".to_owned() });
    };
    let mut listing = Listing { next: next(body, offset, results.len(), page_size)?, ..Listing::default() };
    for (index, entry) in results.iter().enumerate() {
        match read_entry(entry) {
            Ok(Entry::Account(account)) => listing.accounts.push(account),
            Ok(Entry::Ignored(id)) => {
                listing.ignored += 1;
                listing.ignored_ids.extend(id);
            }
            Ok(Entry::Malformed(malformed)) => listing.malformed.push(malformed),
            Err(NotAnObject) => {
                let reason = format!("entry {} is no object", offset + index as u64);
                listing.malformed.push(Malformed { reason, ..Malformed::default() });
            }
        }
    }
    let first_id = results.first().and_then(|first| first.get("id")?.as_str()).map(str::to_owned);
    Ok(Page { listing, first_id, total: total(body) })
}

/// The total number of entries that the server states.
fn total(body: &Value) -> Option<u64> {
    body.get("page").and_then(|page| page.get("total")).and_then(Value::as_u64)
}

/// Where the next page begins. After a full page there may always be more. After a short page there is more only if the
/// server states so, because it may limit pages below the requested size. More entries than requested mean that the
/// server ignores paging and returned everything.
fn next(body: &Value, offset: u64, count: usize, page_size: usize) -> Result<Option<u64>, ProviderError> {
    if count > page_size {
        return Ok(None);
    }
    let end = offset.saturating_add(count as u64);
    let says_more = total(body).is_some_and(|total| total > end);
    if says_more && count == 0 {
        let message = format!("the listing ends at {end} although it says that there is more");
        return Err(ProviderError::Malformed { message });
    }
    Ok((says_more || count == page_size).then_some(end))
}

struct NotAnObject;

fn read_entry(entry: &Value) -> Result<Entry, NotAnObject> {
    let entry = entry.as_object().ok_or(NotAnObject)?;
    let external_id = text(entry, "id");
    if text(entry, "account_type") != Some(SANDBOX_TYPE) || text(entry, "state") != Some(ACTIVE_STATE) {
        return Ok(Entry::Ignored(external_id.map(str::to_owned)));
    }
    let csp_id = match entry.get("csp_id") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) if number.is_u64() => Ok(Some(number.to_string())),
        Some(Value::String(csp_id)) if !csp_id.trim().is_empty() => Ok(Some(csp_id.trim().to_owned())),
        Some(_) => Err(()),
    };
    let malformed = |reason: String, id: Option<String>| {
        Ok(Entry::Malformed(Malformed { reason, id, external_id: external_id.map(str::to_owned) }))
    };
    let Some(account) = external_id else {
        let shown = entry.get("csp_id").cloned().unwrap_or(Value::Null);
        return malformed(format!("account without id (csp_id {shown})"), csp_id.ok().flatten());
    };
    let Ok(csp_id) = csp_id else {
        return malformed(format!("account {account:?} with a csp_id that is no id"), None);
    };
    let id = csp_id.unwrap_or_else(|| last_segment(account).trim().to_owned());
    if id.is_empty() {
        return malformed(format!("account {account:?} whose id has no last segment"), None);
    }
    let name = text(entry, "name").map_or_else(|| format!("sandbox-{id}"), str::to_owned);
    let sfdc_account_id = text(entry, "sfdc_account_id");
    let descriptor =
        sfdc_account_id.map(|id| (Descriptor::SFDC_ACCOUNT_ID, id.to_owned())).into_iter().collect();
    Ok(Entry::Account(Account { id, external_id: account.to_owned(), name, descriptor }))
}

/// The text under `key`; none if it is missing, blank or not a text.
fn text<'a>(entry: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    entry.get(key).and_then(Value::as_str).filter(|text| !text.trim().is_empty())
}

fn last_segment(external_id: &str) -> &str {
    external_id.rsplit('/').next().unwrap_or(external_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sandbox(csp_id: Value, id: Value) -> Value {
        json!({"account_type": "sandbox", "state": "active", "csp_id": csp_id, "id": id, "name": "lab-1",
               "sfdc_account_id": "001"})
    }

    fn listing(results: Value) -> Listing {
        read(&json!({ "results": results }), 0, 100).unwrap().listing
    }

    #[test]
    fn only_active_sandbox_accounts_are_listed() {
        let listing = listing(json!([
            sandbox(json!(7), json!("identity/accounts/u-7")),
            {"account_type": "standard", "state": "active", "id": "identity/accounts/u-1", "csp_id": 1},
            {"account_type": "sandbox", "state": "disabled", "id": "identity/accounts/u-2", "csp_id": 2},
            {"id": "identity/accounts/u-3"},
        ]));
        assert_eq!(listing.ignored, 3);
        assert_eq!(
            listing.accounts,
            [Account {
                id: "7".to_owned(),
                external_id: "identity/accounts/u-7".to_owned(),
                name: "lab-1".to_owned(),
                descriptor: vec![(Descriptor::SFDC_ACCOUNT_ID, "001".to_owned())],
            }]
        );
    }

    #[test]
    fn missing_id_falls_back_to_the_last_segment() {
        let nothing = sandbox(json!(null), json!("identity/accounts/u-8"));
        let mut missing = nothing.clone();
        missing.as_object_mut().unwrap().remove("csp_id");
        let listing =
            listing(json!([nothing, missing, sandbox(json!(" 9 "), json!("identity/accounts/u-9"))]));
        let ids: Vec<&str> = listing.accounts.iter().map(|account| account.id.as_str()).collect();
        assert_eq!(ids, ["u-8", "u-8", "9"]);
    }

    #[test]
    fn missing_fields_are_none_or_derived_from_the_id() {
        let bare = json!({"account_type": "sandbox", "state": "active", "id": "identity/accounts/u", "csp_id": 4,
                          "sfdc_account_id": "", "name": null});
        let account = listing(json!([bare])).accounts.remove(0);
        assert_eq!(account.name, "sandbox-4");
        assert_eq!(account.descriptor, []);
    }

    #[test]
    fn malformed_entry_is_counted_and_skipped() {
        let listing = listing(json!([
            sandbox(json!(1), json!(null)),
            sandbox(json!(-2), json!("identity/accounts/u-2")),
            sandbox(json!(null), json!("identity/accounts/")),
            sandbox(json!(null), json!("identity/accounts/  ")),
            sandbox(json!([3]), json!("identity/accounts/u-3")),
            "text",
            sandbox(json!(5), json!("identity/accounts/u-5")),
        ]));
        assert_eq!(listing.accounts.len(), 1);
        assert_eq!(listing.malformed.len(), 6);
        assert_eq!(listing.malformed[0].reason, "account without id (csp_id 1)");
        assert_eq!(listing.malformed[5].reason, "entry 5 is no object");
        // The readable parts tell which sandboxes the entry may be about.
        let read = listing.malformed.iter().map(|entry| (entry.id.as_deref(), entry.external_id.as_deref()));
        let expected = [
            (Some("1"), None),
            (None, Some("identity/accounts/u-2")),
            (None, Some("identity/accounts/")),
            (None, Some("identity/accounts/  ")),
            (None, Some("identity/accounts/u-3")),
            (None, None),
        ];
        assert!(read.eq(expected));
    }

    #[test]
    fn response_without_results_is_an_error() {
        for body in [json!({}), json!({"results": null}), json!([]), json!({"error": []})] {
            assert!(matches!(read(&body, 0, 10), Err(ProviderError::Malformed { .. })), "{body}");
        }
    }

    #[test]
    fn next_page_is_derived_from_count_or_total() {
        let page = |count: usize, total: Option<u64>| {
            let results: Vec<Value> =
                (0..count).map(|n| sandbox(json!(n), json!(format!("x/{n}")))).collect();
            let page = total.map_or(json!({}), |total| json!({ "total": total }));
            read(&json!({"results": results, "page": page}), 20, 10).map(|page| page.listing.next)
        };
        assert_eq!(page(10, None), Ok(Some(30)), "a full page");
        assert_eq!(page(9, None), Ok(None), "a short page");
        assert_eq!(page(0, None), Ok(None), "an empty page");
        assert_eq!(page(11, None), Ok(None), "a server that ignores paging");
        assert_eq!(page(10, Some(30)), Ok(Some(30)), "a full page, whatever is said");
        assert_eq!(page(0, Some(20)), Ok(None), "an empty page after the last");
        assert_eq!(page(5, Some(40)), Ok(Some(25)), "a server that caps pages");
        assert!(page(0, Some(40)).is_err(), "a listing that breaks off");
    }
}
