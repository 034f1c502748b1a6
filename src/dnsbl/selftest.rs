//! Whether a list works: it must list the one test entry and not the other
//! (RFC 5782 §5: 127.0.0.2 and 127.0.0.1; for IPv6 ::ffff:7f00:2 and
//! ::ffff:7f00:1).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::answer::Unknown;

/// The two families, of which each is a list of its own as far as health goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }

    /// The addresses that must be listed, and must not.
    #[must_use]
    pub fn test_entries(self) -> [IpAddr; 2] {
        let entry = |last| match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)),
            Self::V6 => IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0x7f00, last.into())),
        };
        [entry(2), entry(1)]
    }
}

/// What a list said of a test entry, whatever its codes are worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Listed, by whichever code.
    Listed(Ipv4Addr),
    /// Not listed.
    NotListed,
    /// It did not say.
    Unknown(Unknown),
}

/// Why a self-test failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It lists what no list may list.
    ListsTheWorld(Ipv4Addr),
    /// It does not list what each must list.
    ListsNothing(Family),
    /// It did not say.
    Unknown(Unknown),
}

impl Failure {
    /// Whether what it said meanwhile may be wrong, and not only missing.
    #[must_use]
    pub fn is_lie(&self) -> bool {
        !matches!(self, Self::Unknown(_))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ListsTheWorld(code) => write!(
                f,
                "it answered {code} for 127.0.0.1, so it may list the whole world (RFC 5782 §5); where its operator says that this is right, set self-test = false"
            ),
            Self::ListsNothing(Family::V4) => f.write_str(
                "it does not list 127.0.0.2 (RFC 5782 §5): does the zone still exist? where its operator says that this is right, set self-test = false",
            ),
            Self::ListsNothing(Family::V6) => f.write_str(
                "it does not list ::ffff:7f00:2 (RFC 5782 §5): where it knows no IPv6 addresses, set ipv6 = false",
            ),
            Self::Unknown(unknown) => write!(f, "{unknown}"),
        }
    }
}

/// The verdict on what a list said of the entry that must be listed and of the
/// one that must not.
///
/// # Errors
/// Why the test has failed.
pub fn verdict(family: Family, listed: &Probe, unlisted: &Probe) -> Result<(), Failure> {
    match (unlisted, listed) {
        (Probe::Listed(code), _) => Err(Failure::ListsTheWorld(*code)),
        (Probe::Unknown(unknown), _) | (_, Probe::Unknown(unknown)) => {
            Err(Failure::Unknown(unknown.clone()))
        }
        (Probe::NotListed, Probe::NotListed) => Err(Failure::ListsNothing(family)),
        (Probe::NotListed, Probe::Listed(_)) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_entries_of_rfc_5782() {
        let entries = |family: Family| family.test_entries().map(|entry| entry.to_string());
        assert_eq!(entries(Family::V4), ["127.0.0.2", "127.0.0.1"]);
        assert_eq!(
            entries(Family::V6),
            ["::ffff:127.0.0.2", "::ffff:127.0.0.1"]
        );
    }

    #[test]
    fn one_entry_listed_and_the_other_not() {
        let code = Ipv4Addr::new(127, 0, 0, 2);
        let (yes, no) = (Probe::Listed(code), Probe::NotListed);
        let silent = Probe::Unknown(Unknown::Timeout);
        for (listed, unlisted, expected) in [
            (&yes, &no, Ok(())),
            (&yes, &yes, Err(Failure::ListsTheWorld(code))),
            (&silent, &yes, Err(Failure::ListsTheWorld(code))),
            (&no, &no, Err(Failure::ListsNothing(Family::V4))),
            (&yes, &silent, Err(Failure::Unknown(Unknown::Timeout))),
            (&silent, &no, Err(Failure::Unknown(Unknown::Timeout))),
        ] {
            assert_eq!(verdict(Family::V4, listed, unlisted), expected);
        }
    }
}
