//! What this process knows about the containers of its node: the one place from which capacity, leases and timers are
//! derived.

use crate::capacity::{Demand, Reservations};
use crate::state::{Entries, Entry, StateFolder};
use contract::ProvisionLane;
use contract::nodes::NodeLease;
use domain::SandboxId;
use parking_lot::Mutex;
use ports::engine::Incarnation;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use tokio::sync::Notify;

/// The containers of a node.
#[derive(Debug)]
pub(crate) struct Containers {
    offered: Demand,
    folder: Arc<StateFolder>,
    inside: Mutex<Inside>,
    /// The revision that is on the disk. Held while one is written.
    written: Arc<tokio::sync::Mutex<u64>>,
    /// Notified when a deadline may have changed.
    deadlines: Notify,
}

#[derive(Debug, Default)]
struct Inside {
    known: BTreeMap<Incarnation, Known>,
    reservations: Reservations,
    /// Grows with every change that is written.
    revision: u64,
}

#[derive(Debug)]
struct Known {
    entry: Entry,
    /// Whether work in progress of this process creates it.
    is_creating: bool,
    /// Whether its lease is over here, and it was stopped.
    is_stopped: bool,
    /// Not to be asked about again before this moment.
    asked_until_ms: u64,
}

/// A container whose lease and grace are over, as far as this node knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    /// The container.
    pub(crate) incarnation: Incarnation,
    /// Its sandbox.
    pub(crate) sandbox: SandboxId,
    /// The lease.
    pub(crate) lease: NodeLease,
}

/// A creation in progress, until it is dropped.
pub(crate) struct Creating<'a> {
    containers: &'a Containers,
    incarnation: Incarnation,
}

// === impl Containers ===

impl Containers {
    /// The containers that the last runner knew, on a node that offers this much.
    pub(crate) fn new(offered: Demand, folder: StateFolder, entries: Entries) -> Self {
        let known = entries.into_iter().map(|(incarnation, entry)| (incarnation, Known::of(entry)));
        let inside = Inside { known: known.collect(), ..Inside::default() };
        Self {
            offered,
            folder: Arc::new(folder),
            inside: Mutex::new(inside),
            written: Arc::default(),
            deadlines: Notify::new(),
        }
    }

    /// What all containers together may use.
    pub(crate) const fn offered(&self) -> Demand {
        self.offered
    }

    /// What containers use, and what is promised beside it.
    pub(crate) fn used(&self) -> (Demand, Demand) {
        let inside = self.inside.lock();
        (inside.used(), inside.reservations.promised())
    }

    /// Reserves at most `places` for containers that use `one`.
    pub(crate) fn reserve(&self, lane: &ProvisionLane, one: Demand, places: usize) -> usize {
        let mut inside = self.inside.lock();
        let used = inside.used();
        inside.reservations.reserve(lane, one, places, used, self.offered)
    }

    /// Gives a place back.
    pub(crate) fn release(&self, lane: &ProvisionLane) {
        self.inside.lock().reservations.release(lane);
    }

