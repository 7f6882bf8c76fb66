//! What every role needs: settings, logging, an orderly stop, and rules that several adapters share.

pub mod agreement;
pub mod check;
pub mod metrics;
pub mod policy;
pub mod pools;
pub mod predecessor;
pub mod recorder;
pub mod requests;
pub mod restored;
pub mod server_time;
pub mod settings;
pub mod shutdown;
pub mod skew;
pub mod switch;
pub mod telemetry;
pub mod throttle;
pub mod ticks;
pub mod upkeep;
