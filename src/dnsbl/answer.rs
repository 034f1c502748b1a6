//! What a list's answer means.

use std::fmt;
use std::net::Ipv4Addr;

use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;

use super::Codes;
use super::codes::is_error;

/// What a list says of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Listed, by this code.
    Listed(Ipv4Addr),
    /// Not listed, or by codes that are not asked for.
    NotListed,
    /// The list did not say.
    Unknown(Unknown),
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
    Unreachable(String),
    /// More questions are open than may be.
    Busy,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("no answer in time"),
            Self::ErrorCode(code) => {
                write!(f, "answered {code}, an error and no listing")?;
                f.write_str(match code.octets() {
                    [127, 255, 255, 252] => " (typing error in the zone's name)",
                    [127, 255, 255, 254] => {
                        " (asked through a public resolver: use one of your own)"
                    }
                    [127, 255, 255, 255] => " (too many queries)",
                    _ => "",
                })
            }
            Self::Response(code) => write!(f, "the nameserver answered {code}"),
            Self::Unreachable(error) => write!(f, "no nameserver could be asked: {error}"),
            Self::Busy => f.write_str("too many questions are open"),
        }
    }
}

impl Answer {
    /// The meaning of an answer's addresses. An error among them makes the
    /// whole answer unknown: such a list is not to be trusted this time.
    #[must_use]
    pub fn from_addresses(addresses: &[Ipv4Addr], codes: &Codes) -> Self {
        if let Some(code) = addresses.iter().find(|code| is_error(**code)) {
            return Self::Unknown(Unknown::ErrorCode(*code));
        }
        addresses
            .iter()
            .filter(|code| codes.contains(**code))
            .min()
            .map_or(Self::NotListed, |code| Self::Listed(*code))
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
            other => Unknown::Unreachable(reason(other).to_owned()),
        })
    }
}

/// An error without the name that was asked for: it may hold a key.
fn reason(error: &NetError) -> &'static str {
    error.as_metrics_label()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes() -> Codes {
        let mut codes = Codes::default();
        codes.add("127.0.0.2-127.0.0.7").unwrap();
        codes
    }

    fn meaning(addresses: &[&str]) -> Answer {
        let addresses: Vec<Ipv4Addr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
        Answer::from_addresses(&addresses, &codes())
    }

    #[test]
    fn an_answer_in_the_codes_is_a_listing() {
        assert_eq!(
            meaning(&["127.0.0.2"]),
            Answer::Listed(Ipv4Addr::new(127, 0, 0, 2))
        );
        assert_eq!(
            meaning(&["127.0.0.10", "127.0.0.4"]),
            Answer::Listed(Ipv4Addr::new(127, 0, 0, 4))
        );
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
}
