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

    /// Those of `lists` that have not passed a test yet for `client`'s family, so that
    /// nothing that they say has ever counted.
    #[must_use]
    pub fn unproven(&self, client: IpAddr, lists: impl Iterator<Item = usize>) -> Vec<usize> {
        let client = client.to_canonical();
        lists
            .filter(|index| self.last_passed(*index, client).is_none())
            .collect()
    }

    /// Waits until all of `lists` have passed their first test for `client`'s family,
    /// for `limit` at most; whether one of them has.
    pub async fn proven(&self, client: IpAddr, lists: &[usize], limit: Duration) -> bool {
        let mut moved = self.moved.subscribe();
        let left = || self.unproven(client, lists.iter().copied()).len();
        let all = async { while left() > 0 && moved.changed().await.is_ok() {} };
        let _ = timeout(limit, all).await;
        left() < lists.len()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dnsbl::{lists_of, silent_list};

    #[tokio::test]
    async fn a_session_waits_so_long_for_a_first_test() {
        let text = "[[dnsbl]]\nzone = \"one.test\"\n[[dnsbl]]\nzone = \"two.test\"\n\
                    [[dnsbl]]\nzone = \"three.test\"\nself-test = false";
        let lists = lists_of(text);
        let client = IpAddr::from([192, 168, 1, 1]);
        let unproven = lists.unproven(client, 0..3);
        assert_eq!(unproven, [0, 1], "the third is not tested");
        let short = Duration::from_millis(20);
        assert!(!lists.proven(client, &unproven, short).await);
        let passes = |index: usize| {
            let mut health = lists.lists[index].health(Family::V4);
            health.tested(Ok(()), Instant::now(), 0.5);
            drop(health);
            lists.changed(index, Family::V4, None, None);
        };
        passes(0);
        assert!(lists.proven(client, &unproven, short).await, "one of them");
        let (long, begun) = (Duration::from_secs(600), Instant::now());
        let (proven, ()) = tokio::join!(lists.proven(client, &unproven, long), async {
            tokio::task::yield_now().await;
            passes(1);
        });
        assert!(proven && begun.elapsed() < long, "when the last has passed");
    }

    #[tokio::test]
    async fn the_last_tests_take_no_longer_than_they_may() {
        let (nameserver, lists) = silent_list();
        let passed = Instant::now();
        let health = || lists.lists[0].health(Family::V4);
        health().tested(Ok(()), passed, 0.5);
        let limit = Duration::from_millis(100);
        lists.confirm(limit).await;
        assert!(passed.elapsed() < Duration::from_secs(12));
        // The list was asked, and what it lists since is not kept.
        let mut asked = [0; 512];
        assert!(nameserver.recv(&mut asked).unwrap() > 0);
        assert_eq!(health().last_passed(), Some(passed));
        let got = super::super::health::Got::at(passed + limit);
        assert!(!health().outlives(got, true));
    }
}
