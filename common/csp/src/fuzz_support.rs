//! A way in for the fuzz targets to the parser of listings. Nothing else may use it; a test of the sources sees to that.

use ports::provider::{Listing, ProviderError};

/// One page of the CSP's listing, from the bytes of its answer to a request for `page_size` accounts from `offset` on.
///
/// # Errors
/// When it is no listing.
pub fn listing_page(body: &[u8], offset: u64, page_size: usize) -> Result<Listing, ProviderError> {
    crate::listing_of(body, offset, page_size)
}
