//! The lists' self-tests: begun when they are due, and what follows from them.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

use super::answer::{Answer, Unknown};
use super::lookup::{Lists, News};
use super::query;
use super::selftest::{self, Failure, Family, Probe};

/// A look now and then, also where nothing is due.
const IDLE: Duration = Duration::from_secs(3600);

impl Lists {
    /// Tests the lists whenever a test is due, until the future is dropped.
    pub async fn keep_tested(self: Arc<Self>) {
        loop {
            let now = Instant::now();
            let mut next = now + IDLE;
            for (index, list) in self.lists.iter().enumerate() {
                for family in list.families() {
                    let mut health = list.health(family);
                    if health.begin_test(now) {
                        tokio::spawn(Arc::clone(&self).test(index, family));
                    } else if let Some(at) = health.next_test() {
                        next = next.min(at);
                    }
                }
            }
            tokio::select! {
                () = sleep_until(next.into()) => {}
                () = self.wake.notified() => {}
            }
        }
    }

    /// Has every list tested now.
    pub fn test_now(&self) {
        let now = Instant::now();
        for list in &self.lists {
            for family in list.families() {
                list.health(family).test_now(now);
            }
        }
        self.wake.notify_one();
    }

    /// Tests the lists that are believed once more, for the stop: what they
    /// have listed since the last one could not be kept. Nothing may be asked of
    /// them after it.
    pub async fn confirm(self: &Arc<Self>, limit: Duration) {
        let now = Instant::now();
        let mut tests = JoinSet::new();
        for (index, list) in self.lists.iter().enumerate() {
            for family in list.families().filter(|_| list.zone.self_test()) {
                let mut health = list.health(family);
                if health.last_passed().is_some() && !health.is_open() {
                    health.test_now(now);
                    if health.begin_test(now) {
                        tests.spawn(Arc::clone(self).test(index, family));
                    }
                }
            }
        }
        let _ = timeout(limit, tests.join_all()).await;
    }

    async fn test(self: Arc<Self>, index: usize, family: Family) {
        let [listed, unlisted] = family.test_entries();
        let (listed, unlisted) =
            tokio::join!(self.probe(index, listed), self.probe(index, unlisted));
        let list = &self.lists[index];
        let verdict = if list.zone.self_test() {
            selftest::verdict(family, &listed, &unlisted)
        } else {
            // It breaks the rule on purpose: any answer will do.
            match [listed, unlisted] {
                [Probe::Unknown(unknown), _] | [_, Probe::Unknown(unknown)] => {
                    Err(Failure::Unknown(unknown))
                }
                _ => Ok(()),
            }
        };
        let mut health = list.health(family);
        let passed = health.last_passed();
        let first = list.zone.self_test() && passed.is_none() && verdict.is_ok();
        let change = health.tested(verdict, Instant::now(), random());
        drop(health);
        if first {
            self.notice(index, News::FirstPassed);
        }
        self.changed(index, family, change, passed);
    }

    /// What list number `index` says of a test entry, now.
    async fn probe(&self, index: usize, entry: IpAddr) -> Probe {
        let zone = &self.lists[index].zone;
        // Its limit is for clients: the tests are few.
        self.grant(index, Instant::now());
        let Some(name) = query::name(entry, zone.origin()) else {
            return Probe::NotListed;
        };
        match self.resolver.addresses(&name).await {
            Err(unknown) => Probe::Unknown(unknown),
            Ok(records) => match Answer::from_addresses(&records.data, zone.rules()) {
                Answer::Unknown(Unknown::ErrorCode(code)) => {
                    Probe::Unknown(Unknown::ErrorCode(code))
                }
                _ => records
                    .data
                    .into_iter()
                    .min()
                    .map_or(Probe::NotListed, Probe::Listed),
            },
        }
    }
}

/// A number from 0 to 1.
fn random() -> f64 {
    let bits = RandomState::new().build_hasher().finish();
    let bits = u32::try_from(bits >> 32).unwrap_or_default();
    f64::from(bits) / f64::from(u32::MAX)
}
