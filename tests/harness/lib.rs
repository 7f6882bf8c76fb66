//! What several suites of tests need: engines to run against, and ways to break things on purpose.

pub mod dynamodb;
pub mod dynamodb_local;
pub mod faulty_store;
pub mod lossy_proxy;
