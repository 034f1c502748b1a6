//! What netfilter says of our sets, of ipset(8) and of nft(8): what
//! was written is read, and nothing is read into garbage.
#![no_main]

use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use libfuzzer_sys::fuzz_target;
use rblfilter_warden::elements;
use rblfilter_warden::fuzzing::netfilter_parts;
use rblfilter_warden::listed::{self, Ends, Listed};
use rblfilter_warden::netfilter::{
    FAMILY_IPV4, FAMILY_IPV6, attribute, attributes, be32, put_nested,
};

fuzz_target!(|bytes: &[u8]| {
    let now = Instant::now();
    let mut listed = Listed::default();
    for (_, body, _) in netfilter_parts(bytes) {
        let body = body.get(4..).unwrap_or(&[]);
        for kind in 1..6 {
            let _ = be32(body, kind);
        }
        assert!(attributes(body).count() <= body.len() / 4 + 1);
        let list = attribute(body, 3).unwrap_or(&[]);
        read(list, now);
        listed.take(body, now);
    }
    listed.take(bytes, now);
    assert!(listed.ends.len() <= bytes.len() / 4);
    assert!(!(listed.fits(FAMILY_IPV4) && listed.fits(FAMILY_IPV6)));
    assert!(listed.ends.values().flatten().all(|end| *end > now));
    read(bytes, now);
    if let [length, seconds, address @ ..] = bytes {
        let network = match address {
            [a, b, c, d] => IpNetwork::new([*a, *b, *c, *d].into(), length % 33),
            _ => match <[u8; 16]>::try_from(address) {
                Ok(octets) => IpNetwork::new(octets.into(), length % 129),
                Err(_) => return,
            },
        };
        let network = network.expect("a prefix that can be");
        let network = IpNetwork::new(network.network(), network.prefix()).expect("the same");
        let seconds = u32::from(*seconds) + 1;
        let list = elements::encode(network, true, Some(seconds));
        let marks: Vec<_> = elements::marks(&list, now).collect();
        let end = Some(now + Duration::from_secs(seconds.into()));
        let read = elements::intervals(marks, network.is_ipv6());
        assert_eq!(read, [(network, end)]);
        let mut entries = Vec::new();
        put_nested(&mut entries, 7, &listed::entry(network, Some(seconds)));
        let mut answer = Vec::new();
        put_nested(&mut answer, 8, &entries);
        let mut read = Listed::default();
        read.take(&answer, now);
        assert_eq!(read.ends, Ends::from([(network, end)]));
    }
});

fn read(list: &[u8], now: Instant) {
    let marks: Vec<_> = elements::marks(list, now).collect();
    for ipv6 in [false, true] {
        for (network, _) in elements::addresses(&marks, ipv6) {
            assert_eq!(network.is_ipv6(), ipv6);
        }
        let starts = marks.iter().filter(|mark| !mark.is_end).count();
        let networks = elements::intervals(marks.clone(), ipv6);
        assert!(networks.len() <= starts);
        for (network, _) in networks {
            assert_eq!((network.is_ipv6(), network.network()), (ipv6, network.ip()));
        }
    }
}
