//! What is held for and against a client: by couriertcpd's lists and by ours.

use std::net::Ipv4Addr;
use std::time::Instant;

use super::answer::{Answer, Unknown};
use super::health::Got;
use super::rule::reach;
use super::score::{Level, Score, Tally, Thresholds};
use super::zone::Zone;
use crate::reply::Template;

/// A list's word on a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The list's name as it may be shown.
    pub zone: String,
    /// The address that the list answered, where it is known.
    pub code: Option<Ipv4Addr>,
    /// Where a person can look the client up; may hold `{ip}`.
    pub lookup_url: String,
    /// What the client is told of it, where that is not `reply.text`.
    pub message: Option<Template>,
    /// What it is worth.
    pub score: Score,
    /// Which of the configuration's lists it is, whoever asked it; `None`: one
    /// that couriertcpd alone asks.
    pub list: Option<usize>,
}

/// All that is known of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// The lists that name it, for or against.
    pub listings: Vec<Listing>,
    /// When the answers of those among them were got that are ours, by their
    /// place in the configuration.
    pub got: Vec<(usize, Got)>,
    /// The lists that did not say, and why.
    pub unknown: Vec<(usize, Unknown)>,
    /// What it adds up to.
    pub tally: Tally,
    /// The most that allow lists could have said for it which work, but did not
    /// answer.
    pub unheard: Score,
}

impl Evidence {
    /// couriertcpd's word at `now`: all its lists together are one, but for those
    /// that are among ours.
    #[must_use]
    pub fn of_courier(listings: Vec<Listing>, now: Instant) -> Self {
        let got = Got::at(now);
        let ours = listings.iter().filter_map(|listing| listing.list);
        Self {
            got: ours.map(|list| (list, got)).collect(),
            tally: tally(&listings),
            listings,
            ..Self::default()
        }
    }

    /// Adds what list number `index`, which is `zone`, says.
    pub fn add(&mut self, index: usize, zone: &Zone, answer: Answer, got: Got) {
        match answer {
            Answer::NotListed => {}
            Answer::Unknown(unknown) => {
                if unknown == Unknown::Down {
                    self.remove(index);
                } else if zone.allows() && unknown.is_of_the_moment() {
                    self.unheard = self.unheard + reach(zone.rules()).least;
                }
                self.unknown.push((index, unknown));
            }
            Answer::Listed(hit) => {
                // couriertcpd may have asked it too: that is one listing.
                let couriers = self.remove(index);
                let mut score = hit.met.score(zone.rules());
                if !zone.allows() {
                    score = score.max(couriers);
                }
                self.tally = self.tally.with(score);
                self.got.push((index, got));
                self.listings.push(Listing {
                    zone: zone.name().to_owned(),
                    code: Some(hit.code),
                    lookup_url: zone.lookup_url().to_owned(),
                    message: zone.message().cloned(),
                    score,
                    list: Some(index),
                });
            }
        }
    }

    /// Takes back what is known from list number `index`, and tells what that
    /// was worth.
    pub fn remove(&mut self, index: usize) -> Score {
        let is_its = |listing: &&Listing| listing.list == Some(index);
        let score = self.listings.iter().filter(is_its).map(|l| l.score).sum();
        if self.got.iter().any(|(list, _)| *list == index) {
            self.got.retain(|(list, _)| *list != index);
            self.listings.retain(|listing| listing.list != Some(index));
            self.tally = tally(&self.listings);
        }
        score
    }

    /// How far the client is judged. The error of an allow list that could have
    /// averted a ban does not make one.
    #[must_use]
    pub fn level(&self, thresholds: &Thresholds) -> Level {
        let level = thresholds.level(self.tally);
        let averted = self.unheard.is_negative()
            && thresholds.level(self.tally.with(self.unheard)) < Level::Ban;
        if averted {
            level.min(Level::Reject)
        } else {
            level
        }
    }

    /// The listings against the client, the weightiest first; of equals the one
    /// that stands first in the configuration, couriertcpd's before all.
    #[must_use]
    pub fn against(&self) -> Vec<&Listing> {
        let mut against: Vec<&Listing> = self
            .listings
            .iter()
            .filter(|listing| listing.score.is_positive())
            .collect();
        against.sort_by_key(|listing| (std::cmp::Reverse(listing.score), listing.list));
        against
    }
}

