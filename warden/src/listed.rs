//! The entries of a set of ipset(8) as the kernel takes and lists them
//! (include/uapi/linux/netfilter/ipset/ip_set.h), written and read.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;

use crate::netfilter::{self, FAMILY_NONE, NETWORK_ORDER};

/// Networks, and when each ends; `None`: never.
pub type Ends = HashMap<IpNetwork, Option<Instant>>;

/// The attributes of a set, and of an entry.
const ATTR_TYPENAME: u16 = 3;
const ATTR_FAMILY: u16 = 5;
const ATTR_DATA: u16 = 7;
const ATTR_ADT: u16 = 8;
const ATTR_IP: u16 = 1;
const ATTR_CIDR: u16 = 3;
const ATTR_TIMEOUT: u16 = 6;
/// `IPSET_ATTR_IPADDR_IPV4` and `_IPV6`, within `IPSET_ATTR_IP`.
const ADDRESS_V4: u16 = 1;
const ADDRESS_V6: u16 = 2;

/// The attributes of an entry.
#[must_use]
pub fn entry(network: IpNetwork, seconds: Option<u32>) -> Vec<u8> {
    let mut address = Vec::new();
    match network {
        IpNetwork::V4(v4) => {
            netfilter::put(&mut address, ADDRESS_V4 | NETWORK_ORDER, &v4.ip().octets());
        }
        IpNetwork::V6(v6) => {
            netfilter::put(&mut address, ADDRESS_V6 | NETWORK_ORDER, &v6.ip().octets());
        }
    }
    let mut bytes = Vec::new();
    netfilter::put_nested(&mut bytes, ATTR_IP, &address);
    netfilter::put(&mut bytes, ATTR_CIDR, &[network.prefix()]);
    if let Some(seconds) = seconds {
        let kind = ATTR_TIMEOUT | NETWORK_ORDER;
        netfilter::put(&mut bytes, kind, &seconds.to_be_bytes());
    }
    bytes
}

/// What the kernel tells of a set: a header, and its entries in many messages.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Listed {
    hash_net: bool,
    family: u8,
    timeout: bool,
    /// Its entries, and when each ends.
    pub ends: Ends,
}

impl Listed {
    /// Reads one message; an entry that is no network is passed over.
    pub fn take(&mut self, answer: &[u8], now: Instant) {
        if let Some(name) = netfilter::attribute(answer, ATTR_TYPENAME) {
            let header = netfilter::attribute(answer, ATTR_DATA).unwrap_or(&[]);
            self.hash_net = name == b"hash:net\0";
            self.family = match netfilter::attribute(answer, ATTR_FAMILY) {
                Some([family]) => *family,
                _ => FAMILY_NONE,
            };
            self.timeout = netfilter::attribute(header, ATTR_TIMEOUT).is_some();
        }
        let entries = netfilter::attribute(answer, ATTR_ADT).unwrap_or(&[]);
        self.ends
            .extend(netfilter::attributes(entries).filter_map(|(_, data)| member(data, now)));
    }

    /// Whether it is a set of networks with timeouts, of this family.
    #[must_use]
    pub fn fits(&self, family: u8) -> bool {
        self.hash_net && self.timeout && self.family == family
    }
}

/// A network in a set, and when it ends.
fn member(data: &[u8], now: Instant) -> Option<(IpNetwork, Option<Instant>)> {
    let (mut address, mut prefix, mut seconds) = (None, None, 0);
    // One pass: there may be a million.
    for (kind, value) in netfilter::attributes(data) {
        match kind {
            ATTR_IP => address = netfilter::attributes(value).next(),
            ATTR_CIDR => prefix = value.first().copied(),
            ATTR_TIMEOUT => seconds = u32::from_be_bytes(value.try_into().ok()?),
            _ => {}
        }
    }
    let address: IpAddr = match address? {
        (ADDRESS_V4, octets) => <[u8; 4]>::try_from(octets).ok()?.into(),
        (ADDRESS_V6, octets) => <[u8; 16]>::try_from(octets).ok()?.into(),
        _ => return None,
    };
    let end = (seconds > 0).then(|| now + Duration::from_secs(seconds.into()));
    Some((IpNetwork::new(address, prefix?).ok()?, end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netfilter::{FAMILY_IPV4, FAMILY_IPV6, IPSET_ATTR_PROTOCOL, IPSET_PROTOCOL};

    const ATTR_REFERENCES: u16 = 25;

    fn header(kind: &str, family: u8, timeout: bool) -> Vec<u8> {
        let mut data = Vec::new();
        netfilter::put(&mut data, ATTR_REFERENCES | NETWORK_ORDER, &[0, 0, 0, 1]);
        if timeout {
            netfilter::put(&mut data, ATTR_TIMEOUT | NETWORK_ORDER, &[0, 0, 14, 16]);
        }
        let mut answer = Vec::new();
        netfilter::put(&mut answer, IPSET_ATTR_PROTOCOL, &[IPSET_PROTOCOL]);
        netfilter::put(&mut answer, ATTR_TYPENAME, format!("{kind}\0").as_bytes());
        netfilter::put(&mut answer, ATTR_FAMILY, &[family]);
        netfilter::put_nested(&mut answer, ATTR_DATA, &data);
        answer
    }

    #[test]
    fn what_is_listed_tells_the_type_and_when_each_entry_ends() {
        let now = Instant::now();
        let mut entries = Vec::new();
        for (network, seconds) in [("fd00:66::/64", 90), ("fd00:67::1/128", 0)] {
            let data = entry(network.parse().unwrap(), Some(seconds));
            netfilter::put_nested(&mut entries, ATTR_DATA, &data);
        }
        netfilter::put_nested(&mut entries, ATTR_DATA, b"nonsense");
        let mut more = Vec::new();
        netfilter::put_nested(&mut more, ATTR_ADT, &entries);
        let mut listed = Listed::default();
        listed.take(&header("hash:net", FAMILY_IPV6, true), now);
        listed.take(&more, now);
        assert!(listed.fits(FAMILY_IPV6));
        assert!(!listed.fits(FAMILY_IPV4));
        let end = Some(now + Duration::from_secs(90));
        assert_eq!(
            listed.ends,
            Ends::from([
                ("fd00:66::/64".parse().unwrap(), end),
                ("fd00:67::1/128".parse().unwrap(), None),
            ])
        );
    }

    #[test]
    fn a_set_of_another_kind_does_not_fit() {
        for (kind, family, timeout) in [
            ("hash:ip", FAMILY_IPV4, true),
            ("hash:net", FAMILY_IPV4, false),
            ("hash:net", FAMILY_IPV6, true),
        ] {
            let mut listed = Listed::default();
            listed.take(&header(kind, family, timeout), Instant::now());
            assert!(!listed.fits(FAMILY_IPV4), "{kind} {family} {timeout}");
        }
        let mut listed = Listed::default();
        listed.take(&[1, 2, 3], Instant::now());
        assert!(!listed.fits(FAMILY_IPV4));
    }
}
