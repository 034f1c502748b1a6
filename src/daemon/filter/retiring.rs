//! What a worker leaves to the one that takes its place, and from when on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::{OwnedRwLockReadGuard, RwLock};
use tokio::time::timeout;

use super::Filter;

/// How long open sentences may take, bans included, before the next worker does
/// without them.
const DECIDE: Duration = Duration::from_secs(2);

/// How far a worker is on its way out.
#[derive(Debug, Default)]
pub struct Retiring {
    /// The next worker's watch and guard decide which session is ended.
    begun: AtomicBool,
    /// The next worker's book has the bans.
    released: AtomicBool,
    /// Held for reading while somebody is judged, until his ban is noted.
    deciding: Arc<RwLock<()>>,
}

/// Somebody is judged, and perhaps banned.
pub type Deciding = OwnedRwLockReadGuard<()>;

impl Filter {
    /// To be held from before a judgement until its ban is noted.
    pub async fn deciding(&self) -> Deciding {
        Arc::clone(&self.retiring.deciding).read_owned().await
    }

    /// Whether the next worker decides who is ended unanswered.
    pub(super) fn is_retiring(&self) -> bool {
        self.retiring.begun.load(Relaxed)
    }

    /// Whether who is banned now would not be in the book.
    pub(super) fn is_released(&self) -> bool {
        self.retiring.released.load(Relaxed)
    }

    /// Sessions are no longer ended by watch and guard, be it that a look-up is
    /// under way.
    pub fn leave_off(&self) {
        self.retiring.begun.store(true, Relaxed);
    }

    /// Gives up all that there must be one of: open sentences have a moment to be
    /// passed, bans are over, and what the lists said can be written. Messages that are
    /// open yet are answered still.
    pub async fn retire(&self) {
        let decided = timeout(DECIDE, self.retiring.deciding.write()).await;
        self.confirm_lists().await;
        self.retiring.released.store(true, Relaxed);
        drop(decided);
    }
}
