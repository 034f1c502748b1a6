//! Courier's settings, couriertcpd's command line, Courier's domains: whatever
//! stands there, what is set is not taken for empty, and nothing grows.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rblfilter::courier::domains;
use rblfilter::courier::settings::Settings;
use rblfilter::courier::tcpd::Options;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let mut settings = Settings::default();
    settings.add(&text);
    let mut length = 0;
    for (name, value) in settings.all() {
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
        assert!(!name.is_empty() && name.chars().all(fits), "{name:?}");
        length += value.len();
    }
    // What `$NAME` makes of it is bounded.
    assert!(length <= text.len() + (1 << 20));
    // A value that is quoted is what it was.
    let inner: String = text.chars().filter(|c| *c != '\'').take(100).collect();
    settings.add(&format!("\nQUOTED='{inner}'\n"));
    assert_eq!(settings.get("QUOTED"), Some(inner.as_str()));

    let check = |options: &Options| {
        for list in &options.lists {
            assert!(
                !list.zone.is_empty() && !list.variable.is_empty(),
                "{list:?}"
            );
            assert!(!list.zone.contains([',', '=', '/']), "{list:?}");
        }
    };
    check(&Options::of_process(bytes));
    check(&Options::of_settings(&settings, "PORT"));
    for domain in domains::domains(&text).take(1000) {
        assert!(domain.contains('.') && !domain.contains(char::is_whitespace));
    }
});
