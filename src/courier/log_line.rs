//! Courier's own lines in the mail log, as `couriertcpd`, `courieresmtpd` and
//! `courierd` 1.0.16 write them (`tests/data/log/courier` has real ones).
//!
//! [`LogLine::parse`] takes any bytes, allocates nothing and never fails: a
//! line that is none of these is `None`. What the client said (HELO, sender,
//! commands) stands in some of them; an address or a port is read only from
//! where Courier itself writes it.

use std::net::{IpAddr, Ipv4Addr};

use memchr::memchr;
use memchr::memmem;

/// What a line says of a session or a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLine<'a> {
    /// `courieresmtpd: started,ip=[…],port=[…]`: a client has its slot and is greeted.
    Started {
        /// The client.
        ip: IpAddr,
        /// Its port.
        port: u16,
    },
    /// `courieresmtpd: error,relay=…`: the client got a reply of 4xx or 5xx.
    Refused {
        /// The client.
        ip: IpAddr,
        /// Its port; older versions do not tell it.
        port: Option<u16>,
        /// The envelope's sender, without brackets.
        from: Option<&'a [u8]>,
        /// The reply, which begins with its code.
        reply: &'a [u8],
    },
    /// `dropped blocked connection from …`: `-drop` ended it before `courieresmtpd`.
    Dropped {
        /// The client.
        ip: IpAddr,
    },
    /// `Maximum connection limit reached for …`: more than `MAXPERIP` or `MAXPERC`.
    TooMany {
        /// The client.
        ip: IpAddr,
    },
    /// `N active connections.`, which `couriertcpd` warns of above nine of ten
    /// slots, or `N maximum active connections.`
    Active {
        /// Slots in use.
        slots: u32,
        /// All of them.
        all: bool,
    },
    /// `[…]: Connection timed out`, ten minutes after a client's last word (five
    /// within DATA), or another error of its connection: the session's end.
    Lost {
        /// The client.
        ip: IpAddr,
        /// It was silent for too long.
        timed_out: bool,
    },
    /// `courierd: newmsg,…`: a message was taken over.
    Accepted {
        /// The message.
        id: &'a [u8],
        /// Its client; a local program's has none.
        ip: Option<IpAddr>,
        /// The client had logged in.
        authenticated: bool,
    },
    /// `courierd: started,id=…,from=<…>`: a delivery begins; it tells the sender.
    Sender {
        /// The message.
        id: &'a [u8],
        /// The envelope's sender, without brackets.
        from: &'a [u8],
    },
}

impl<'a> LogLine<'a> {
    /// Reads what the daemon `ident` wrote (without `ident[pid]: `).
    #[must_use]
    pub fn parse(ident: &[u8], message: &'a [u8]) -> Option<Self> {
        if ident == b"courierd" {
            Self::of_courierd(message)
        } else if ident.starts_with(b"courieresmtpd")
            || ident.starts_with(b"esmtpd")
            || ident == b"couriertcpd"
        {
            Self::of_session(message)
        } else {
            None
        }
    }

    fn of_session(message: &'a [u8]) -> Option<Self> {
        if let Some(rest) = message.strip_prefix(b"started,ip=[") {
            let (ip, rest) = rest.split_at(memchr(b']', rest)?);
            let port = rest.strip_prefix(b"],port=[")?;
            return Some(Self::Started {
                ip: address(ip)?,
                port: number(&port[..memchr(b']', port)?])?,
            });
        }
        if let Some(rest) = message.strip_prefix(b"error,relay=") {
            return refused(rest);
        }
        if let Some(rest) = message.strip_prefix(b"[") {
            let (ip, rest) = rest.split_at(memchr(b']', rest)?);
            let error = rest.strip_prefix(b"]: ")?;
            return Some(Self::Lost {
                ip: address(ip)?,
                timed_out: error == b"Connection timed out",
            });
        }
        // courierlogger takes the severity off; a log of standard error keeps it.
        let message = message
            .strip_prefix(b"WARN: ")
            .or_else(|| message.strip_prefix(b"ALERT: "))
            .unwrap_or(message);
        if let Some(rest) = message.strip_prefix(b"dropped blocked connection from ") {
            return Some(Self::Dropped {
                ip: address(rest.trim_ascii_end())?,
            });
        }
        if let Some(rest) = message.strip_prefix(b"Maximum connection limit reached for ") {
            return Some(Self::TooMany {
                ip: address(rest.trim_ascii_end())?,
            });
        }
        let (slots, rest) = message.split_at(memchr(b' ', message)?);
        let all = match rest {
            b" active connections." => false,
            b" maximum active connections." => true,
            _ => return None,
        };
        Some(Self::Active {
            slots: number(slots)?,
            all,
        })
    }

