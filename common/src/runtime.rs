//! What every role needs around its work: settings, log lines, an orderly stop, and its own small HTTP port.

pub mod ops;
pub mod settings;
pub mod shutdown;
pub mod telemetry;
