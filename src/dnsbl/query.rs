//! The name that a list is asked for (RFC 5782 §2.1 for IPv4, §2.4 for IPv6).

use std::fmt::Write;
use std::net::IpAddr;

use hickory_resolver::proto::rr::Name;

/// The client's octets or nibbles in reverse, before the list's domain. `None`
/// where that would be longer than a name can be.
#[must_use]
pub fn name(client: IpAddr, origin: &Name) -> Option<Name> {
    let mut text = String::with_capacity(64);
    match client {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            write!(text, "{d}.{c}.{b}.{a}.").ok()?;
        }
        IpAddr::V6(ip) => {
            for octet in ip.octets().iter().rev() {
                write!(text, "{:x}.{:x}.", octet & 15, octet >> 4).ok()?;
            }
        }
    }
    Name::from_ascii(&text).ok()?.append_domain(origin).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_rfc_5782() {
        let origin = Name::from_ascii("bad.example.com.").unwrap();
        for (client, expected) in [
            ("192.0.2.99", "99.2.0.192.bad.example.com."),
            (
                "2001:db8:1:2:3:4:567:89ab",
                "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2.bad.example.com.",
            ),
        ] {
            let name = name(client.parse().unwrap(), &origin).unwrap();
            assert_eq!(name.to_ascii(), expected);
            assert!(
                name.is_fqdn(),
                "the resolver must not try its search domains"
            );
        }
    }
}
