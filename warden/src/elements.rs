//! The elements of a set of nft(8) as the kernel takes and tells them
//! (include/uapi/linux/netfilter/nf_tables.h), written and read.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;

use crate::netfilter;

/// `NFTA_LIST_ELEM`.
const ELEMENT: u16 = 1;
/// `NFTA_SET_ELEM_KEY`, `_FLAGS`, `_TIMEOUT`, `_EXPIRATION`; `NFTA_DATA_VALUE`.
const KEY: u16 = 1;
const FLAGS: u16 = 3;
const TIMEOUT: u16 = 4;
const EXPIRATION: u16 = 5;
const VALUE: u16 = 1;
/// `NFT_SET_ELEM_INTERVAL_END`.
const INTERVAL_END: u32 = 1;

/// The elements for `network`, by itself or as an interval, with the time that
/// it has.
#[must_use]
pub fn encode(network: IpNetwork, as_interval: bool, seconds: Option<u32>) -> Vec<u8> {
    let mut element = Vec::new();
    put_key(&mut element, network.network());
    if let Some(seconds) = seconds {
        let milliseconds = u64::from(seconds) * 1000;
        netfilter::put(&mut element, TIMEOUT, &milliseconds.to_be_bytes());
    }
    let mut elements = Vec::new();
    netfilter::put_nested(&mut elements, ELEMENT, &element);
    if as_interval && let Some(after) = after(network) {
        let mut element = Vec::new();
        put_key(&mut element, after);
        netfilter::put(&mut element, FLAGS, &INTERVAL_END.to_be_bytes());
        netfilter::put_nested(&mut elements, ELEMENT, &element);
    }
    elements
}

/// The marks in a list of elements; what is none is passed over.
pub fn marks(list: &[u8], now: Instant) -> impl Iterator<Item = Mark> {
    netfilter::attributes(list).filter_map(move |(_, element)| mark(element, now))
}

/// The single addresses that marks are.
pub fn addresses(marks: &[Mark], ipv6: bool) -> impl Iterator<Item = (IpNetwork, Option<Instant>)> {
    let alone = move |mark: &Mark| Some((address(mark.key, ipv6)?.into(), mark.end));
    marks.iter().filter_map(alone)
}

/// The first or the last of an interval, or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The address, as a number.
    pub key: u128,
    /// Whether the interval before it ends here.
    pub is_end: bool,
    /// When it ends; `None`: never.
    pub end: Option<Instant>,
}

/// The mark in an element's attributes.
fn mark(element: &[u8], now: Instant) -> Option<Mark> {
    let value = netfilter::attribute(netfilter::attribute(element, KEY)?, VALUE)?;
    let key = match *value {
        [a, b, c, d] => u32::from_be_bytes([a, b, c, d]).into(),
        _ => u128::from_be_bytes(value.try_into().ok()?),
    };
    let milliseconds = |kind| {
        let value = netfilter::attribute(element, kind)?;
        Some(u64::from_be_bytes(value.try_into().ok()?))
    };
    Some(Mark {
        key,
        is_end: netfilter::be32(element, FLAGS).unwrap_or(0) & INTERVAL_END != 0,
        end: milliseconds(EXPIRATION)
            .or_else(|| milliseconds(TIMEOUT))
            .and_then(|left| now.checked_add(Duration::from_millis(left))),
    })
}

/// The networks between marks; an interval that is no network is passed over.
#[must_use]
pub fn intervals(mut marks: Vec<Mark>, ipv6: bool) -> Vec<(IpNetwork, Option<Instant>)> {
    // Where one ends and the next begins, the end comes first.
    marks.sort_by_key(|mark| (mark.key, !mark.is_end));
    let mut networks = Vec::new();
    let all: u128 = if ipv6 { u128::MAX } else { u32::MAX.into() };
    for (at, start) in marks.iter().enumerate().filter(|(_, mark)| !mark.is_end) {
        let after = marks.get(at + 1).map(|next| next.key);
        let last = after.map_or(all, |after| after.wrapping_sub(1));
        // A network's size, less one, is all ones below its prefix.
        let size = last.wrapping_sub(start.key);
        let host_bits = size.count_ones();
        let aligned = size & size.wrapping_add(1) == 0 && start.key & size == 0;
        let bits: u32 = if ipv6 { 128 } else { 32 };
        let prefix = bits
            .checked_sub(host_bits)
            .and_then(|p| u8::try_from(p).ok());
        if let (true, Some(prefix), Some(first)) = (aligned, prefix, address(start.key, ipv6))
            && let Ok(network) = IpNetwork::new(first, prefix)
        {
            networks.push((network, start.end));
        }
    }
    networks
}

fn address(key: u128, ipv6: bool) -> Option<IpAddr> {
    if ipv6 {
        return Some(Ipv6Addr::from(key).into());
    }
    Some(Ipv4Addr::from(u32::try_from(key).ok()?).into())
}

/// The first address after a network, unless it is the last of all.
fn after(network: IpNetwork) -> Option<IpAddr> {
    match network {
        IpNetwork::V4(v4) => {
            let next = u32::from(v4.broadcast()).checked_add(1)?;
            Some(Ipv4Addr::from(next).into())
        }
        IpNetwork::V6(v6) => {
            let next = u128::from(v6.broadcast()).checked_add(1)?;
            Some(Ipv6Addr::from(next).into())
        }
    }
}

fn put_key(element: &mut Vec<u8>, address: IpAddr) {
    let mut value = Vec::new();
    match address {
        IpAddr::V4(ip) => netfilter::put(&mut value, VALUE, &ip.octets()),
        IpAddr::V6(ip) => netfilter::put(&mut value, VALUE, &ip.octets()),
    }
    netfilter::put_nested(element, KEY, &value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_networks() {
        let now = Instant::now();
        let mark = |text: &str, is_end: bool| {
            let key = match text.parse().unwrap() {
                IpAddr::V4(ip) => u32::from(ip).into(),
                IpAddr::V6(ip) => u128::from(ip),
            };
            let end = (!is_end).then_some(now);
            Mark { key, is_end, end }
        };
        let marks = vec![
            mark("255.0.0.0", false),
            mark("10.1.0.0", true),
            mark("10.0.0.0", false),
            mark("10.2.0.0", true),
            mark("10.1.0.0", false),
            mark("0.0.0.0", true),
            mark("11.0.0.1", false),
            mark("11.0.0.4", true),
        ];
        let networks: Vec<String> = intervals(marks, false)
            .iter()
            .map(|(network, _)| network.to_string())
            .collect();
        assert_eq!(networks, ["10.0.0.0/16", "10.1.0.0/16", "255.0.0.0/8"]);
        let marks = vec![mark("fd00:66::", false), mark("fd00:66:0:1::", true)];
        assert_eq!(
            intervals(marks, true),
            [("fd00:66::/64".parse().unwrap(), Some(now))]
        );
    }

    #[test]
    fn what_is_sent_can_be_read() {
        let now = Instant::now();
        let mut element = Vec::new();
        put_key(&mut element, "10.1.2.3".parse().unwrap());
        netfilter::put(&mut element, TIMEOUT, &9000_u64.to_be_bytes());
        let read = mark(&element, now).unwrap();
        assert_eq!(read.end, Some(now + Duration::from_secs(9)));
        assert_eq!(address(read.key, false), "10.1.2.3".parse().ok());
        netfilter::put(&mut element, EXPIRATION, &1000_u64.to_be_bytes());
        assert_eq!(
            mark(&element, now).unwrap().end,
            Some(now + Duration::from_secs(1))
        );
        assert_eq!(mark(&[1, 2, 3], now), None);
    }
}
