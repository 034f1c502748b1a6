//! How the lists are, for `rblfilter status`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use super::health::Trust;
use super::lookup::Lists;
use super::selftest::Family;
use crate::status::{Health, List};

impl Lists {
    /// Each list, for each family that it is asked for.
    #[must_use]
    pub fn status(&self, now: Instant) -> Vec<List> {
        let mut all = Vec::new();
        for list in &self.lists {
            for (family, name) in [(Family::V4, "ipv4"), (Family::V6, "ipv6")] {
                let one: IpAddr = match family {
                    Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
                    Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
                };
                if !list.zone.covers(one) {
                    continue;
                }
                let health = list.health(family);
                all.push(List {
                    name: list.zone.name().into(),
                    allows: list.zone.allows(),
                    family: name.into(),
                    health: match health.trust() {
                        Trust::Yes => Health::Believed,
                        Trust::Try => Health::Silent,
                        Trust::Wait => Health::Testing,
                        Trust::No => Health::Down,
                    },
                    passed: health
                        .last_passed()
                        .map(|at| now.saturating_duration_since(at).as_secs()),
                });
            }
        }
        all
    }

    /// How many of their answers are kept, and how many can be.
    #[must_use]
    pub fn kept(&self) -> (usize, usize) {
        (self.cache.count(), self.cache.bounds.entries)
    }
}
