//! A mail log: whatever stands in it, a report of it is made, its numbers agree
//! with one another, and no word of a client reaches a terminal or a page as it is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rblfilter::report::{Clock, Look, Options, Tally, page, text};

/// 2026-11-24T10:00:00Z, of which the corpus is.
const AT: i64 = 1_795_514_400;

// What is asked for, and then the log.
fuzz_target!(|bytes: &[u8]| {
    let Some((&[flags, hold, since, until], log)) = bytes.split_first_chunk() else {
        return;
    };
    let zone = jiff::tz::TimeZone::UTC;
    let newest = AT + 3600;
    let within =
        |flag: u8, minutes: u8| (flags & flag > 0).then_some(AT + (i64::from(minutes) - 128) * 60);
    let options = Options {
        zone: zone.clone(),
        since: within(1, since),
        until: within(2, until),
        hold: i64::from(hold),
        anonymise: flags & 4 > 0,
    };
    // In pieces of whole lines, as it is read, and at once.
    let count = |blocks: &mut dyn Iterator<Item = &[u8]>| {
        let mut tally = Tally::new(options.clone());
        let mut clock = Clock::new(zone.clone(), newest);
        for block in blocks {
            tally.read(&mut clock, block);
        }
        tally.finish()
    };
    let report = count(&mut std::iter::once(log));
    let again = count(&mut log.split_inclusive(|byte| *byte == b'\n'));
    let json = serde_json::to_string(&report).expect("it is JSON");
    assert_eq!(json, serde_json::to_string(&again).expect("it is JSON"));

    let steps: u64 = report.points().map(|point| point.connections).sum();
    assert_eq!(steps, report.totals.connections);
    assert!(report.counted_lines + report.outside + report.no_stamp <= report.lines);
    let look = Look {
        unicode: false,
        colour: false,
    };
    for line in text(&report, look).lines() {
        assert!(line.len() <= 80, "{line:?}");
        assert!(
            line.bytes().all(|byte| matches!(byte, b' '..=b'~')),
            "{line:?}"
        );
    }
    let page = page(&report);
    assert!(!page.chars().any(|c| c.is_control() && c != '\n'));
    assert!(!page.contains("<script"));
});