/// What listings add up to: couriertcpd's own are one.
fn tally(listings: &[Listing]) -> Tally {
    let own = || listings.iter().filter(|listing| listing.list.is_none());
    let start = if own().next().is_some() {
        Tally::default().with(own().map(|listing| listing.score).sum())
    } else {
        Tally::default()
    };
    let ours = listings.iter().filter(|listing| listing.list.is_some());
    ours.fold(start, |tally, listing| tally.with(listing.score))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dnsbl::{Codes, Match, Rule};
    use hickory_resolver::proto::op::ResponseCode;

    fn listing(points: f64, list: Option<usize>) -> Listing {
        Listing {
            zone: format!("{points}"),
            code: None,
            lookup_url: String::new(),
            message: None,
            score: Score::from_points(points).unwrap(),
            list,
        }
    }

    fn now() -> Instant {
        Instant::now()
    }

    fn listed(zone: &Zone) -> Answer {
        Answer::from_addresses(&[Ipv4Addr::new(127, 0, 0, 2)], zone.rules())
    }

    fn zone(points: f64) -> Zone {
        let mut codes = Codes::default();
        codes.add("127.0.0.2").unwrap();
        let score = Score::from_points(points).unwrap();
        let of = Match::Codes(codes);
        Zone::new("bl.test")
            .unwrap()
            .with_rules(vec![Rule { of, score }])
    }

    #[test]
    fn a_list_that_couriertcpd_asks_too_counts_once() {
        let courier = || Evidence::of_courier(vec![listing(10.0, Some(0))], now());
        for points in [4.0, 12.0] {
            let mut evidence = courier();
            let ours = zone(points);
            evidence.add(0, &ours, listed(&ours), Got::at(now()));
            assert_eq!(evidence.tally.against, 1);
            assert_eq!(
                evidence.tally.score.points().max(10.0),
                evidence.tally.score.points()
            );
            assert_eq!((evidence.listings.len(), evidence.got.len()), (1, 1));
        }
        // It stands where ours did not say, unless ours is not believed.
        let mut evidence = courier();
        let timeout = Answer::Unknown(Unknown::Timeout);
        evidence.add(0, &zone(4.0), timeout, Got::at(now()));
        assert_eq!(evidence.tally.against, 1);
        evidence.add(
            0,
            &zone(4.0),
            Answer::Unknown(Unknown::Down),
            Got::at(now()),
        );
        assert_eq!(evidence.tally, Tally::default());
        assert!(evidence.listings.is_empty());
    }

    #[test]
    fn an_allow_lists_error_makes_no_ban() {
        let thresholds = crate::config::parse("").unwrap().thresholds;
        let allow = zone(-1.0).allowing();
        for (unknown, expected) in [
            (Unknown::Timeout, Level::Reject),
            (Unknown::Response(ResponseCode::ServFail), Level::Reject),
            (Unknown::Unreachable("io"), Level::Reject),
            (Unknown::Busy, Level::Reject),
            (Unknown::Budget, Level::Reject),
            (Unknown::Down, Level::Ban),
        ] {
            let mut evidence = Evidence::of_courier(vec![listing(10.0, None)], now());
            let answer = Answer::Unknown(unknown.clone());
            evidence.add(1, &allow, answer.clone(), Got::at(now()));
            assert_eq!(evidence.level(&thresholds), expected, "{unknown}");
            let mut evidence = Evidence::of_courier(vec![listing(10.0, None)], now());
            evidence.add(1, &zone(1.0), answer, Got::at(now()));
            assert_eq!(evidence.level(&thresholds), Level::Ban, "no allow list");
        }
        let mut evidence = Evidence::of_courier(vec![listing(4.0, None)], now());
        evidence.add(1, &allow, Answer::Unknown(Unknown::Busy), Got::at(now()));
        assert_eq!(evidence.level(&thresholds), Level::Pass);
        // One that could not have averted it.
        let heedless = Thresholds {
            vouched_never_ban: false,
            ..thresholds
        };
        let mut evidence = Evidence::of_courier(vec![listing(20.0, None)], now());
        evidence.add(1, &allow, Answer::Unknown(Unknown::Busy), Got::at(now()));
        assert_eq!(evidence.level(&heedless), Level::Ban);
    }

    #[test]
    fn couriers_variables_are_one_list() {
        let evidence = Evidence::of_courier(vec![listing(5.0, None), listing(6.0, None)], now());
        assert_eq!(evidence.tally.against, 1);
        assert_eq!(evidence.tally.score, Score::from_points(11.0).unwrap());
        assert_eq!(Evidence::of_courier(vec![], now()).tally, Tally::default());
    }

    #[test]
    fn the_weightiest_listing_comes_first() {
        let evidence = Evidence {
            listings: vec![
                listing(5.0, Some(2)),
                listing(-3.0, Some(0)),
                listing(10.0, Some(3)),
                listing(10.0, Some(1)),
            ],
            ..Evidence::default()
        };
        let order: Vec<Option<usize>> = evidence.against().iter().map(|l| l.list).collect();
        assert_eq!(order, [Some(1), Some(3), Some(2)]);
    }
}
