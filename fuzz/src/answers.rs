//! Answers of the provider and the table: a page of the CSP's listing, and a stored item.

use crate::{is_one_line, split_line};
use domain::HISTORY_ENTRIES_MAX;
use ports::provider::ProviderError;
use ports::store::StoreError;
use serde_json::Value;

/// Requested page size.
const PAGE_SIZE: usize = 4;
/// Offset of the page.
const OFFSET: u64 = 8;
/// Bytes that a listing may have in addition to those of its answer, per entry: error texts, and characters that need
/// escaping in them.
const WORDS_OF_ENTRY_BYTES: usize = 128;
const ESCAPED_BYTES_MAX: usize = 8;

/// Parsed data is complete, and not larger than its input.
pub fn hold(input: &[u8]) {
    match split_line(input) {
        Some(("listing", body)) => listing(body),
        Some(("item", body)) => item(body),
        _ => {}
    }
}

fn listing(body: &[u8]) {
    let answer: Option<Value> = serde_json::from_slice(body).ok();
    let entries = answer.as_ref().and_then(|answer| answer.get("results")?.as_array()).map(Vec::len);
    match csp::fuzz_support::listing_page(body, OFFSET, PAGE_SIZE) {
        Err(ProviderError::Malformed { message }) => assert!(!message.is_empty()),
        Err(other) => assert_eq!(other.to_string(), "", "a body can only be garbled"),
        Ok(listing) => {
            let entries = entries.expect("a listing has results");
            let counted = listing.accounts.len() + listing.malformed.len() + listing.ignored;
            assert_eq!(counted, entries, "entries are lost");
            assert!(listing.next.is_none_or(|next| next > OFFSET), "a page that leads back");
            let mut bytes = 0;
            for account in &listing.accounts {
                assert!(!account.id.trim().is_empty(), "a sandbox without an id");
                assert!(!account.external_id.trim().is_empty(), "a sandbox that the provider cannot find");
                assert!(!account.name.trim().is_empty(), "a sandbox without a name");
                bytes += account.id.len() + account.external_id.len() + account.name.len();
            }
            bytes += listing.malformed.iter().map(|entry| entry.reason.len()).sum::<usize>();
            let most = ESCAPED_BYTES_MAX * body.len() + WORDS_OF_ENTRY_BYTES * entries;
            assert!(bytes <= most, "{bytes} bytes of an answer with {}", body.len());
        }
    }
}

fn item(body: &[u8]) {
    let Ok(answer) = serde_json::from_slice::<Value>(body) else { return };
    match dynamodb::fuzz_support::stored_item(&answer) {
        None => {}
        Some(Err(StoreError::Corrupt { attribute, problem, .. })) => {
            assert!(!attribute.is_empty() && !problem.is_empty(), "a mistake without a place");
        }
        Some(Err(other)) => assert_eq!(other.to_string(), "", "an item can only be corrupt"),
        Some(Ok(sandbox)) => {
            assert!(is_one_line(sandbox.id.as_str()) && is_one_line(sandbox.name.as_str()));
            let mut again =
                dynamodb::fuzz_support::stored_again(&sandbox).expect("what was read can be stored");
            // An entry with an unknown cause or state is left out, and the versions of earlier entries follow from the
            // remaining positions.
            let stored = answer.pointer("/history/L").and_then(Value::as_array).map_or(0, Vec::len);
            if sandbox.history.len() < stored.min(HISTORY_ENTRIES_MAX) {
                again.history.clone_from(&sandbox.history);
            }
            assert_eq!(again, sandbox, "it changed on its way");
        }
    }
}
