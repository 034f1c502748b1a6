//! What is kept of an address, where it is to be forgotten. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::ban::{around, overlap, within};

/// Whether what is kept of the network `kept` is of `forgotten`, and goes with it.
/// What the admin did by hand to a wider network is not for this address's sake, and
/// stays; what a verdict did to one (an IPv6 client's /64) is.
#[must_use]
pub fn is_of(kept: IpNetwork, forgotten: IpNetwork, by_hand: bool) -> bool {
    within(kept, forgotten) || !by_hand && overlap(kept, forgotten)
}

/// Networks that are forgotten together, so that what is kept is gone through once
/// for all of them: a look takes as long as they have different prefixes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whom {
    /// The places of the networks, in the order in which they came.
    places: HashMap<IpNetwork, usize>,
    /// The same by their first addresses.
    begins: BTreeMap<IpAddr, usize>,
    /// The lengths of their prefixes, of IPv4 and of IPv6.
    prefixes: [BTreeSet<u8>; 2],
}

impl Whom {
    /// These networks; one that stands there twice has its first place.
    #[must_use]
    pub fn new(networks: &[IpNetwork]) -> Self {
        let mut whom = Self::default();
        for (place, network) in networks.iter().enumerate() {
            whom.insert(*network, place);
        }
        whom
    }

    fn insert(&mut self, network: IpNetwork, place: usize) {
        self.places.entry(network).or_insert(place);
        self.begins.entry(network.network()).or_insert(place);
        self.prefixes[usize::from(network.is_ipv6())].insert(network.prefix());
    }

    /// Another one, in the next place.
    pub fn push(&mut self, network: IpNetwork) {
        self.insert(network, self.places.len());
    }

    /// How many different ones there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Whether one is more than a single address.
    #[must_use]
    pub fn has_wide(&self) -> bool {
        let [four, six] = &self.prefixes;
        four.first().is_some_and(|prefix| *prefix < 32)
            || six.first().is_some_and(|prefix| *prefix < 128)
    }

    /// The place of one that holds all of `kept`.
    #[must_use]
    pub fn holder(&self, kept: IpNetwork) -> Option<usize> {
        let prefixes = &self.prefixes[usize::from(kept.is_ipv6())];
        prefixes
            .range(..=kept.prefix())
            .find_map(|prefix| self.places.get(&around(kept.ip(), *prefix)).copied())
    }

    /// The place of one of which `kept` is ([`is_of`]), where it is of any.
    #[must_use]
    pub fn of(&self, kept: IpNetwork, by_hand: bool) -> Option<usize> {
        let holder = self.holder(kept);
        let prefixes = &self.prefixes[usize::from(kept.is_ipv6())];
        let narrower = || prefixes.last().is_some_and(|last| *last > kept.prefix());
        if holder.is_some() || by_hand || !narrower() {
            return holder;
        }
        let mut inside = self.begins.range(kept.network()..=kept.broadcast());
        inside.next().map(|(_, place)| *place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_by_hand_to_a_wider_network_stays() {
        for (kept, forgotten, by_hand, expected) in [
            ("10.0.0.1/32", "10.0.0.1/32", true, true),
            ("10.0.0.1/32", "10.0.0.0/24", true, true),
            ("10.0.0.0/24", "10.0.0.1/32", true, false),
            ("10.0.0.0/24", "10.0.1.1/32", false, false),
            ("fd00:1::/64", "fd00:1::5/128", false, true),
            ("fd00:1::/64", "fd00:1::5/128", true, false),
            ("fd00:1::/64", "fd00:2::/64", false, false),
        ] {
            let net = |text: &str| text.parse().unwrap();
            assert_eq!(
                is_of(net(kept), net(forgotten), by_hand),
                expected,
                "{kept} {forgotten} {by_hand}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn of_many_is_what_is_of_any(
            forgotten in proptest::collection::vec((0..64_u8, 24..=32_u8, proptest::bool::ANY), 0..6),
            kept in (0..64_u8, 24..=32_u8, proptest::bool::ANY),
            by_hand: bool,
        ) {
            let net = |(last, prefix, six): (u8, u8, bool)| match six {
                true => around(IpAddr::from([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]), prefix + 96),
                false => around(IpAddr::from([10, 0, 0, last]), prefix),
            };
            let forgotten: Vec<IpNetwork> = forgotten.into_iter().map(net).collect();
            let (whom, kept) = (Whom::new(&forgotten), net(kept));
            let any = |is: &dyn Fn(IpNetwork) -> bool| forgotten.iter().any(|network| is(*network));
            let of = whom.of(kept, by_hand);
            proptest::prop_assert_eq!(of.is_some(), any(&|network| is_of(kept, network, by_hand)));
            proptest::prop_assert!(of.is_none_or(|place| is_of(kept, forgotten[place], by_hand)));
            let holder = whom.holder(kept);
            proptest::prop_assert_eq!(holder.is_some(), any(&|network| within(kept, network)));
            proptest::prop_assert!(holder.is_none_or(|place| within(kept, forgotten[place])));
        }
    }
}
