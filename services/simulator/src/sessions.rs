//! Sessions of pre-clean clients.

use std::collections::{HashMap, VecDeque};
use uuid::Uuid;

/// Most sessions at once; the oldest is dropped first.
const SESSIONS_MAX: usize = 10_000;

/// The sessions that exist.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    by_token: HashMap<String, Session>,
    oldest_first: VecDeque<String>,
}

#[derive(Clone, Copy, Debug)]
struct Session {
    /// The account of the session; none directly after signing in.
    account: Option<Uuid>,
    begun_ms: u64,
}

impl Sessions {
    /// Starts a session with `token`.
    pub(crate) fn begin(&mut self, token: String, account: Option<Uuid>, now_ms: u64) {
        if self.oldest_first.len() >= SESSIONS_MAX
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.by_token.remove(&oldest);
        }
        self.oldest_first.push_back(token.clone());
        self.by_token.insert(token, Session { account, begun_ms: now_ms });
    }

    /// The account of a live session: none without a session, `Some(None)` for a session without an account.
    pub(crate) fn find(&self, token: &str, now_ms: u64, lifetime_ms: u64) -> Option<Option<Uuid>> {
        let session = self.by_token.get(token)?;
        (now_ms < session.begun_ms.saturating_add(lifetime_ms)).then_some(session.account)
    }

    /// Ends all of them.
    pub(crate) fn expire(&mut self) -> usize {
        self.oldest_first.clear();
        std::mem::take(&mut self.by_token).len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_ends_with_its_lifetime() {
        let mut sessions = Sessions::default();
        sessions.begin("t".to_owned(), None, 1_000);
        assert_eq!(sessions.find("t", 1_999, 1_000), Some(None));
        assert_eq!(sessions.find("t", 2_000, 1_000), None);
        assert_eq!(sessions.find("other", 1_000, 1_000), None);
    }

    #[test]
    fn sessions_are_bounded_and_the_oldest_is_evicted() {
        let mut sessions = Sessions::default();
        for number in 0..=SESSIONS_MAX {
            sessions.begin(number.to_string(), None, 0);
        }
        assert_eq!(sessions.find("0", 0, 1), None);
        assert_eq!(sessions.find("1", 0, 1), Some(None));
        assert_eq!(sessions.expire(), SESSIONS_MAX);
        assert_eq!(sessions.find("1", 0, 1), None);
    }
}