    /// Begins a creation with a reservation of `lane`; none if there is no room.
    pub(crate) fn begin(
        &self,
        lane: &ProvisionLane,
        incarnation: Incarnation,
        entry: Entry,
    ) -> Option<Creating<'_>> {
        let mut inside = self.inside.lock();
        let used = inside.used();
        if !inside.reservations.exchange(lane, entry.demand, used, self.offered) {
            return None;
        }
        inside.known.insert(incarnation, Known { is_creating: true, ..Known::of(entry) });
        inside.revision += 1;
        // Its lease may be the next to end.
        self.deadlines.notify_one();
        Some(Creating { containers: self, incarnation })
    }

    /// Marks a container as that of work in progress; none if it is unknown.
    pub(crate) fn resume(&self, incarnation: Incarnation) -> Option<Creating<'_>> {
        let mut inside = self.inside.lock();
        inside.known.get_mut(&incarnation)?.is_creating = true;
        Some(Creating { containers: self, incarnation })
    }

    /// Adds a container that only the engine knew.
    pub(crate) fn discover(&self, incarnation: Incarnation, entry: Entry) {
        let mut inside = self.inside.lock();
        inside.known.entry(incarnation).or_insert_with(|| Known::of(entry));
        inside.revision += 1;
    }

    /// Forgets a container that is gone; false if it was not known.
    pub(crate) fn forget(&self, incarnation: &Incarnation) -> bool {
        let mut inside = self.inside.lock();
        let was_known = inside.known.remove(incarnation).is_some();
        inside.revision += u64::from(was_known);
        was_known
    }

    /// What is known about a container.
    pub(crate) fn entry(&self, incarnation: &Incarnation) -> Option<Entry> {
        self.inside.lock().known.get(incarnation).map(|known| known.entry.clone())
    }

    /// Whether work in progress creates that container.
    pub(crate) fn is_creating(&self, incarnation: &Incarnation) -> bool {
        self.inside.lock().known.get(incarnation).is_some_and(|known| known.is_creating)
    }

    /// Every container, and whether work in progress creates it.
    pub(crate) fn all(&self) -> BTreeMap<Incarnation, (Entry, bool)> {
        let inside = self.inside.lock();
        let all = inside.known.iter();
        all.map(|(incarnation, known)| (*incarnation, (known.entry.clone(), known.is_creating))).collect()
    }

    /// The containers of a sandbox.
    pub(crate) fn of_sandbox(&self, sandbox: &SandboxId) -> Vec<(Incarnation, Entry)> {
        let inside = self.inside.lock();
        let own = inside.known.iter().filter(|(_, known)| known.entry.sandbox == *sandbox);
        own.map(|(incarnation, known)| (*incarnation, known.entry.clone())).collect()
    }

    /// Stores what the control plane said about the lease of a container, unless the lease has changed since it was `seen`:
    /// then that is the newer one.
    pub(crate) fn note_answer(
        &self,
        incarnation: &Incarnation,
        seen: Option<&NodeLease>,
        lease: Option<NodeLease>,
    ) {
        let mut inside = self.inside.lock();
        let Some(known) = inside.known.get_mut(incarnation) else { return };
        if known.entry.lease.as_ref() == seen && known.entry.lease != lease {
            known.set_lease(lease);
            inside.revision += 1;
            self.deadlines.notify_one();
        }
    }

    /// Stores a lease that is not older than the one that is known, and returns what is known then; none if there is no such
    /// container.
    pub(crate) fn note_lease(
        &self,
        sandbox: &SandboxId,
        incarnation: &Incarnation,
        lease: NodeLease,
    ) -> Option<NodeLease> {
        let mut inside = self.inside.lock();
        let known = inside.known.get_mut(incarnation).filter(|known| known.entry.sandbox == *sandbox)?;
        match &known.entry.lease {
            Some(kept) if !is_newer(&lease, kept) => Some(kept.clone()),
            _ => {
                known.set_lease(Some(lease.clone()));
                inside.revision += 1;
                self.deadlines.notify_one();
                Some(lease)
            }
        }
    }

    /// The containers whose lease and grace are over, and when the next one's will be.
    pub(crate) fn due(&self, now_ms: u64) -> (Vec<Due>, Option<u64>) {
        let inside = self.inside.lock();
        let (mut due, mut next_ms) = (Vec::new(), None::<u64>);
        for (incarnation, known) in inside.known.iter().filter(|(_, known)| !known.is_stopped) {
            let Some(lease) = &known.entry.lease else { continue };
            let at_ms = over_at_ms(lease).max(known.asked_until_ms);
            if at_ms <= now_ms {
                let (sandbox, lease) = (known.entry.sandbox.clone(), lease.clone());
                due.push(Due { incarnation: *incarnation, sandbox, lease });
            } else {
                next_ms = Some(next_ms.map_or(at_ms, |next_ms| next_ms.min(at_ms)));
            }
        }
        (due, next_ms)
    }

    /// Leaves the timer of a container alone until that moment.
    pub(crate) fn ask_again_at(&self, incarnation: &Incarnation, moment_ms: u64) {
        if let Some(known) = self.inside.lock().known.get_mut(incarnation) {
            known.asked_until_ms = moment_ms;
        }
    }

    /// Notes that a container was stopped because its lease is over: its timer has done what it is for.
    pub(crate) fn note_stopped(&self, incarnation: &Incarnation) {
        if let Some(known) = self.inside.lock().known.get_mut(incarnation) {
            known.is_stopped = true;
        }
    }

    /// Waits until a deadline may have changed.
    pub(crate) async fn deadline_changed(&self) {
        self.deadlines.notified().await;
    }

    /// Returns when everything that was known at the time of the call is on the disk. Concurrent calls share a write.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) async fn persist(&self) -> io::Result<()> {
        let wanted = self.inside.lock().revision;
        let mut written = Arc::clone(&self.written).lock_owned().await;
        if *written >= wanted {
            return Ok(());
        }
        let (revision, entries) = {
            let inside = self.inside.lock();
            let all = inside.known.iter();
            let entries: Entries =
                all.map(|(incarnation, known)| (*incarnation, known.entry.clone())).collect();
            (inside.revision, entries)
        };
        let folder = Arc::clone(&self.folder);
        // It ends before the next one begins, even if this call is given up.
        let write = tokio::task::spawn_blocking(move || {
            folder.write(&entries)?;
            *written = revision;
            Ok(())
        });
        write.await.map_err(io::Error::other)?
    }

    /// As [`Self::persist`] where nothing depends on it at once: the next write includes it.
    pub(crate) async fn persist_or_log(&self) {
        if let Err(error) = self.persist().await {
            tracing::error!(%error, "the state of the runner cannot be written; it is tried again with the next change");
        }
    }

    /// Whether no place is reserved.
    #[cfg(test)]
    pub(crate) fn has_no_reservation(&self) -> bool {
        self.inside.lock().reservations.is_empty()
    }
}

