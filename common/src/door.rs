//! A way in for the fuzz targets to parsers of outside bytes that are private otherwise. Nothing else may use it; a
//! test of the sources sees to that.

use crate::domain::Sandbox;
use crate::provider::{Listing, ProviderError, csp};
use crate::store::StoreError;
use crate::store::dynamodb::door;
use serde_json::Value;

/// One page of the CSP's listing, from the bytes of its answer to a request for `page_size` accounts from `offset` on.
///
/// # Errors
/// When it is no listing.
pub fn listing_page(body: &[u8], offset: u64, page_size: usize) -> Result<Listing, ProviderError> {
    csp::listing_of(body, offset, page_size)
}

/// The sandbox of an item in DynamoDB's JSON (`{"PK": {"S": "…"}, …}`); none if it is no such JSON.
pub fn stored_item(item: &Value) -> Option<Result<Sandbox, StoreError>> {
    door::sandbox_of_json(item)
}

/// The sandbox after it was written as an item and read again.
///
/// # Errors
/// When it cannot be read.
pub fn stored_again(sandbox: &Sandbox) -> Result<Sandbox, StoreError> {
    door::stored_again(sandbox)
}
