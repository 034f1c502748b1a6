//! What the admin's commands ask of the running filter, over its control
//! socket: one JSON line there, and JSON lines back, of which the last is
//! `done`, `error` or `end`.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use rblfilter_warden::policy::{BY_HAND_PREFIX, is_narrow};
use serde::{Deserialize, Serialize};

use crate::courier::session::parse_address;
use crate::sessions::Sessions;
use crate::status::Status;
use crate::why::Known;

/// The socket's name, in [`crate::courier::paths::Paths::state`].
pub const SOCKET: &str = "control";
/// The longest request, in bytes.
pub const MAX_REQUEST: usize = 64 * 1024;
/// The most networks in one.
pub const MAX_NETWORKS: usize = 1000;
/// The longest reason, in bytes.
pub const MAX_REASON: usize = 200;
/// The most characters of what serde says of a wrong request, which quotes it.
const MAX_QUOTE: usize = 300;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Ban a network.
    Ban {
        /// Which.
        network: IpNetwork,
        /// How long; without, the longest that a verdict bans.
        #[serde(default)]
        seconds: Option<u32>,
        /// Why, for whoever reads it later.
        #[serde(default)]
        reason: String,
        /// Whether it may be one that is let in.
        #[serde(default)]
        force: bool,
    },
    /// End the bans of these networks and let them in for a while.
    Unban {
        /// Which.
        networks: Vec<IpNetwork>,
        /// For how long.
        seconds: u32,
    },
    /// End all bans.
    UnbanAll,
    /// Let a network in for a while; 0 ends that.
    Allow {
        /// Which.
        network: IpNetwork,
        /// For how long.
        seconds: u32,
    },
    /// Delete all that is kept of these networks, and end their bans.
    Forget {
        /// Which.
        networks: Vec<IpNetwork>,
    },
    /// Tell all bans, and who is let in.
    List,
    /// Tell who is let in.
    Allowed,
    /// Put the configuration and the programs into service as they are now.
    Reload,
    /// Tell how the filter is.
    Status,
    /// Tell which sessions are open.
    Sessions,
    /// End a session.
    End {
        /// Its `courieresmtpd`.
        pid: i32,
        /// The client that it must be of.
        client: IpAddr,
        /// And the client's port.
        port: u16,
    },
    /// Tell all that is known of a client.
    Why {
        /// Which; an IPv4 client's address as IPv4.
        client: IpAddr,
    },
}

/// A line of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// It is done; what, in words.
    Done(String),
    /// It is not; why.
    Error(String),
    /// A network of a list.
    Entry(Entry),
    /// How the filter is.
    Status(Box<Status>),
    /// The open sessions.
    Sessions(Box<Sessions>),
    /// What is known of a client.
    Known(Box<Known>),
    /// The end of a list.
    End,
}

/// A network of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Entry {
    /// What is done to it.
    pub what: What,
    /// Which it is.
    pub network: IpNetwork,
    /// Since when it is banned, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u32>,
    /// For how many seconds more.
    pub left: u32,
    /// The how many-eth ban it is; none by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offence: Option<u16>,
    /// The lists that named the client.
    #[serde(default)]
    pub zones: Vec<String>,
    /// The words of who asked for it.
    #[serde(default)]
    pub reason: String,
    /// Who asked for it: a user, or `lists`.
    pub by: String,
}

impl Entry {
    /// Of a network that is let in by hand for so many seconds more.
    #[must_use]
    pub fn allowed(network: IpNetwork, left: u32) -> Self {
        Self {
            what: What::Allow,
            network,
            since: None,
            left,
            offence: None,
            zones: Vec::new(),
            reason: String::new(),
            by: "hand".into(),
        }
    }
}

/// What is done to a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// It is banned.
    Ban,
    /// It is let in.
    Allow,
}

/// The request in `line`, checked.
///
/// # Errors
/// What is wrong with it, in words; no byte of it is in them unescaped.
pub fn parse(line: &[u8]) -> Result<Request, String> {
    if line.len() > MAX_REQUEST {
        return Err(format!("a request has at most {MAX_REQUEST} bytes"));
    }
    let request: Request = serde_json::from_slice(line).map_err(|error| {
        let error = error.to_string();
        let quote: String = error.escape_debug().take(MAX_QUOTE).collect();
        format!("no request: {quote}")
    })?;
    match &request {
        Request::Ban {
            network, reason, ..
        } => {
            sound(*network)?;
            if reason.len() > MAX_REASON {
                return Err(format!("a reason has at most {MAX_REASON} bytes"));
            }
        }
        Request::Unban { networks, .. } | Request::Forget { networks } => {
            if networks.is_empty() || networks.len() > MAX_NETWORKS {
                return Err(format!("expected 1 to {MAX_NETWORKS} networks"));
            }
            for network in networks {
                sound(*network)?;
            }
        }
        Request::Allow { network, .. } => sound(*network)?,
        Request::Why { client } => sound((*client).into())?,
        Request::End { pid, .. } if *pid < 1 => {
            return Err(format!("{pid} is no process"));
        }
        Request::UnbanAll
        | Request::List
        | Request::Allowed
        | Request::Reload
        | Request::Status
        | Request::Sessions
        | Request::End { .. } => {}
    }
    Ok(request)
}

