//! What is banned with a client.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// The network to ban for `client`: an IPv4 address alone; an IPv6 client's
/// `prefix6`, as it can take any address in it, or its address alone where
/// that network holds one that is `spared`: protected, or known to be good.
#[must_use]
pub fn network_of(
    client: IpAddr,
    prefix6: u8,
    spared: impl FnOnce(IpNetwork) -> bool,
) -> IpNetwork {
    let alone = IpNetwork::from(client);
    if client.is_ipv4() {
        return alone;
    }
    let wide = around(client, prefix6);
    if wide != alone && spared(wide) {
        alone
    } else {
        wide
    }
}

/// The network of this prefix length that holds `address`.
#[must_use]
pub fn around(address: IpAddr, prefix: u8) -> IpNetwork {
    // A checked prefix is at most 128.
    IpNetwork::new(address, prefix)
        .and_then(|network| IpNetwork::new(network.network(), prefix))
        .unwrap_or_else(|_| address.into())
}

/// Whether all of `one` is in `other`.
#[must_use]
pub fn within(one: IpNetwork, other: IpNetwork) -> bool {
    one.prefix() >= other.prefix() && other.contains(one.network())
}

/// Whether two networks have an address in common.
#[must_use]
pub fn overlap(one: IpNetwork, other: IpNetwork) -> bool {
    // Only if one holds the other's first address.
    one.contains(other.network()) || other.contains(one.network())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rblfilter_warden::protected::Protected;

    #[test]
    fn ipv6_by_prefix_unless_that_holds_a_protected_address() {
        let protected = Protected::new(vec!["fd00:1::25/128".parse().unwrap()])
            .with_nameservers(["fd00:2::53".parse().unwrap()]);
        for (client, prefix, expected) in [
            ("127.66.1.2", 64, "127.66.1.2/32"),
            ("fd00:66:1:2:3:4:5:6", 64, "fd00:66:1:2::/64"),
            ("fd00:66:1:2:3:4:5:6", 128, "fd00:66:1:2:3:4:5:6/128"),
            ("fd00:1::26", 64, "fd00:1::26/128"),
            ("fd00:2::54", 64, "fd00:2::54/128"),
        ] {
            let client = client.parse().unwrap();
            let network = network_of(client, prefix, |network| protected.overlaps(network));
            assert_eq!(network.to_string(), expected);
        }
    }

    #[test]
    fn networks_overlap_where_one_is_in_the_other() {
        for (one, other, expected) in [
            ("10.0.0.0/8", "10.1.2.3/32", true),
            ("10.1.2.3/32", "10.0.0.0/8", true),
            ("10.0.0.0/8", "11.0.0.0/8", false),
            ("fd00:1::/64", "fd00:1::5/128", true),
            ("0.0.0.0/0", "fd00::/16", false),
        ] {
            let (one, other) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!(overlap(one, other), expected, "{one} {other}");
        }
    }
}
