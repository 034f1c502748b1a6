//! What is banned with a client.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use rblfilter_warden::protected::Protected;

/// The network to ban for `client`: an IPv4 address alone; an IPv6 client's
/// `prefix6`, as it can take any address in it, or its address alone where
/// that network holds a protected one.
#[must_use]
pub fn network_of(client: IpAddr, prefix6: u8, protected: &Protected) -> IpNetwork {
    let alone = IpNetwork::from(client);
    if client.is_ipv4() {
        return alone;
    }
    // A checked prefix is at most 128.
    let wide = IpNetwork::new(client, prefix6)
        .and_then(|network| IpNetwork::new(network.network(), prefix6))
        .unwrap_or(alone);
    if protected.overlaps(wide) {
        alone
    } else {
        wide
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let network = network_of(client.parse().unwrap(), prefix, &protected);
            assert_eq!(network.to_string(), expected);
        }
    }
}
