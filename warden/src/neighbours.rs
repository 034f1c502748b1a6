//! The hosts without which this one is cut off: the gateways of its default
//! routes, and its nameservers.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The kernel's routes (`net/ipv4/fib_trie.c`, `net/ipv6/route.c`).
const ROUTES4: &str = "/proc/net/route";
const ROUTES6: &str = "/proc/net/ipv6_route";
/// Where the system's nameservers stand (resolv.conf(5)).
pub const RESOLV_CONF: &str = "/etc/resolv.conf";
/// `RTF_GATEWAY` (include/uapi/linux/route.h).
const GATEWAY: u32 = 2;

/// Those of this host, in its network namespace.
///
/// # Errors
/// Where a file is there and cannot be read.
pub fn read() -> io::Result<HashSet<IpAddr>> {
    let mut all = HashSet::new();
    for (path, parse) in [
        (ROUTES4, gateways4 as fn(&str) -> Vec<IpAddr>),
        (ROUTES6, gateways6),
        (RESOLV_CONF, nameservers),
    ] {
        match fs::read(path) {
            Ok(bytes) => all.extend(parse(&String::from_utf8_lossy(&bytes))),
            // No IPv6, or a resolver on this host.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io::Error::new(error.kind(), format!("{path}: {error}"))),
        }
    }
    Ok(all)
}

/// The address in what the configuration says of a nameserver.
#[must_use]
pub fn nameserver(text: &str) -> Option<IpAddr> {
    text.parse().ok().or_else(|| {
        let socket: SocketAddr = text.parse().ok()?;
        Some(socket.ip())
    })
}

/// `Iface Destination Gateway Flags RefCnt Use Metric Mask …`, addresses as
/// numbers of this machine's byte order.
pub(crate) fn gateways4(text: &str) -> Vec<IpAddr> {
    let gateway = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let number = |at: usize| u32::from_str_radix(words.get(at)?, 16).ok();
        let is_default = number(1)? == 0 && number(7)? == 0 && number(3)? & GATEWAY != 0;
        is_default.then_some(IpAddr::V4(Ipv4Addr::from(number(2)?.to_ne_bytes())))
    };
    text.lines().filter_map(gateway).collect()
}

/// `destination length source length gateway metric refcnt use flags iface`.
pub(crate) fn gateways6(text: &str) -> Vec<IpAddr> {
    let gateway = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let number = |at: usize| u128::from_str_radix(words.get(at)?, 16).ok();
        let is_default =
            number(0)? == 0 && number(1)? == 0 && number(8)? & u128::from(GATEWAY) != 0;
        is_default.then_some(IpAddr::V6(Ipv6Addr::from(number(4)?)))
    };
    text.lines().filter_map(gateway).collect()
}

/// resolv.conf(5).
pub(crate) fn nameservers(text: &str) -> Vec<IpAddr> {
    let server = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let address = (words.next()? == "nameserver").then(|| words.next())??;
        // A link-local one stands with its interface.
        address.split('%').next()?.parse().ok()
    };
    text.lines().filter_map(server).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_gateways_of_default_routes_are_read() {
        let gateway = u32::from_ne_bytes([10, 66, 1, 254]);
        let other = u32::from_ne_bytes([10, 66, 9, 9]);
        let text = format!(
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
             eth0\t00000000\t{gateway:08X}\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
             eth0\t0000420A\t{other:08X}\t0003\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
             tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n"
        );
        assert_eq!(gateways4(&text), ips(&["10.66.1.254"]));
        assert!(gateways4("nonsense\n\n").is_empty());
    }

    #[test]
    fn those_of_ipv6_too() {
        let zero = "0".repeat(32);
        let text = format!(
            "{zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003 eth0\n\
             fd000000000000000000000000000000 08 {zero} 00 fe800000000000000000000000000009 00000400 00000001 00000000 00000003 eth0\n\
             {zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200 lo\n"
        );
        assert_eq!(gateways6(&text), ips(&["fe80::1"]));
    }

    #[test]
    fn nameservers_are_read() {
        let text = "# nameserver 10.0.0.9\nsearch a.test\nnameserver 10.0.0.1\n  nameserver fe80::1%eth0\nnameservers 10.0.0.8\nnameserver\n";
        assert_eq!(nameservers(text), ips(&["10.0.0.1", "fe80::1"]));
        for (text, expected) in [
            ("10.0.0.1", Some("10.0.0.1")),
            ("10.0.0.1:5353", Some("10.0.0.1")),
            ("[::1]:5353", Some("::1")),
            ("ns.test", None),
        ] {
            assert_eq!(nameserver(text), expected.map(|ip| ip.parse().unwrap()));
        }
    }
}
