//! Datagrams of sock_diag: no more connections than fit.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rblfilter::fuzzing::connections;

/// `nlmsghdr` and `inet_diag_msg`.
const LEAST: usize = 16 + 72;

fuzz_target!(|bytes: &[u8]| {
    let Some((single, datagram)) = bytes.split_first() else {
        return;
    };
    let single = single & 1 == 1;
    if let Ok((all, ends)) = connections(datagram, single) {
        assert!(all.len() <= datagram.len() / LEAST + 1);
        assert!(!single || all.len() <= 1);
        assert!(ends || !datagram.is_empty() || all.is_empty());
    }
});
