//! Short texts that are counted: lists' names, and replies without what is of
//! one client or person in them. Bounded: what comes after so many different
//! ones is "others".

use std::collections::{BTreeMap, HashMap};

/// Different texts in one table.
const BOUND: usize = 256;
/// The longest text, in characters.
const LONGEST: usize = 72;
const OTHERS: &str = "others";

/// A table of texts.
#[derive(Debug)]
pub struct Labels<C>(HashMap<String, C>);

impl<C: Default> Default for Labels<C> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<C: Default> Labels<C> {
    /// The counts of `label`, to be added to.
    pub fn of(&mut self, label: &str) -> &mut C {
        let label = if self.0.contains_key(label) || self.0.len() < BOUND {
            label
        } else {
            OTHERS
        };
        if !self.0.contains_key(label) {
            self.0.insert(label.to_owned(), C::default());
        }
        self.0.get_mut(label).expect("it was put in")
    }

    /// All of them, in the order of the alphabet.
    pub fn into_sorted(self) -> impl Iterator<Item = (String, C)> {
        let sorted: BTreeMap<String, C> = self.0.into_iter().collect();
        sorted.into_iter()
    }
}

/// Bytes of a log as printable ASCII, and no longer than a label.
#[must_use]
pub fn printable(bytes: &[u8]) -> String {
    bytes
        .iter()
        .take(LONGEST)
        .map(|byte| match byte {
            b' '..=b'~' => char::from(*byte),
            _ => '?',
        })
        .collect()
}

/// A reply without addresses and names, which would make each its own: of
/// `550 User <bob> unknown` stays `550 User <*> unknown`.
#[must_use]
pub fn reply(reply: &[u8]) -> String {
    let mut text = String::with_capacity(LONGEST * 2);
    let mut rest = reply;
    // Longer ones end here, in the middle of what they said.
    while let (Some(&first), true) = (rest.first(), text.len() < LONGEST) {
        if first == b'<' {
            let end = memchr::memchr(b'>', rest).map_or(rest.len(), |end| end + 1);
            text.push_str("<*>");
            rest = &rest[end..];
            continue;
        }
        if !is_of_word(first) {
            text.push(if first.is_ascii_graphic() || first == b' ' {
                char::from(first)
            } else {
                '?'
            });
            rest = &rest[1..];
            continue;
        }
        let end = rest.iter().position(|byte| !is_of_word(*byte));
        let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
        rest = after;
        if is_individual(word) && !text.is_empty() {
            text.push('*');
        } else {
            text.push_str(&printable(word));
        }
    }
    text.truncate(LONGEST);
    text.trim_end().to_owned()
}

fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'.' | b':' | b'@' | b'_' | b'-' | b'+')
        || !byte.is_ascii()
}

/// Whether a word is of one client or person: it holds an `@`, is an address,
/// or has a long number in it. A code such as 5.7.1 is not.
fn is_individual(word: &[u8]) -> bool {
    let digits = word.iter().filter(|byte| byte.is_ascii_digit()).count();
    let hex = |byte: &u8| byte.is_ascii_hexdigit() || matches!(byte, b'.' | b':');
    let colons = word.iter().filter(|byte| **byte == b':').count();
    word.contains(&b'@') || digits > 3 || colons > 1 && word.iter().all(hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_lose_what_is_of_one_client() {
        for (text, expected) in [
            ("511 Listed by bl.test", "511 Listed by bl.test"),
            ("550 User <nobody> unknown", "550 User <*> unknown"),
            ("550 User <nobody", "550 User <*>"),
            (
                "511 https://www.spamhaus.org/query/ip/203.0.113.9",
                "511 https://www.spamhaus.org/query/ip/*",
            ),
            ("511 [2001:db8::9] is listed", "511 [*] is listed"),
            ("554 5.7.1 a@b.test, go away", "554 5.7.1 *, go away"),
            ("513 Relaying denied.", "513 Relaying denied."),
            ("550 \x1b[31mred", "550 ?[31mred"),
            ("", ""),
        ] {
            assert_eq!(reply(text.as_bytes()), expected, "{text}");
        }
        assert!(reply(&[b'x'; 10_000]).len() <= LONGEST);
        assert!(reply("ä".repeat(10_000).as_bytes()).len() <= LONGEST);
    }

    #[test]
    fn too_many_different_ones_are_others() {
        let mut labels = Labels::<u64>::default();
        for number in 0..1000 {
            *labels.of(&number.to_string()) += 1;
        }
        let all: Vec<(String, u64)> = labels.into_sorted().collect();
        assert_eq!(all.len(), BOUND + 1);
        let others = all.iter().find(|(label, _)| label == OTHERS).unwrap();
        assert_eq!(others.1, 1000 - BOUND as u64);
    }
}
