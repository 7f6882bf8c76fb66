//! Opens the parser of listings to the fuzz targets. No other code may use it; `tests/architecture` checks that.

use ports::provider::{Listing, ProviderError};

/// Parses the answer to a request for `page_size` accounts from `offset` on.
///
/// # Errors
/// When the answer is not a listing.
pub fn listing_page(body: &[u8], offset: u64, page_size: usize) -> Result<Listing, ProviderError> {
    crate::listing_of(body, offset, page_size)
}
