//! The real supervisor with real processes. It needs root, as CI is, and `unshare` and `setpriv` of util-linux.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy spares test functions only, and the rig beside them has to fail loudly too"
)]

mod attach;
mod confinement;
mod hostile;
mod kill;
mod rig;
mod run;
