//! A store that breaks off at a chosen call. It lives beside the store port, because the services' own tests use
//! it as well.

pub use common::store::faulty::{Fault, FaultyStore};
