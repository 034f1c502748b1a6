//! The texts that the warden reads: routes, resolv.conf, a saved ipset.
#![no_main]

use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use rblfilter_warden::fuzzing::neighbours_in;
use rblfilter_warden::neighbours::nameserver;
use rblfilter_warden::saved::Saved;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    // A line names one at most, as each of the three.
    let lines = text.lines().count();
    assert!(neighbours_in(&text).len() <= 3 * lines);
    let _ = nameserver(&text);
    let now = Instant::now();
    if let Some(saved) = Saved::parse(&text, now) {
        assert!(saved.ends.len() < lines);
        assert!(!(saved.fits(false) && saved.fits(true)));
        // An entry that ends ends later.
        assert!(saved.ends.values().flatten().all(|end| *end > now));
    }
});
