//! Datagrams of the proc connector: no more processes than fit, none that
//! cannot be.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rblfilter::watch::connector::execs;

/// `nlmsghdr`, `cn_msg`, and an event up to the process's number.
const LEAST: usize = 16 + 20 + 24;

fuzz_target!(|datagram: &[u8]| {
    let pids: Vec<i32> = execs(datagram).collect();
    assert!(pids.iter().all(|pid| *pid > 0));
    // The last may lack the padding to a multiple of four.
    assert!(pids.len() <= datagram.len() / LEAST);
    for pid in pids {
        let number = pid.to_ne_bytes();
        assert!(datagram.windows(4).any(|four| four == number));
    }
});
