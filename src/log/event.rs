//! One event, one line: `[id=MESSAGE-ID,]event[,key=value]…[: text]`.
//!
//! Values may come from afar (a HELO, a TXT record, an environment), so every
//! byte that could end a field, a line or a terminal's good behaviour is
//! written `\xHH`.

use std::fmt::{self, Display, Write};
use std::net::{IpAddr, Ipv6Addr};

use ipnetwork::IpNetwork;

/// The longest value or text, in bytes as written; the rest is cut off (`…`).
const MAX_VALUE: usize = 512;

/// A line in the making.
#[derive(Debug)]
pub struct Event {
    line: String,
}

impl Event {
    /// An event of this name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            line: name.to_owned(),
        }
    }

    /// The same event, of the message with this id; an unknown id adds nothing.
    #[must_use]
    pub fn of_message(mut self, id: Option<&str>) -> Self {
        if let Some(id) = id {
            let mut line = String::from("id=");
            escape(&mut line, id, true);
            line.push(',');
            self.line.insert_str(0, &line);
        }
        self
    }

    /// Adds `,ip=[…]` as Courier writes addresses: IPv4 mapped into IPv6.
    #[must_use]
    pub fn ip(mut self, ip: IpAddr) -> Self {
        let mapped: Ipv6Addr = match ip {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        // Writing to a String cannot fail.
        let _ = write!(self.line, ",ip=[{mapped}]");
        self
    }

    /// Adds an address as [`Event::ip`] does, a wider network as `,net=`.
    #[must_use]
    pub fn network(self, network: IpNetwork) -> Self {
        let full = if network.is_ipv4() { 32 } else { 128 };
        if network.prefix() == full {
            self.ip(network.ip())
        } else {
            self.field("net", network)
        }
    }

    /// Adds `,port=[…]`, the client's port.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        let _ = write!(self.line, ",port=[{port}]");
        self
    }

    /// Adds `,key=value`.
    #[must_use]
    pub fn field(mut self, key: &str, value: impl Display) -> Self {
        let _ = write!(self.line, ",{key}=");
        escape(&mut self.line, &value.to_string(), true);
        self
    }

    /// Ends the line with `: text`.
    #[must_use]
    pub fn text(mut self, text: impl Display) -> Self {
        self.line.push_str(": ");
        escape(&mut self.line, &text.to_string(), false);
        self
    }
}

impl Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

/// Appends `value` to `line`, in a field or in the text at the end.
fn escape(line: &mut String, value: &str, in_field: bool) {
    let end = line.len() + MAX_VALUE;
    for byte in value.bytes() {
        if line.len() >= end {
            line.push_str("...");
            return;
        }
        match byte {
            b'\\' => line.push_str("\\\\"),
            // Either would end the field; ": " begins the text.
            b',' | b' ' if in_field => {
                let _ = write!(line, "\\x{byte:02x}");
            }
            b' '..=b'~' => line.push(char::from(byte)),
            _ => {
                let _ = write!(line, "\\x{byte:02x}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_listed_client() {
        let event = Event::new("listed")
            .ip("1.2.3.4".parse().unwrap())
            .port(4711)
            .field("zone", "zen.spamhaus.org")
            .field("code", "127.0.0.2")
            .of_message(Some("0000.6B04.0F96"));
        assert_eq!(
            event.to_string(),
            "id=0000.6B04.0F96,listed,ip=[::ffff:1.2.3.4],port=[4711],zone=zen.spamhaus.org,code=127.0.0.2"
        );
    }

    #[test]
    fn a_network_of_one_address_is_an_address() {
        for (network, expected) in [
            ("1.2.3.4/32", "e,ip=[::ffff:1.2.3.4]"),
            ("2001:db8::1/128", "e,ip=[2001:db8::1]"),
            ("1.2.3.0/24", "e,net=1.2.3.0/24"),
        ] {
            let event = Event::new("e").network(network.parse().unwrap());
            assert_eq!(event.to_string(), expected);
        }
    }

    #[test]
    fn no_byte_ends_a_field_or_a_line() {
        let event = Event::new("e")
            .field("k", "a,b\r\n\u{1b}[31m\\é")
            .text("x,y\n: z");
        assert_eq!(
            event.to_string(),
            "e,k=a\\x2cb\\x0d\\x0a\\x1b[31m\\\\\\xc3\\xa9: x,y\\x0a: z"
        );
    }

    #[test]
    fn a_long_value_is_cut() {
        let line = Event::new("e")
            .field("k", "\u{1}".repeat(100_000))
            .to_string();
        assert!(line.len() < MAX_VALUE + 16 && line.ends_with("..."));
    }
}
