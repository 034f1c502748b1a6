//! Log lines: whatever stands in one, it is one line of printable characters,
//! its fields stay apart, and they tell what was meant.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rblfilter::log::Event;

/// What a value may take, as written, and what stands around it.
const LONGEST: usize = 512 + 3 + 3;

fuzz_target!(|parts: (&str, &str, &str)| {
    let (id, value, text) = parts;
    let line = Event::new("event")
        .field("key", value)
        .text(text)
        .of_message(Some(id))
        .to_string();
    assert!(
        line.chars().all(|c| c == ' ' || c.is_ascii_graphic()),
        "{line:?}"
    );
    assert!(line.len() <= 3 * LONGEST + "id=,event,key=: ".len());
    let (fields, shown) = line.split_once(": ").expect("a text");
    let fields: Vec<&str> = fields.split(',').collect();
    let [shown_id, "event", shown_value] = fields[..] else {
        panic!("{line:?}");
    };
    for (written, meant) in [
        (shown_id.strip_prefix("id=").expect("an id"), id),
        (shown_value.strip_prefix("key=").expect("a value"), value),
        (shown, text),
    ] {
        let back = unescaped(written.strip_suffix("...").unwrap_or(written));
        // One that ends in dots looks as if it were cut off.
        if meant.ends_with("...") || written.ends_with("...") {
            assert!(meant.as_bytes().starts_with(&back), "{written:?} {meant:?}");
        } else {
            assert_eq!(back, meant.as_bytes());
        }
    }
});

/// The bytes that a value stands for (docs/logging.md).
fn unescaped(written: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = written;
    while let Some((before, after)) = rest.split_once('\\') {
        bytes.extend_from_slice(before.as_bytes());
        rest = match after.strip_prefix('x') {
            Some(hex) => {
                bytes.push(u8::from_str_radix(&hex[..2], 16).expect("two digits"));
                &hex[2..]
            }
            None => {
                bytes.push(b'\\');
                after.strip_prefix('\\').expect("a backslash")
            }
        };
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}
