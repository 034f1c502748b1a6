//! A session's environment: nobody is listed by an error, nor by a variable
//! that does not count, and IPv4 is IPv4.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rblfilter::courier::session::{Environment, Session, Verdict};

fuzz_target!(|bytes: &[u8]| {
    let environment = Environment::parse(bytes);
    let variables = ["BLOCK".to_owned(), "BLOCK2".to_owned()];
    let Ok(session) = Session::from_environment(&environment, &variables) else {
        return;
    };
    assert_eq!(session.client, session.client.to_canonical());
    assert!(
        session
            .slots
            .is_none_or(|slots| (1..=1_000_000).contains(&slots))
    );
    if let Verdict::Listed(listed) = &session.verdict {
        assert!((1..=2).contains(&listed.len()));
        for listed in listed {
            assert!(variables.contains(&listed.variable));
            let is_error = listed.code.is_some_and(|code| {
                let [a, b, c, _] = code.octets();
                a != 127 || (b, c) == (255, 255)
            });
            assert!(!is_error, "{listed:?}");
            let mut words = bytes.split(|byte| *byte == 0);
            assert!(words.any(|word| word.starts_with(b"BLOCK")));
        }
    }
    // Nobody is judged by variables that are not asked for.
    let none = Session::from_environment(&environment, &[]).expect("the same");
    assert_eq!(none.verdict, Verdict::None);
});
