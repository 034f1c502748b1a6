//! The control socket: a request is sound and means the same when it is
//! written again; what is shown of a wrong one holds no control character.
//! The same for the answers that the admin's commands read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rblfilter::control::{self, Answer, MAX_NETWORKS, MAX_REASON, Request};

fuzz_target!(|line: &[u8]| {
    match control::parse(line) {
        Ok(request) => {
            let again = serde_json::to_vec(&request).expect("JSON");
            assert_eq!(control::parse(&again).as_ref(), Ok(&request));
            match request {
                Request::Ban {
                    network, reason, ..
                } => {
                    assert!(network.ip() == network.network() && reason.len() <= MAX_REASON);
                }
                Request::Unban { networks, .. } => assert!(networks.len() <= MAX_NETWORKS),
                Request::End { pid, .. } => assert!(pid > 0),
                _ => {}
            }
        }
        Err(error) => assert!(
            !error.chars().any(char::is_control) && error.len() < 1024,
            "{error}"
        ),
    }
    let is_plain = |shown: &str| !shown.chars().any(char::is_control);
    match serde_json::from_slice(line) {
        Ok(Answer::Entry(entry)) => {
            let shown = rblfilter::fuzzing::shown(&entry);
            assert!(is_plain(&shown), "{shown:?}");
        }
        Ok(Answer::Status(status)) => {
            for line in rblfilter::fuzzing::page(&status).lines() {
                assert!(is_plain(line) && line.chars().count() <= 80, "{line:?}");
            }
        }
        Ok(Answer::Sessions(sessions)) => {
            for line in rblfilter::fuzzing::rows(*sessions) {
                assert!(is_plain(&line), "{line:?}");
            }
        }
        _ => {}
    }
    if let Ok(text) = std::str::from_utf8(line)
        && let Ok(network) = control::network(text)
    {
        assert_eq!(network.ip(), network.network());
    }
});
