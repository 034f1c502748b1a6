//! SPF records, whoever writes them: bounded, and none names the world.
#![no_main]

use std::cell::Cell;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::pin::pin;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};

use libfuzzer_sys::fuzz_target;
use rblfilter::dnsbl::spf::{self, Records7208};
use rblfilter::dnsbl::{Records, Unknown};
use rblfilter::fuzzing::proto::rr::Name;
use rblfilter::fuzzing::records;

/// Nameservers that answer each question with the next piece of the input.
struct Dns<'a>(Mutex<Cell<&'a [u8]>>, Mutex<usize>);

impl<'a> Dns<'a> {
    fn next(&self) -> &'a [u8] {
        *self.1.lock().expect("one thread") += 1;
        let rest = self.0.lock().expect("one thread");
        let bytes = rest.get();
        let end = bytes
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(bytes.len());
        rest.set(bytes.get(end + 1..).unwrap_or(&[]));
        &bytes[..end]
    }

    fn all<T>(&self, read: impl Fn(&[u8]) -> Option<T>) -> Result<Records<T>, Unknown> {
        let piece = self.next();
        if piece == b"!" {
            return Err(Unknown::Timeout);
        }
        let data = piece
            .split(|byte| *byte == b'\n')
            .filter_map(read)
            .collect();
        Ok(records(data, u32::try_from(piece.len()).unwrap_or(0)))
    }
}

fn text<T: std::str::FromStr>(piece: &[u8]) -> Option<T> {
    std::str::from_utf8(piece).ok()?.parse().ok()
}

impl Records7208 for Dns<'_> {
    async fn texts(&self, _: &Name) -> Result<Records<Vec<u8>>, Unknown> {
        self.all(|text| Some(text.to_vec()))
    }
    async fn addresses(&self, _: &Name) -> Result<Records<Ipv4Addr>, Unknown> {
        self.all(text)
    }
    async fn ipv6_addresses(&self, _: &Name) -> Result<Records<Ipv6Addr>, Unknown> {
        self.all(text)
    }
    async fn exchangers(&self, _: &Name) -> Result<Records<Name>, Unknown> {
        self.all(|name| Name::from_ascii(std::str::from_utf8(name).ok()?).ok())
    }
}

fuzz_target!(|bytes: &[u8]| {
    let dns = Dns(Mutex::new(Cell::new(bytes)), Mutex::new(0));
    let domain = Name::from_ascii("a.test.").expect("a name");
    let mut found = pin!(spf::senders(&domain, &dns));
    // Nothing is waited for.
    let Poll::Ready(found) = found.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("it waits");
    };
    // Ten terms, of which each may be an mx of ten hosts, asked for by A and AAAA.
    assert!(*dns.1.lock().expect("one thread") <= 1 + 10 * (1 + 10 * 2));
    match found {
        Ok(senders) => {
            assert!(senders.networks.len() <= 4096 && senders.ttl.as_secs() >= 300);
            for network in senders.networks {
                let widest = if network.is_ipv4() { 8 } else { 16 };
                assert!(network.prefix() >= widest, "{network}");
                assert_eq!(network.ip(), network.network());
            }
        }
        Err(error) => assert!(error.to_string().len() < 2048),
    }
});
