//! What a million bans take in the filter's memory.
//!
//! `cargo bench --bench book`
#![allow(missing_docs, clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnetwork::IpNetwork;
use rblfilter::enforce::book::{Book, Record};
use rblfilter::enforce::durations::Durations;
use rblfilter::enforce::grounds::Grounds;

const HOUR: u32 = 3600;
const NOW: u32 = 1_800_000_000;

fn resident() -> f64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u32 = pages.split_whitespace().nth(1).unwrap().parse().unwrap();
    f64::from(pages) * 4096.0
}

fn main() {
    for seconds in [HOUR, 24 * HOUR] {
        let rule = Durations {
            time: HOUR,
            factor: 2.0,
            max_time: 24 * HOUR,
            window: 7 * 24 * HOUR,
        };
        let grounds = Arc::new(Grounds {
            zones: vec!["bl.test".into()],
            rests_on: vec![0],
            ..Grounds::default()
        });
        let before = resident();
        let mut book = Book::new(rule, HOUR);
        for number in 0..1_000_000_u32 {
            let client = IpAddr::from(Ipv4Addr::from(number.wrapping_mul(2_654_435_761)));
            let record = Record {
                network: IpNetwork::from(client),
                client,
                since: NOW,
                until: NOW + seconds + number % 1000,
                count: 1,
                grounds: Arc::clone(&grounds),
                hand: None,
            };
            book.insert(record, NOW);
        }
        let bytes = (resident() - before) / 1e6;
        println!(
            "{} bans of {} h: {bytes:.0} bytes each",
            book.len(),
            seconds / HOUR
        );
    }
}
