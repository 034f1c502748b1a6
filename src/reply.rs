//! What a refused client is told: the text after `554 5.7.1`.

use std::fmt;
use std::net::IpAddr;

/// The longest text: a reply line has at most 512 octets with its code and
/// CRLF (RFC 5321 §4.5.3.1.5).
const MAX_TEXT: usize = 400;

/// A reply's text with its placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
    contact: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Ip,
    Zone,
    LookupUrl,
    Contact,
    Txt,
}

/// What a template's placeholders stand for.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The client.
    pub ip: IpAddr,
    /// The list, by its shown name.
    pub zone: &'a str,
    /// Where a person can look the client up; may hold `{ip}` itself.
    pub lookup_url: &'a str,
    /// What the list's TXT record says.
    pub txt: &'a str,
}

/// The most of a TXT record that is told.
const MAX_TXT: usize = 200;

/// What is wrong with a template.
#[derive(Debug, PartialEq, Eq)]
pub enum Error {
    /// Too long, empty, or with other than printable ASCII characters.
    Characters,
    /// A `{name}` that nothing stands for.
    Placeholder(String),
    /// A brace without its other half.
    Brace,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Characters => write!(
                f,
                "expected 1 to {MAX_TEXT} printable ASCII characters (RFC 5321 §4.5.3.1.5)"
            ),
            Self::Placeholder(name) => write!(
                f,
                "unknown placeholder {{{name}}}, expected {{ip}}, {{zone}}, {{lookup_url}}, {{txt}} or {{contact}}"
            ),
            Self::Brace => f.write_str("a brace without its other half, expected for example {ip}"),
        }
    }
}

impl std::error::Error for Error {}

impl Template {
    /// Reads a template; `contact` is what `{contact}` stands for.
    ///
    /// # Errors
    /// Where the text could break a reply line, or names what does not exist.
    pub fn parse(text: &str, contact: &str) -> Result<Self, Error> {
        let fits = |c: char| c == ' ' || c.is_ascii_graphic();
        if !(1..=MAX_TEXT).contains(&text.len()) || !text.chars().all(fits) {
            return Err(Error::Characters);
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((literal, tail)) = rest.split_once('{') {
            let (name, tail) = tail.split_once('}').ok_or(Error::Brace)?;
            parts.push(Part::Literal(literal.to_owned()));
            parts.push(match name {
                "ip" => Part::Ip,
                "zone" => Part::Zone,
                "lookup_url" => Part::LookupUrl,
                "contact" => Part::Contact,
                "txt" => Part::Txt,
                _ => return Err(Error::Placeholder(name.to_owned())),
            });
            rest = tail;
        }
        parts.push(Part::Literal(rest.to_owned()));
        if parts
            .iter()
            .any(|part| matches!(part, Part::Literal(text) if text.contains('}')))
        {
            return Err(Error::Brace);
        }
        Ok(Self {
            parts,
            contact: contact.to_owned(),
        })
    }

    /// Whether it tells the list's TXT record.
    #[must_use]
    pub fn wants_txt(&self) -> bool {
        self.parts.contains(&Part::Txt)
    }

    /// The whole reply to Courier, without its line end. Runs of spaces that an
    /// empty placeholder leaves are one.
    #[must_use]
    pub fn render(&self, facts: Facts<'_>) -> String {
        let ip = facts.ip.to_string();
        let mut text = String::from("554 5.7.1 ");
        for part in &self.parts {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Ip => text.push_str(&ip),
                Part::Zone => text.push_str(facts.zone),
                Part::LookupUrl => text.push_str(&facts.lookup_url.replace("{ip}", &ip)),
                Part::Txt => text.extend(facts.txt.chars().take(MAX_TXT)),
                Part::Contact => text.push_str(&self.contact),
            }
        }
        let mut line = text.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        // The zone may have come from Courier's environment.
        line.retain(|c| c == ' ' || c.is_ascii_graphic());
        line.truncate(510);
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(text: &str, contact: &str, zone: &str, url: &str) -> String {
        let template = Template::parse(text, contact).unwrap();
        template.render(Facts {
            ip: "127.66.1.2".parse().unwrap(),
            zone,
            lookup_url: url,
            txt: &"t\r\n\u{e9}xt".repeat(1000),
        })
    }

    #[test]
    fn placeholders_are_filled_in() {
        assert_eq!(
            render(
                "[{ip}] is on {zone}, see {lookup_url} or {contact}",
                "mail@example.org",
                "bl.test",
                "https://bl.test/?q={ip}"
            ),
            "554 5.7.1 [127.66.1.2] is on bl.test, see https://bl.test/?q=127.66.1.2 or mail@example.org"
        );
    }

    #[test]
    fn an_empty_placeholder_leaves_no_gap() {
        assert_eq!(
            render("{contact} listed {lookup_url} by {zone}", "", "bl.test", ""),
            "554 5.7.1 listed by bl.test"
        );
    }

    #[test]
    fn a_reply_is_one_line_of_printable_characters_whatever_the_zone_holds() {
        let line = render(
            "by {zone}",
            "",
            &format!("a\r\n250 ok\u{1b}[31m\u{e9}{}", "x".repeat(600)),
            "",
        );
        assert!(
            line.len() <= 510 && line.chars().all(|c| c == ' ' || c.is_ascii_graphic()),
            "{line}"
        );
    }

    #[test]
    fn a_lists_text_is_cut_and_cleaned() {
        let line = render("{txt}", "", "", "");
        assert!(line.starts_with("554 5.7.1 t xt"), "{line}");
        assert!(line.len() <= MAX_TXT + 10, "{line}");
    }

    #[test]
    fn a_wrong_template_is_refused() {
        for text in ["", "{ip", "ip}", "a\r\nb", "é", "{IP}", "{}"] {
            assert!(Template::parse(text, "").is_err(), "{text}");
        }
    }
}