    fn of_courierd(message: &'a [u8]) -> Option<Self> {
        if let Some(rest) = message.strip_prefix(b"newmsg,id=") {
            let end = rest.iter().position(|byte| matches!(byte, b':' | b','))?;
            let (id, rest) = rest.split_at(end);
            // `dns; HELO (NAME [ADDRESS])`: the client's words are before the last bracket.
            let ip = rest
                .strip_suffix(b"])")
                .and_then(|rest| address(&rest[memchr::memrchr(b'[', rest)? + 1..]));
            return Some(Self::Accepted {
                id,
                ip,
                authenticated: rest.starts_with(b", auth="),
            });
        }
        let rest = message.strip_prefix(b"started,id=")?;
        let (id, rest) = rest.split_at(memchr(b',', rest)?);
        let from = rest.strip_prefix(b",from=<")?;
        let end = memmem::find(from, b">,module=")?;
        Some(Self::Sender {
            id,
            from: &from[..end],
        })
    }
}

/// What follows `error,relay=`: `ADDRESS,port=N,from=<…>,to=<…>: REPLY`, or
/// `ADDRESS,port=N,msg="REPLY",cmd: …`.
fn refused(rest: &[u8]) -> Option<LogLine<'_>> {
    let end = rest.iter().position(|byte| matches!(byte, b',' | b' '))?;
    let ip = address(&rest[..end])?;
    let mut rest = &rest[end..];
    let mut port = None;
    if let Some(after) = rest.strip_prefix(b",port=") {
        let end = memchr(b',', after)?;
        port = number(&after[..end]);
        rest = &after[end..];
    }
    if let Some(reply) = rest.strip_prefix(b",msg=\"") {
        let end = memmem::find(reply, b"\",cmd:").unwrap_or(reply.len());
        return with_code(&reply[..end]).map(|reply| LogLine::Refused {
            ip,
            port,
            from: None,
            reply,
        });
    }
    let from = memmem::find(rest, b",from=<").map(|begin| &rest[begin + 7..]);
    // The sender's own words may look like the end of the field; all that can
    // be wrong then is the text of the reply.
    let mut search = rest;
    let reply = loop {
        let begin = memmem::find(search, b": ")?;
        search = &search[begin + 2..];
        if let Some(reply) = with_code(search) {
            break reply;
        }
    };
    let from = from.map(|from| {
        let end = memmem::find(from, b">,to=<").or_else(|| memmem::find(from, b">: "));
        &from[..end.unwrap_or(0)]
    });
    Some(LogLine::Refused {
        ip,
        port,
        from,
        reply,
    })
}

/// The same, where it begins with a code of refusal.
fn with_code(reply: &[u8]) -> Option<&[u8]> {
    match reply {
        [b'4' | b'5', b'0'..=b'9', b'0'..=b'9'] => Some(reply),
        [b'4' | b'5', b'0'..=b'9', b'0'..=b'9', b' ' | b'-', ..] => Some(reply),
        _ => None,
    }
}

/// An address as Courier writes it: `::ffff:1.2.3.4` is IPv4.
#[must_use]
pub fn address(text: &[u8]) -> Option<IpAddr> {
    let four = text.strip_prefix(b"::ffff:").unwrap_or(text);
    if let Some(four) = ipv4(four) {
        return Some(four.into());
    }
    super::session::parse_address(std::str::from_utf8(text).ok()?)
}

fn ipv4(text: &[u8]) -> Option<Ipv4Addr> {
    // 255.255.255.255
    if text.len() > 15 {
        return None;
    }
    let mut octets = [0_u8; 4];
    let mut fields = text.split(|byte| *byte == b'.');
    for octet in &mut octets {
        let field = fields.next().filter(|field| field.len() <= 3)?;
        *octet = number(field)?;
    }
    fields.next().is_none().then(|| octets.into())
}

