//! One line of a mail log: its time is within what can be told, and what it says
//! is in the line.
#![no_main]

use jiff::tz::TimeZone;
use libfuzzer_sys::fuzz_target;
use rblfilter::report::{Clock, Event, Ours, event};

/// 2026-11-24T10:00:00Z.
const AT: i64 = 1_795_514_400;

fuzz_target!(|line: &[u8]| {
    for zone in [TimeZone::UTC, TimeZone::fixed(jiff::tz::offset(-7))] {
        let mut clock = Clock::new(zone, AT);
        let first = clock.head(line);
        // What a clock remembers makes no difference.
        assert_eq!(first, clock.head(line));
        if let Some(head) = first {
            // journalctl's JSON is written otherwise than it is meant.
            if line.first() != Some(&b'{') {
                assert!(head.ident.len() + head.message.len() < line.len());
            }
            if let Some((event, times)) = event(&head.ident, &head.message) {
                if let Event::Ours(ours) = event {
                    assert!(ours.event.iter().all(u8::is_ascii_lowercase));
                }
                assert!(times <= 100_000_000);
            }
        }
    }
    if let Some(ours) = Ours::parse(line) {
        assert!(!ours.event.is_empty());
    }
});
