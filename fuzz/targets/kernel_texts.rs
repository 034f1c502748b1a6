//! The texts that the warden reads: routes, resolv.conf.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rblfilter_warden::fuzzing::neighbours_in;
use rblfilter_warden::neighbours::nameserver;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    // A line names one at most, as each of the three.
    let lines = text.lines().count();
    assert!(neighbours_in(&text).len() <= 3 * lines);
    let _ = nameserver(&text);
});
