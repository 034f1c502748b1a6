//! What a list says, how often and how soon, since the start.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;

use super::answer::{Answer, Unknown};
use crate::latency::{Latency, Spread};

/// What one list says. Its self-tests are not counted.
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// Questions that were sent.
    pub asked: Counter,
    /// Answers to them that name the client (an allow list: for it).
    pub listed: Counter,
    /// Answers to them that do not.
    pub unlisted: Counter,
    /// Questions that nobody answered in time.
    pub timeouts: Counter,
    /// Answers that are errors, and questions that could not be sent.
    pub errors: Counter,
    /// Answers from the cache that name the client.
    pub kept_listed: Counter,
    /// Answers from the cache that do not.
    pub kept_unlisted: Counter,
    /// How long the list took, for answers and for errors.
    pub latency: Latency,
}

/// What a [`Said`] had counted at a moment, or between two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Saying {
    /// See [`Said::asked`], and so on.
    pub asked: u64,
    /// See there.
    pub listed: u64,
    /// See there.
    pub unlisted: u64,
    /// See there.
    pub timeouts: u64,
    /// See there.
    pub errors: u64,
    /// See there.
    pub kept_listed: u64,
    /// See there.
    pub kept_unlisted: u64,
    /// See there.
    pub latency: Spread,
}

impl Said {
    /// Counts the list's answer to a question, after so long.
    pub fn answered(&self, answer: &Answer, took: Duration) {
        match answer {
            Answer::Listed(_) => self.listed.inc(),
            Answer::NotListed => self.unlisted.inc(),
            Answer::Unknown(Unknown::Timeout) => {
                self.timeouts.inc();
                return;
            }
            Answer::Unknown(_) => self.errors.inc(),
        };
        self.latency.observe(took);
    }

    /// Counts an answer from the cache.
    pub fn kept(&self, answer: &Answer) {
        match answer {
            Answer::Listed(_) => self.kept_listed.inc(),
            // What is not known is not kept.
            Answer::NotListed | Answer::Unknown(_) => self.kept_unlisted.inc(),
        };
    }

    /// What has been counted so far.
    #[must_use]
    pub fn so_far(&self) -> Saying {
        Saying {
            asked: self.asked.get(),
            listed: self.listed.get(),
            unlisted: self.unlisted.get(),
            timeouts: self.timeouts.get(),
            errors: self.errors.get(),
            kept_listed: self.kept_listed.get(),
            kept_unlisted: self.kept_unlisted.get(),
            latency: self.latency.spread(),
        }
    }
}

impl Saying {
    /// What came after `earlier`, a look at the same list.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            asked: self.asked.saturating_sub(earlier.asked),
            listed: self.listed.saturating_sub(earlier.listed),
            unlisted: self.unlisted.saturating_sub(earlier.unlisted),
            timeouts: self.timeouts.saturating_sub(earlier.timeouts),
            errors: self.errors.saturating_sub(earlier.errors),
            kept_listed: self.kept_listed.saturating_sub(earlier.kept_listed),
            kept_unlisted: self.kept_unlisted.saturating_sub(earlier.kept_unlisted),
            latency: self.latency.since(&earlier.latency),
        }
    }

    /// Answers from the cache.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.kept_listed.saturating_add(self.kept_unlisted)
    }

    /// Questions without an answer that counts.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.timeouts.saturating_add(self.errors)
    }

    /// How often it named the client, from the cache too.
    #[must_use]
    pub fn listings(&self) -> u64 {
        self.listed.saturating_add(self.kept_listed)
    }

    /// How often it said something of a client, from the cache too.
    #[must_use]
    pub fn answers(&self) -> u64 {
        let unlisted = self.unlisted.saturating_add(self.kept_unlisted);
        self.listings().saturating_add(unlisted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dnsbl::{Hit, Met};

    #[test]
    fn each_answer_is_counted_as_what_it_is() {
        let said = Said::default();
        let hit = Answer::Listed(Hit {
            met: Met::default(),
            code: [127, 0, 0, 2].into(),
        });
        let millis = Duration::from_millis;
        said.asked.inc_by(4);
        said.answered(&hit, millis(1));
        let before = said.so_far();
        said.answered(&Answer::NotListed, millis(20));
        said.answered(&Answer::Unknown(Unknown::Timeout), millis(3000));
        said.answered(&Answer::Unknown(Unknown::Unreachable("io")), millis(1));
        said.kept(&hit);
        said.kept(&Answer::NotListed);
        said.kept(&Answer::NotListed);
        let all = said.so_far();
        assert_eq!((all.listed, all.unlisted), (1, 1));
        assert_eq!((all.timeouts, all.errors, all.failures()), (1, 1, 2));
        assert_eq!((all.hits(), all.listings(), all.answers()), (3, 2, 5));
        assert_eq!(all.latency.count(), 3, "who says nothing has no latency");
        let since = all.since(&before);
        assert_eq!((since.asked, since.listed, since.unlisted), (0, 0, 1));
        assert_eq!(since.latency.count(), 2);
    }
}
