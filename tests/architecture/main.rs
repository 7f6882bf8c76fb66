//! Rules that the compiler cannot check, applied to the source files.
//!
//! Each module has one family of rules as pure functions over a [`tree::Tree`], a test that applies them to the
//! repository, and tests with a small example that violates each rule. If a rule is wrong, change it here and do not
//! work around it.

mod crates;
mod forbidden_code;
mod links;
mod ports;
mod services;
mod shape;
mod tree;
