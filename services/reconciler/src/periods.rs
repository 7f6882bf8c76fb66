//! Periods of pools: the shortest one is requested from the schedulers, and a sync that a scheduler started leaves out
//! the providers whose listing is not due.

use crate::Reconciler;
use contract::{TickKind, TickOrder};
use domain::ProviderName;
use ports::bus::{BusError, Periodic, TickTurn};
use runtime::pools::POOLS_REFRESH_PERIOD;
use runtime::telemetry::Chain;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

// === impl Reconciler ===

impl Reconciler {
    /// Requests the period of the pools whenever it has changed, until `stop`. The sweep repeats the request.
    pub(crate) async fn request_periods_until(&self, stop: CancellationToken) {
        let mut last = None;
        while !stop.is_cancelled() {
            let period = self.sync_period();
            if last != Some(period) {
                match self.request_periods().await {
                    Ok(()) => last = Some(period),
                    Err(error) => tracing::debug!(error = %Chain(&error), "no period requested yet"),
                }
            }
            tokio::select! {
                () = self.ports.clock.sleep(POOLS_REFRESH_PERIOD) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Requests the shortest period of the pools from the schedulers.
    pub(crate) async fn request_periods(&self) -> Result<(), BusError> {
        self.ports.turns.request_period(TickKind::SYNC, self.sync_period()).await
    }

    fn sync_period(&self) -> Option<Duration> {
        self.ports.pools.current().sync_periods().into_values().min()
    }

    /// Whether a sync reads the listing of `provider`, which then was its turn: always, unless a scheduler started the
    /// sync and pools have periods.
    pub(crate) async fn is_listing_due(
        &self,
        provider: &ProviderName,
        order: &TickOrder,
    ) -> Result<bool, BusError> {
        let Some(seconds) = order.period_seconds else { return Ok(true) };
        let pools = self.ports.pools.current();
        let periods = pools.sync_periods();
        if periods.is_empty() {
            return Ok(true);
        }
        let of_settings = Duration::from_secs(seconds);
        let period = periods.get(provider).copied().unwrap_or(of_settings);
        let between_ticks = periods.into_values().fold(of_settings, Duration::min);
        let of = Periodic::Listing(provider);
        let last = self.ports.turns.last_turn(of).await?;
        // The nearest tick counts, because runs do not begin punctually.
        if last.as_ref().is_some_and(|last| self.age_of(provider, last) + between_ticks / 2 <= period) {
            return Ok(false);
        }
        let taken = self.ports.turns.take_turn(of, last.as_ref()).await?;
        // From now on its age is known.
        self.known_since(provider, taken.revision);
        Ok(true)
    }

    /// The age of a turn: what the bus knows of it, or how long this process has known it.
    fn age_of(&self, provider: &ProviderName, turn: &TickTurn) -> Duration {
        let since = self.known_since(provider, turn.revision);
        self.ports.clock.monotonic().saturating_sub(since).max(turn.age)
    }

    /// Since when this process knows the turn, on the monotonic clock.
    fn known_since(&self, provider: &ProviderName, revision: u64) -> Duration {
        let now = self.ports.clock.monotonic();
        let mut listings = self.listings.lock();
        match listings.get(provider) {
            Some((known, since)) if *known == revision => *since,
            _ => {
                listings.insert(provider.clone(), (revision, now));
                now
            }
        }
    }
}

#[cfg(test)]
mod tests;