/// A network has no host bits, IPv4 is written as such, and none is wider than the
/// warden takes: nobody bans, frees or lets in half the world by a slip.
fn sound(network: IpNetwork) -> Result<(), String> {
    if network.ip() != network.network() {
        return Err(format!(
            "{network} has host bits set, expected {}/{}",
            network.network(),
            network.prefix()
        ));
    }
    if !is_narrow(network, BY_HAND_PREFIX) {
        let [least4, least6] = BY_HAND_PREFIX;
        return Err(format!(
            "{network} is too wide, expected no wider than /{least4} (IPv4) or /{least6} (IPv6)"
        ));
    }
    match network.ip() {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Err(format!("{network} is IPv4, expected it to be written so"))
        }
        _ => Ok(()),
    }
}

/// The network that a person means: an address or a network, an address also
/// as the log writes it.
///
/// # Errors
/// What was expected.
pub fn network(text: &str) -> Result<IpNetwork, String> {
    let inner = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .unwrap_or(text);
    if let Some(address) = parse_address(inner) {
        return Ok(address.into());
    }
    let network: IpNetwork = text.parse().map_err(|_| {
        format!("{text:?} is no address or network, expected for example 203.0.113.9, 203.0.113.0/24 or 2001:db8::/64")
    })?;
    sound(network)?;
    Ok(network)
}

/// A network for people: a single address without its prefix.
#[must_use]
pub fn shown(network: IpNetwork) -> String {
    if is_narrow(network, [32, 128]) {
        network.ip().to_string()
    } else {
        network.to_string()
    }
}