/// A decimal number without sign.
fn number<T: TryFrom<u64>>(text: &[u8]) -> Option<T> {
    if text.is_empty() || text.len() > 18 {
        return None;
    }
    let mut value = 0_u64;
    for byte in text {
        if !byte.is_ascii_digit() {
            return None;
        }
        value = value * 10 + u64::from(byte - b'0');
    }
    value.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_lines_that_courier_writes() {
        let refused = |client: &str, port, from: Option<&'static str>, reply: &'static str| {
            Some(LogLine::Refused {
                ip: ip(client),
                port: Some(port),
                from: from.map(str::as_bytes),
                reply: reply.as_bytes(),
            })
        };
        for (ident, message, expected) in [
            (
                "courieresmtpd",
                "started,ip=[::ffff:127.1.1.1],port=[39741]",
                Some(LogLine::Started {
                    ip: ip("127.1.1.1"),
                    port: 39741,
                }),
            ),
            (
                "courieresmtpd",
                "started,ip=[2001:db8::9],port=[25000]",
                Some(LogLine::Started {
                    ip: ip("2001:db8::9"),
                    port: 25000,
                }),
            ),
            (
                "courieresmtpd",
                "error,relay=::ffff:127.66.1.1,port=7695,from=<spam@spam.test>,to=<alice@lab.test>: 511 Listed by bl.test",
                refused(
                    "127.66.1.1",
                    7695,
                    Some("spam@spam.test"),
                    "511 Listed by bl.test",
                ),
            ),
            (
                "courieresmtpd",
                "error,relay=::ffff:127.66.3.3,port=48803,from=<bob@gmail.com>: 554 5.7.1 Rejected by probe.",
                refused(
                    "127.66.3.3",
                    48803,
                    Some("bob@gmail.com"),
                    "554 5.7.1 Rejected by probe.",
                ),
            ),
            (
                "courieresmtpd",
                "error,relay=::ffff:127.1.1.5,port=3819,msg=\"502 ESMTP command error\",cmd: FOO",
                refused("127.1.1.5", 3819, None, "502 ESMTP command error"),
            ),
            (
                "courieresmtpd",
                "dropped blocked connection from ::ffff:127.66.1.1",
                Some(LogLine::Dropped {
                    ip: ip("127.66.1.1"),
                }),
            ),
            (
                "couriertcpd",
                "WARN: dropped blocked connection from ::ffff:127.66.1.1",
                Some(LogLine::Dropped {
                    ip: ip("127.66.1.1"),
                }),
            ),
            (
                "courieresmtpd",
                "Maximum connection limit reached for ::ffff:127.3.0.1",
                Some(LogLine::TooMany {
                    ip: ip("127.3.0.1"),
                }),
            ),
            (
                "courieresmtpd",
                "19 active connections.",
                Some(LogLine::Active {
                    slots: 19,
                    all: false,
                }),
            ),
            (
                "courieresmtpd",
                "22 maximum active connections.",
                Some(LogLine::Active {
                    slots: 22,
                    all: true,
                }),
            ),
            (
                "courieresmtpd",
                "[::ffff:127.66.1.1]: Connection timed out",
                Some(LogLine::Lost {
                    ip: ip("127.66.1.1"),
                    timed_out: true,
                }),
            ),
            (
                "courierd",
                "newmsg,id=0D.6B.84: dns; x.test (softdnserr [::ffff:127.1.1.1])",
                Some(LogLine::Accepted {
                    id: b"0D.6B.84",
                    ip: Some(ip("127.1.1.1")),
                    authenticated: false,
                }),
            ),
            (
                "courierd",
                "newmsg,id=18.6B.B2, auth=alice@lab.test: dns; x.test (softdnserr [::ffff:127.1.1.10])",
                Some(LogLine::Accepted {
                    id: b"18.6B.B2",
                    ip: Some(ip("127.1.1.10")),
                    authenticated: true,
                }),
            ),
            (
                "courierd",
                "started,id=14.6B.94,from=<\"bo,b\"@good.test>,module=local,host=alice!!5000,addr=<alice>",
                Some(LogLine::Sender {
                    id: b"14.6B.94",
                    from: b"\"bo,b\"@good.test",
                }),
            ),
            ("courierd", "completed,id=14.6B.94", None),
            (
                "courierlocal",
                "started,ip=[::ffff:127.1.1.1],port=[1]",
                None,
            ),
        ] {
            assert_eq!(
                LogLine::parse(ident.as_bytes(), message.as_bytes()),
                expected,
                "{ident}: {message}"
            );
        }
    }

    #[test]
    fn what_a_client_says_is_not_taken_for_its_address() {
        let line =
            b"newmsg,id=1.2.3: dns; [::ffff:9.9.9.9]) ([::ffff:8.8.8.8 (x [::ffff:127.1.1.1])";
        let Some(LogLine::Accepted { ip: client, .. }) = LogLine::parse(b"courierd", line) else {
            panic!("a new message");
        };
        assert_eq!(client, Some(ip("127.1.1.1")));
        let line = b"error,relay=::ffff:127.1.1.1,port=7,from=<x,relay=::ffff:9.9.9.9,port=8>,to=<y>: 550 no";
        assert_eq!(
            LogLine::parse(b"courieresmtpd", line),
            Some(LogLine::Refused {
                ip: ip("127.1.1.1"),
                port: Some(7),
                from: Some(b"x,relay=::ffff:9.9.9.9,port=8"),
                reply: b"550 no",
            })
        );
    }

    #[test]
    fn lines_that_are_cut_off_are_nobodys() {
        for message in [
            "",
            "started,ip=[",
            "started,ip=[::ffff:1.2.3.4]",
            "started,ip=[::ffff:1.2.3.4],port=[",
            "started,ip=[::ffff:1.2.3.4],port=[99999]",
            "started,ip=[::ffff:1.2.3.400],port=[1]",
            "error,relay=::ffff:1.2.3.4",
            "error,relay=::ffff:1.2.3.4,port=1,from=<a@b>,to=<c>",
            " active connections.",
            "99999999999999999999 active connections.",
        ] {
            assert_eq!(
                LogLine::parse(b"courieresmtpd", message.as_bytes()),
                None,
                "{message}"
            );
        }
    }

    #[test]
    fn addresses_are_read_as_the_standard_library_does() {
        for (text, expected) in [
            ("1.2.3.4", Some("1.2.3.4")),
            ("::ffff:255.255.255.255", Some("255.255.255.255")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("fe80::1%eth0", Some("fe80::1")),
            ("256.1.1.1", None),
            ("1.2.3", None),
            ("1.2.3.4.5", None),
            ("", None),
        ] {
            assert_eq!(address(text.as_bytes()), expected.map(ip), "{text}");
        }
    }
}
