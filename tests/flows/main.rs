//! The stories of the broker on a whole fleet: real NATS, real HTTP, a real table, a CSP that answers over HTTP.

mod binary;
mod census;
mod claims;
mod clearing;
mod client;
mod contention;
mod deletions;
mod doors;
mod killed;
mod late_attempts;
mod ledger;
mod line;
mod odd;
mod orders;
mod pool;
mod queue;
mod records;
mod replay;
mod shutdown;
mod skew;
mod slots;
mod stalled;
mod tick_command;
mod ticks;
mod tokens;
mod watching;