/// How it ends that `address` is let in by hand, with all of `networks`.
#[must_use]
pub fn how_it_ends(address: IpAddr, networks: impl IntoIterator<Item = IpNetwork>) -> String {
    let networks = networks.into_iter().map(shown);
    let wider: Vec<String> = networks.filter(|net| *net != address.to_string()).collect();
    let ends = format!("rblfilter allow {address} --for 0s ends that");
    if wider.is_empty() {
        ends
    } else {
        format!("{ends}, for all of {}", wider.join(" and "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_for_whom_it_ends_are_named() {
        let ends = |networks: &[&str]| {
            let networks = networks.iter().map(|text| text.parse().unwrap());
            how_it_ends("203.0.113.9".parse().unwrap(), networks)
        };
        let alone = "rblfilter allow 203.0.113.9 --for 0s ends that";
        assert_eq!(ends(&["203.0.113.9/32"]), alone);
        assert_eq!(
            ends(&["203.0.113.9/32", "203.0.113.0/24", "203.0.0.0/16"]),
            format!("{alone}, for all of 203.0.113.0/24 and 203.0.0.0/16")
        );
    }

    #[test]
    fn requests_are_what_they_were() {
        for request in [
            Request::List,
            Request::Allowed,
            Request::Reload,
            Request::Status,
            Request::Sessions,
            Request::End {
                pid: 4711,
                client: "2001:db8::9".parse().unwrap(),
                port: 65535,
            },
            Request::Why {
                client: "fd00::5".parse().unwrap(),
            },
            Request::UnbanAll,
            Request::Forget {
                networks: vec!["10.0.0.1/32".parse().unwrap()],
            },
            Request::Ban {
                network: "10.0.0.0/8".parse().unwrap(),
                seconds: Some(7200),
                reason: "a \"reason\"\n".into(),
                force: true,
            },
            Request::Unban {
                networks: vec!["fd00::/64".parse().unwrap()],
                seconds: 0,
            },
        ] {
            let line = serde_json::to_vec(&request).unwrap();
            assert_eq!(parse(&line), Ok(request));
        }
        let short = br#"{"do":"ban","network":"10.0.0.1"}"#;
        assert!(matches!(
            parse(short),
            Ok(Request::Ban { seconds: None, .. })
        ));
    }

    #[test]
    fn what_is_no_request_is_told_in_words() {
        let many = format!(
            r#"{{"do":"unban","seconds":1,"networks":[{}"10.0.0.1"]}}"#,
            "\"10.0.0.1\",".repeat(MAX_NETWORKS)
        );
        let long = format!(
            r#"{{"do":"ban","network":"10.0.0.1","reason":"{}"}}"#,
            "x".repeat(MAX_REASON + 1)
        );
        for (line, expected) in [
            ("", "no request"),
            ("{}", "no request: missing field `do`"),
            (r#"{"do":"stop"}"#, "no request: unknown variant `stop`"),
            (
                r#"{"do":"allow","network":"10.0.0.1/8","seconds":1}"#,
                "host bits",
            ),
            (
                r#"{"do":"allow","network":"::ffff:10.0.0.1","seconds":1}"#,
                "is IPv4",
            ),
            (r#"{"do":"why","client":"::ffff:10.0.0.1"}"#, "is IPv4"),
            (r#"{"do":"why","client":"mail.test"}"#, "no request"),
            (
                r#"{"do":"allow","network":"10.0.0.1","seconds":-1}"#,
                "no request",
            ),
            (
                r#"{"do":"ban","network":"10.0.0.1","for":1}"#,
                "no request: unknown field `for`",
            ),
            (
                r#"{"do":"end","pid":-1,"client":"10.0.0.1","port":1}"#,
                "-1 is no process",
            ),
            (
                r#"{"do":"end","pid":7,"client":"10.0.0.0/8","port":1}"#,
                "no request",
            ),
            (
                r#"{"do":"unban","seconds":1,"networks":[]}"#,
                "expected 1 to 1000 networks",
            ),
            (
                &format!(
                    r#"{{"do":"allow","network":"10.0.0.1","seconds":1,"{}":1}}"#,
                    "\\u001b".repeat(9000)
                ),
                "no request: unknown field",
            ),
            (&many, "expected 1 to 1000 networks"),
            (&long, "at most 200 bytes"),
            (&" ".repeat(MAX_REQUEST + 1), "at most 65536 bytes"),
        ] {
            let error = parse(line.as_bytes()).unwrap_err();
            assert!(error.contains(expected), "{line:.60}: {error}");
            assert!(error.len() < 2 * MAX_QUOTE, "{} bytes", error.len());
        }
    }

    #[test]
    fn networks_as_people_write_them() {
        for (text, expected) in [
            ("203.0.113.9", "203.0.113.9/32"),
            ("::ffff:203.0.113.9", "203.0.113.9/32"),
            ("[::ffff:203.0.113.9]", "203.0.113.9/32"),
            ("203.0.113.0/24", "203.0.113.0/24"),
            ("2001:db8::1", "2001:db8::1/128"),
            ("2001:db8::/64", "2001:db8::/64"),
        ] {
            assert_eq!(network(text).unwrap().to_string(), expected);
        }
        for text in [
            "",
            "x",
            "203.0.113.9/24",
            "203.0.113.0/33",
            "[203.0.113.0/24]",
            "0.0.0.0/0",
            "202.0.0.0/7",
            "::/0",
            "2001:d00::/31",
        ] {
            assert!(network(text).is_err(), "{text}");
        }
    }

    #[test]
    fn no_request_is_for_more_than_the_warden_takes() {
        for network in ["0.0.0.0/0", "202.0.0.0/7", "::/0", "2001:d00::/31"] {
            for request in [
                format!(r#"{{"do":"ban","network":"{network}","force":true}}"#),
                format!(r#"{{"do":"allow","network":"{network}","seconds":1}}"#),
                format!(r#"{{"do":"unban","networks":["10.0.0.1","{network}"],"seconds":1}}"#),
            ] {
                let error = parse(request.as_bytes()).unwrap_err();
                assert!(
                    error.contains("no wider than /8 (IPv4) or /32 (IPv6)"),
                    "{error}"
                );
            }
        }
    }

    proptest::proptest! {
        /// Whatever comes is a sound request or an error of printable text.
        #[test]
        fn no_bytes_do_harm(bytes in proptest::collection::vec(0_u8.., 0..300)) {
            if let Err(error) = parse(&bytes) {
                proptest::prop_assert!(!error.chars().any(char::is_control));
            }
        }

        /// The same for what looks like a request.
        #[test]
        fn no_request_does_harm(what in "ban|unban|allow|list|[a-z]{0,3}", network in "[0-9a-f.:/]{0,20}", seconds: i64, reason in ".{0,250}", force: bool) {
            let value = serde_json::json!({"do": what, "network": network, "seconds": seconds, "reason": reason, "force": force});
            match parse(value.to_string().as_bytes()) {
                Ok(Request::Ban { network, reason, .. }) => {
                    proptest::prop_assert!(network.ip() == network.network() && reason.len() <= MAX_REASON);
                }
                Ok(_) => {}
                Err(error) => proptest::prop_assert!(!error.chars().any(char::is_control), "{}", error),
            }
        }
    }
}
