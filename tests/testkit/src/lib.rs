//! Fakes of the ports, and what stands between a caller and a store to make it fail: for tests and simulations only. No
//! service depends on it but for its tests.

pub mod bus;
pub mod clock;
pub mod faulty;
pub mod interposed;
pub mod provider;
pub mod secrets;
pub mod store;
