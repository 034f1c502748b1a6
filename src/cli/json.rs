//! JSON as the commands print it: in ASCII. It may land on a terminal, where
//! what others wrote (a reason, a list's text) must not steer anything, and
//! serde_json leaves DEL, the C1 controls and direction overrides as they are.

use std::fmt::Write as _;

/// The same JSON in printable ASCII characters; those beyond stand in strings
/// alone, where `\uXXXX` means them (RFC 8259 §7).
pub(crate) fn in_ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c == ' ' || c.is_ascii_graphic() {
            text.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                let _ = write!(text, "\\u{unit:04x}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_means_the_same_and_steers_nothing() {
        let text = "a \u{1b}[31m\u{7f}\u{9b}31m\u{202e}é\u{1f642}\n\"\\";
        let json = serde_json::to_string(text).unwrap();
        let shown = in_ascii(&json);
        assert!(shown.chars().all(|c| c == ' ' || c.is_ascii_graphic()));
        assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), text);
    }
}
