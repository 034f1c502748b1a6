//! The addresses that nobody bans: the admin's allowlist, the host's own, and
//! those of the hosts without which this one is cut off.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;

use crate::neighbours;

/// How old the list of own addresses may be when something is checked against it.
const OWN_ADDRESSES_AGE: Duration = Duration::from_secs(2);

/// Why an address is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// It is in the configuration's `allow.networks`.
    Allowlisted,
    /// It is an address of one of the host's interfaces.
    Own,
}

/// The allowlist, the host's own addresses, its gateways and its nameservers.
#[derive(Clone, Debug, Default)]
pub struct Protected {
    networks: Vec<IpNetwork>,
    own: HashSet<IpAddr>,
    /// The gateways of the default routes, and the system's nameservers.
    neighbours: HashSet<IpAddr>,
    /// Nameservers that the configuration names.
    nameservers: Vec<IpAddr>,
    own_read: Option<Instant>,
}

impl Protected {
    /// Protects `networks`, and after the first [`Protected::refresh`] the
    /// host's own addresses.
    #[must_use]
    pub fn new(networks: Vec<IpNetwork>) -> Self {
        Self {
            networks: networks.into_iter().map(canonical).collect(),
            ..Self::default()
        }
    }

    /// The same, and nobody bans these nameservers either.
    #[must_use]
    pub fn with_nameservers(mut self, nameservers: impl IntoIterator<Item = IpAddr>) -> Self {
        self.nameservers.extend(nameservers);
        self
    }

    /// Whether the host's own addresses were ever read. Where they were not,
    /// anybody may be one of them.
    #[must_use]
    pub fn knows_own(&self) -> bool {
        self.own_read.is_some()
    }

    /// The host's own addresses, as last read.
    pub fn own(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.own.iter().copied()
    }

    /// Reads the host's addresses, its gateways and nameservers again where the
    /// last look is more than two seconds old.
    ///
    /// # Errors
    /// What `getifaddrs(3)` says, or that a file cannot be read; the addresses
    /// of the last look stay in force.
    pub fn refresh(&mut self, now: Instant) -> io::Result<()> {
        if self
            .own_read
            .is_none_or(|at| now.duration_since(at) > OWN_ADDRESSES_AGE)
        {
            self.own = own_addresses()?;
            self.own_read = Some(now);
            self.neighbours = neighbours::read()?;
        }
        Ok(())
    }

    /// Whether `address` is protected, and by what.
    #[must_use]
    pub fn protects(&self, address: IpAddr) -> Option<Protection> {
        if self.own.contains(&address) {
            Some(Protection::Own)
        } else if self
            .networks
            .iter()
            .any(|network| network.contains(address))
        {
            Some(Protection::Allowlisted)
        } else {
            None
        }
    }

    /// Whether a ban of `network` would reach a protected address.
    #[must_use]
    pub fn overlaps(&self, network: IpNetwork) -> bool {
        self.holds_vital(network) || self.holds_allowlisted(network)
    }

    /// Whether `network` holds an address of this host, of a gateway or of a
    /// nameserver.
    #[must_use]
    pub fn holds_vital(&self, network: IpNetwork) -> bool {
        let network = canonical(network);
        let mut vital = (self.own.iter())
            .chain(&self.neighbours)
            .chain(&self.nameservers);
        vital.any(|address| network.contains(*address))
    }

    /// Whether `network` holds an allowlisted address.
    #[must_use]
    pub fn holds_allowlisted(&self, network: IpNetwork) -> bool {
        let network = canonical(network);
        self.networks.iter().any(|protected| {
            // Two networks overlap only if one holds the other's first address.
            protected.contains(network.network()) || network.contains(protected.network())
        })
    }
}

/// An IPv4 network that is written as IPv6, `::ffff:192.168.0.0/112`, as IPv4;
/// Courier writes its clients so.
#[must_use]
pub fn canonical(network: IpNetwork) -> IpNetwork {
    let IpNetwork::V6(v6) = network else {
        return network;
    };
    let v4 = v6.ip().to_ipv4_mapped().zip(v6.prefix().checked_sub(96));
    // A prefix that had 96 bits more is at most 32.
    v4.and_then(|(ip, prefix)| IpNetwork::new(ip.into(), prefix).ok())
        .unwrap_or(network)
}

/// The exact addresses of all the host's interfaces, not their networks (lo is
/// 127.0.0.0/8, yet 127.0.0.1 alone is ours).
fn own_addresses() -> io::Result<HashSet<IpAddr>> {
    Ok(getifaddrs()?
        .filter_map(|interface| interface.address)
        .filter_map(|address| ip_of(&address))
        .collect())
}

fn ip_of(address: &SockaddrStorage) -> Option<IpAddr> {
    address
        .as_sockaddr_in()
        .map(|v4| IpAddr::V4(v4.ip()))
        .or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn protected() -> Protected {
        Protected {
            own: HashSet::from([
                "127.0.0.1".parse().unwrap(),
                "fd00:1:2:3::25".parse().unwrap(),
            ]),
            neighbours: HashSet::from(["fd00:9::1".parse().unwrap()]),
            nameservers: vec!["10.9.9.53".parse().unwrap()],
            ..Protected::new(vec![
                "10.1.0.0/16".parse().unwrap(),
                "2001:db8:5::/48".parse().unwrap(),
                "::ffff:127.66.3.7".parse().unwrap(),
                "::ffff:127.66.4.0/120".parse().unwrap(),
            ])
        }
    }

    #[test]
    fn own_addresses_are_exact_and_networks_whole() {
        let protected = protected();
        for (address, expected) in [
            ("127.0.0.1", Some(Protection::Own)),
            ("127.0.0.2", None),
            ("10.1.255.255", Some(Protection::Allowlisted)),
            ("10.2.0.0", None),
            ("127.66.3.7", Some(Protection::Allowlisted)),
            ("127.66.4.255", Some(Protection::Allowlisted)),
            ("127.66.5.0", None),
            ("2001:db8:5:ffff::1", Some(Protection::Allowlisted)),
            ("fd00:1:2:3::26", None),
            // Never banned, but what it sends is judged.
            ("10.9.9.53", None),
        ] {
            assert_eq!(
                protected.protects(address.parse().unwrap()),
                expected,
                "{address}"
            );
        }
    }

    #[test]
    fn a_ban_that_reaches_a_protected_address_overlaps() {
        let protected = protected();
        for (network, expected) in [
            ("10.1.2.3/32", true),
            ("10.0.0.0/8", true),
            ("10.2.0.0/16", false),
            ("fd00:1:2:3::/64", true),
            ("fd00:1:2:3::26/128", false),
            ("2001:db8::/32", true),
            ("2001:db8:6::/48", false),
            ("127.0.0.1/32", true),
            ("127.66.4.9/32", true),
            ("::ffff:10.1.2.3/128", true),
            ("fd00:9::/64", true),
            ("fd00:9::2/128", false),
            ("10.9.9.53/32", true),
            ("10.9.9.0/24", true),
            ("10.9.9.54/32", false),
        ] {
            assert_eq!(
                protected.overlaps(network.parse().unwrap()),
                expected,
                "{network}"
            );
        }
    }

    #[test]
    fn the_loopback_address_is_our_own() {
        let mut protected = Protected::default();
        protected.refresh(Instant::now()).unwrap();
        assert_eq!(
            protected.protects("127.0.0.1".parse().unwrap()),
            Some(Protection::Own)
        );
    }
}
