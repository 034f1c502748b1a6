//! What is kept of an address, where it is to be forgotten. Pure.

use ipnetwork::IpNetwork;

use super::ban::{overlap, within};

/// Whether what is kept of the network `kept` is of `forgotten`, and goes with it.
/// What the admin did by hand to a wider network is not for this address's sake, and
/// stays; what a verdict did to one (an IPv6 client's /64) is.
#[must_use]
pub fn is_of(kept: IpNetwork, forgotten: IpNetwork, by_hand: bool) -> bool {
    within(kept, forgotten) || !by_hand && overlap(kept, forgotten)
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
}
