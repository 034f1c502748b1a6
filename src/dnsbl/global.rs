//! Which addresses a list can know anything of.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether `address` is one that the whole Internet means the same host by: not
/// private (RFC 1918, RFC 4193), shared (RFC 6598), loopback, link-local,
/// unspecified, multicast or reserved.
#[must_use]
pub fn is_global(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => is_global4(v4),
        IpAddr::V6(v6) => is_global6(v6),
    }
}

fn is_global4(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    !(address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || a == 0
        || a >= 224
        || (a, b & 0xc0) == (100, 64))
}

fn is_global6(address: Ipv6Addr) -> bool {
    // All that is in use: 2000::/3 (IANA).
    address.segments()[0] & 0xe000 == 0x2000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_nobodys() {
        for (address, expected) in [
            ("8.8.8.8", true),
            ("100.63.0.1", true),
            ("100.64.0.1", false),
            ("100.127.255.255", false),
            ("100.128.0.1", true),
            ("10.0.0.1", false),
            ("172.16.0.1", false),
            ("172.32.0.1", true),
            ("192.168.1.1", false),
            ("127.66.1.2", false),
            ("169.254.0.1", false),
            ("0.0.0.0", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("2001:4860::1", true),
            ("::1", false),
            ("fd00:66::1", false),
            ("fe80::1", false),
            ("ff02::1", false),
            ("::ffff:10.0.0.1", false),
            ("::ffff:8.8.8.8", true),
        ] {
            assert_eq!(is_global(address.parse().unwrap()), expected, "{address}");
        }
    }
}
