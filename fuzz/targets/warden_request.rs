//! The fixed-size messages between the filter and the warden have one form.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rblfilter_warden::protected::Protected;
use rblfilter_warden::request::{Reply, Request};

fuzz_target!(|bytes: &[u8]| {
    if let Some((serial, request)) = Request::decode(bytes) {
        assert_eq!(request.encode(serial), bytes);
        if let Request::Ban { network, .. } | Request::BanByHand { network, .. } = request {
            // Whatever a ban would reach of what is protected is seen.
            let allowed = ["10.1.0.0/16", "2001:db8:5::/48", "::ffff:127.66.3.7/128"];
            let allowed = allowed.map(|text| text.parse().expect("a network"));
            let protected = Protected::new(allowed.to_vec());
            // (A mapped address comes in no IPv6 packet.)
            let reaches = ["10.1.2.3", "2001:db8:5:9::1", "127.66.3.7"];
            let reaches = reaches.map(|text| text.parse().expect("an address"));
            if reaches.iter().any(|address| network.contains(*address)) {
                assert!(protected.overlaps(network), "{network}");
            }
        }
    }
    if let Some(reply) = Reply::decode(bytes) {
        assert_eq!(reply.encode(), bytes);
        let _ = reply.outcome.to_string();
    }
});
