//! Of whom or what somebody asks.

use std::fmt;
use std::net::IpAddr;

use crate::courier::session::parse_address;

/// The longest message id, in bytes: a header line's (RFC 5322 §2.1.1).
const LONGEST: usize = 998;

/// Of whom or what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A client.
    Client(IpAddr),
    /// A message, by Courier's id.
    Message(String),
    /// A message, by its Message-ID field (RFC 5322 §3.6.4), in its brackets.
    MessageId(String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(client) => client.fmt(f),
            Self::Message(id) => write!(f, "message {id}"),
            Self::MessageId(id) => write!(f, "message {}", id.escape_default()),
        }
    }
}

impl Subject {
    /// What a person means by `text`: an address, also in brackets and as Courier
    /// and RFC 5321 §4.1.3 write it, or one of a message's ids.
    ///
    /// # Errors
    /// What was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let inner = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'))
            .unwrap_or(text);
        let tagged = inner
            .get(..5)
            .filter(|tag| tag.eq_ignore_ascii_case("ipv6:"));
        let address = if tagged.is_some() { &inner[5..] } else { inner };
        if let Some(address) = parse_address(address) {
            return Ok(Self::Client(address));
        }
        let id = text.strip_prefix("id=").unwrap_or(text);
        if is_couriers(id) || is_couriers_end(id) {
            return Ok(Self::Message(id.to_owned()));
        }
        if let Some(id) = message_id(text) {
            return Ok(Self::MessageId(id));
        }
        let shown: String = text.chars().take(LONGEST).collect();
        if text.contains('/') && text.parse::<ipnetwork::IpNetwork>().is_ok() {
            return Err(format!(
                "{shown:?} is a network, expected one address of it (rblfilter list shows who is banned)"
            ));
        }
        Err(format!(
            "{shown:?} is no address and no message id, expected for example 203.0.113.9, 2001:db8::1, \
             Courier's id such as 0000000000000036.000000006B0480DB.000000E8, or \"<id@example.org>\""
        ))
    }
}

/// Courier's id: inode, time and process in hexadecimal digits.
#[must_use]
pub fn is_couriers(id: &str) -> bool {
    let is_part = |part: &str| {
        (1..=16).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    id.split('.').count() == 3 && id.split('.').all(is_part)
}

/// What Courier's answer to the sender has of its id: time and process.
fn is_couriers_end(id: &str) -> bool {
    let is_long = |part: &str| part.len() >= 8;
    id.split('.').all(is_long) && is_couriers(&format!("0.{id}"))
}

/// A Message-ID, with its brackets.
fn message_id(text: &str) -> Option<String> {
    let inner = text
        .strip_prefix('<')
        .and_then(|text| text.strip_suffix('>'))
        .unwrap_or(text);
    let (left, right) = inner.rsplit_once('@')?;
    let is_sound = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && !b"<>".contains(&byte))
    };
    (is_sound(left) && is_sound(right) && inner.len() < LONGEST).then(|| format!("<{inner}>"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_ids_as_people_write_them() {
        let client = |text: &str| Subject::Client(text.parse().unwrap());
        let message = |text: &str| Subject::Message(text.into());
        for (text, expected) in [
            ("203.0.113.9", client("203.0.113.9")),
            (" 203.0.113.9\n", client("203.0.113.9")),
            ("[203.0.113.9]", client("203.0.113.9")),
            ("::ffff:203.0.113.9", client("203.0.113.9")),
            ("[::ffff:203.0.113.9]", client("203.0.113.9")),
            ("2001:DB8::1", client("2001:db8::1")),
            ("[IPv6:2001:db8::1]", client("2001:db8::1")),
            (
                "0000000000000036.000000006B0480DB.000000E8",
                message("0000000000000036.000000006B0480DB.000000E8"),
            ),
            ("id=36.6B.e8", message("36.6B.e8")),
            (
                "000000006B0480DB.000000E8",
                message("000000006B0480DB.000000E8"),
            ),
            ("<a.b@c.test>", Subject::MessageId("<a.b@c.test>".into())),
            ("a.b@c.test", Subject::MessageId("<a.b@c.test>".into())),
        ] {
            assert_eq!(Subject::parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_neither_is_told_in_words() {
        for (text, expected) in [
            ("", "is no address and no message id"),
            ("mail.example.org", "is no address and no message id"),
            ("6B0480DB.E8", "is no address and no message id"),
            ("203.0.113.300", "is no address"),
            ("203.0.113.0/24", "is a network"),
            ("<@x>", "is no address"),
            ("<a@b\u{1b}[31m>", "\\u{1b}"),
        ] {
            let error = Subject::parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.chars().any(char::is_control));
        }
    }

    proptest::proptest! {
        #[test]
        fn no_argument_does_harm(text in ".{0,120}") {
            match Subject::parse(&text) {
                Ok(subject) => proptest::prop_assert!(!subject.to_string().chars().any(char::is_control)),
                Err(error) => proptest::prop_assert!(!error.chars().any(char::is_control)),
            }
        }
    }
}
