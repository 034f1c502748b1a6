//! What a list's answer means.

use std::fmt;
use std::net::Ipv4Addr;

use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;

use super::codes::{is_error, is_error_by_custom};
use super::rule::{Met, Rule};

/// What a list says of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It meets some of the list's rules.
    Listed(Hit),
    /// Not listed, or by codes that are not asked for.
    NotListed,
    /// The list did not say.
    Unknown(Unknown),
}

/// A listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    /// The rules that it meets.
    pub met: Met,
    /// The lowest code that meets one.
    pub code: Ipv4Addr,
}

/// Why a list did not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// No answer in time.
    Timeout,
    /// An answer that is an error by its address.
    ErrorCode(Ipv4Addr),
    /// The nameserver's error: SERVFAIL, REFUSED, ….
    Response(ResponseCode),
    /// No nameserver could be asked.
    Unreachable(&'static str),
    /// More questions are open than may be.
    Busy,
    /// It has been asked as often today as it may be.
    Budget,
    /// It is not asked: it has failed its self-test, or does not answer.
    Down,
}

impl Unknown {
    /// Whether the list may well say it the next time: it is not down.
    #[must_use]
    pub fn is_of_the_moment(&self) -> bool {
        !matches!(self, Self::Down | Self::ErrorCode(_))
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("no answer in time"),
            Self::ErrorCode(code) => {
                write!(f, "answered {code}, an error and no listing")?;
                f.write_str(match code.octets() {
                    [127, 255, 255, 252] => " (typing error in the zone's name: correct it)",
                    [127, 255, 255, 254] => {
                        " (asked through a public resolver: use one of your own)"
                    }
                    [127, 255, 255, 255] | [127, 0, 0, 255] => {
                        " (too many queries: ask the list's operator for a data feed or a key, or remove it)"
                    }
                    [127, 0, 0, 1] => {
                        " (no list may answer it by RFC 5782; where its operator means a listing, name 127.0.0.1 in codes)"
                    }
                    _ => " (see what the list's operator says of it)",
                })
            }
            Self::Response(ResponseCode::Refused) => f.write_str(
                "the nameserver answered REFUSED (it must be a resolver that serves this host)",
            ),
            Self::Response(ResponseCode::ServFail) => f.write_str(
                "the nameserver answered SERVFAIL (the list's own servers may be down; does the zone still exist?)",
            ),
            Self::Response(code) => write!(f, "the nameserver answered {code}"),
            Self::Unreachable(error) => write!(f, "no nameserver could be asked: {error}"),
            Self::Busy => f.write_str("too many questions are open"),
            Self::Budget => f.write_str("max-queries-per-day is used up"),
            Self::Down => f.write_str("it is not asked until it has passed its self-test"),
        }
    }
}

impl Answer {
    /// The meaning of an answer's addresses. An error among them makes the
    /// whole answer unknown: such a list is not to be trusted this time.
    #[must_use]
    pub fn from_addresses(addresses: &[Ipv4Addr], rules: &[Rule]) -> Self {
        let matched = |code: Ipv4Addr| rules.iter().any(|rule| rule.matches(code));
        let error = |code: Ipv4Addr| is_error(code) || is_error_by_custom(code) && !matched(code);
        if let Some(code) = addresses.iter().find(|code| error(**code)) {
            return Self::Unknown(Unknown::ErrorCode(*code));
        }
        let hit = addresses.iter().filter(|code| matched(**code)).min();
        hit.map_or(Self::NotListed, |code| {
            Self::Listed(Hit {
                met: Met::of(addresses, rules),
                code: *code,
            })
        })
    }

    /// The meaning of a resolver's error.
    #[must_use]
    pub fn from_error(error: &NetError) -> Self {
        Self::Unknown(match error {
            NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
                ResponseCode::NXDomain | ResponseCode::NoError => return Self::NotListed,
                code => Unknown::Response(code),
            },
            NetError::Dns(DnsError::ResponseCode(code)) => Unknown::Response(*code),
            NetError::Timeout => Unknown::Timeout,
            NetError::Busy => Unknown::Busy,
            // Not the error's own text: it may hold the name that was asked for.
            other => Unknown::Unreachable(other.as_metrics_label()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dnsbl::rule::Match;
    use crate::dnsbl::{Codes, Score};

    fn rules(codes: &[&str]) -> Vec<Rule> {
        codes
            .iter()
            .map(|range| {
                let mut codes = Codes::default();
                codes.add(range).unwrap();
                Rule {
                    of: Match::Codes(codes),
                    score: Score::from_points(1.0).unwrap(),
                }
            })
            .collect()
    }

    fn meaning(addresses: &[&str]) -> Answer {
        let addresses: Vec<Ipv4Addr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
        Answer::from_addresses(&addresses, &rules(&["127.0.0.2-127.0.0.7"]))
    }

    fn listed(code: &str) -> Answer {
        Answer::Listed(Hit {
            met: Met(1),
            code: code.parse().unwrap(),
        })
    }

    #[test]
    fn an_answer_in_the_codes_is_a_listing() {
        assert_eq!(meaning(&["127.0.0.2"]), listed("127.0.0.2"));
        assert_eq!(meaning(&["127.0.0.10", "127.0.0.4"]), listed("127.0.0.4"));
        assert_eq!(meaning(&["127.0.0.10"]), Answer::NotListed);
        assert_eq!(meaning(&[]), Answer::NotListed);
    }

    #[test]
    fn no_error_convicts() {
        for error in [
            "127.255.255.252",
            "127.255.255.254",
            "127.255.255.255",
            "127.255.255.0",
            "127.0.0.1",
            "127.0.0.255",
            "10.0.0.2",
            "0.0.0.0",
        ] {
            let unknown = Answer::Unknown(Unknown::ErrorCode(error.parse().unwrap()));
            assert_eq!(meaning(&[error]), unknown);
            assert_eq!(
                meaning(&["127.0.0.2", error]),
                unknown,
                "not even beside a listing"
            );
        }
        for error in [
            NetError::Timeout,
            NetError::Busy,
            NetError::NoConnections,
            NetError::from(std::io::Error::other("x")),
        ] {
            assert!(
                matches!(Answer::from_error(&error), Answer::Unknown(_)),
                "{error:?}"
            );
        }
        for code in [
            ResponseCode::ServFail,
            ResponseCode::Refused,
            ResponseCode::FormErr,
        ] {
            let error = NetError::Dns(DnsError::ResponseCode(code));
            assert_eq!(
                Answer::from_error(&error),
                Answer::Unknown(Unknown::Response(code))
            );
        }
    }

    #[test]
    fn a_code_that_is_named_alone_overrides_custom_but_no_error() {
        let rules = rules(&["127.0.0.1"]);
        let meaning = |code: &str| Answer::from_addresses(&[code.parse().unwrap()], &rules);
        assert_eq!(meaning("127.0.0.1"), listed("127.0.0.1"));
        assert!(matches!(meaning("127.255.255.254"), Answer::Unknown(_)));
    }
}
