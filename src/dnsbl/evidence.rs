//! What is held for and against a client: by couriertcpd's lists and by ours.

use std::net::Ipv4Addr;

use super::answer::{Answer, Unknown};
use super::health::Got;
use super::score::{Score, Tally};
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
    /// Which of the configuration's lists it is; `None`: one of couriertcpd's.
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
}

impl Evidence {
    /// couriertcpd's word: all its lists together are one.
    #[must_use]
    pub fn of_courier(listings: Vec<Listing>) -> Self {
        let score: Score = listings.iter().map(|listing| listing.score).sum();
        let tally = if listings.is_empty() {
            Tally::default()
        } else {
            Tally::default().with(score)
        };
        Self {
            listings,
            tally,
            ..Self::default()
        }
    }

    /// Adds what list number `index`, which is `zone`, says.
    pub fn add(&mut self, index: usize, zone: &Zone, answer: Answer, got: Got) {
        match answer {
            Answer::NotListed => {}
            Answer::Unknown(unknown) => self.unknown.push((index, unknown)),
            Answer::Listed(hit) => {
                let score = hit.met.score(zone.rules());
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

    /// Takes back what list number `index` said.
    pub fn remove(&mut self, index: usize) {
        self.got.retain(|(list, _)| *list != index);
        self.listings.retain(|listing| listing.list != Some(index));
        let (courier, ours): (Vec<Listing>, _) = std::mem::take(&mut self.listings)
            .into_iter()
            .partition(|listing| listing.list.is_none());
        let Self {
            listings, tally, ..
        } = Self::of_courier(courier);
        self.tally = (ours.iter()).fold(tally, |tally, listing| tally.with(listing.score));
        self.listings = listings;
        self.listings.extend(ours);
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

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn couriers_variables_are_one_list() {
        let evidence = Evidence::of_courier(vec![listing(5.0, None), listing(6.0, None)]);
        assert_eq!(evidence.tally.against, 1);
        assert_eq!(evidence.tally.score, Score::from_points(11.0).unwrap());
        assert_eq!(Evidence::of_courier(vec![]).tally, Tally::default());
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
