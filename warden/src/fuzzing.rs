//! What the fuzz targets need of private rooms; no part of the library.

use std::collections::HashSet;
use std::net::IpAddr;

use crate::{neighbours, netfilter};

/// Gateways and nameservers in a text, read as each of the three files.
#[must_use]
pub fn neighbours_in(text: &str) -> HashSet<IpAddr> {
    let mut all = HashSet::new();
    all.extend(neighbours::gateways4(text));
    all.extend(neighbours::gateways6(text));
    all.extend(neighbours::nameservers(text));
    all
}

/// The messages of a datagram of netfilter's: their serial numbers, their
/// bodies, and what each is an error of.
#[must_use]
pub fn netfilter_parts(datagram: &[u8]) -> Vec<(u32, &[u8], Option<i32>)> {
    netfilter::parts(datagram)
        .map(|(_, serial, body)| (serial, body, netfilter::error_in(body)))
        .collect()
}
