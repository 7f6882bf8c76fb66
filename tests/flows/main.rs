//! The stories of the broker on a whole fleet: real NATS, real HTTP, a real table, a CSP that answers over HTTP.

mod binary;
mod census;
mod claims;
mod contention;
mod deletions;
mod doors;
mod killed;
mod ledger;
mod line;
mod pool;
mod replay;
mod shutdown;
mod slots;
mod tick_command;
mod ticks;
mod tokens;