/// When a lease and its grace are over.
pub(crate) fn over_at_ms(lease: &NodeLease) -> u64 {
    lease.ends_at.saturating_add(lease.grace_seconds).saturating_mul(1_000)
}

// === impl Inside ===

impl Inside {
    fn used(&self) -> Demand {
        self.known.values().map(|known| known.entry.demand).sum()
    }
}

// === impl Known ===

impl Known {
    const fn of(entry: Entry) -> Self {
        Self { entry, is_creating: false, is_stopped: false, asked_until_ms: 0 }
    }

    fn set_lease(&mut self, lease: Option<NodeLease>) {
        self.entry.leased_epoch = lease.as_ref().map(|lease| lease.epoch).or(self.entry.leased_epoch);
        self.entry.lease = lease;
        self.is_stopped = false;
        self.asked_until_ms = 0;
    }
}

/// Whether a lease says more than the one that is known: it is a later one, ends later, or brings the environment.
fn is_newer(lease: &NodeLease, kept: &NodeLease) -> bool {
    let place = |lease: &NodeLease| (lease.epoch, lease.ends_at);
    let brings_env = !lease.env.is_empty() && lease.env != kept.env;
    place(lease) > place(kept) || (place(lease) == place(kept) && brings_env)
}

// === impl Creating ===

impl Creating<'_> {
    /// The container.
    pub(crate) const fn incarnation(&self) -> Incarnation {
        self.incarnation
    }
}

impl Drop for Creating<'_> {
    fn drop(&mut self) {
        if let Some(known) = self.containers.inside.lock().known.get_mut(&self.incarnation) {
            known.is_creating = false;
        }
    }
}
