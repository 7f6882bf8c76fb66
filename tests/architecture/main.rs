//! The tidy test: the rules of the house that a compiler cannot see, read from the source as it lies on disk.
//!
//! Each module holds one family of rules as pure functions over a [`tree::Tree`], a test that holds the real
//! tree to them, and tests that show on a small example that each rule bites. A rule that is in the way is
//! changed here, in the open, and not worked around.

mod crates;
mod forbidden_code;
mod links;
mod ports;
mod services;
mod shape;
mod tree;
