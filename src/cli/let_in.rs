//! Who is let in by hand, as the running filter says, or its file where it does not
//! run.

use std::net::IpAddr;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use ipnetwork::IpNetwork;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};

use super::ask::{self, Error};
use crate::control::{Answer, Entry, Request};
use crate::courier::paths::Paths;
use crate::report::now;
use crate::store::{self, FILE};

/// How long that is waited for: the filter may hang, and so may the file system.
const TIME: Duration = Duration::from_secs(8);

/// Networks that are let in, and when that was said.
#[derive(Clone, Debug, Default)]
pub struct LetIn {
    entries: Vec<Entry>,
    at: i64,
}

/// What is known of one address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum IsLetIn {
    /// That could not be found out.
    Unknown,
    /// It is not.
    No,
    /// It is, until so many seconds since 1970, with these networks.
    Until(i64, Vec<IpNetwork>),
}

impl IsLetIn {
    /// Until when, in seconds since 1970.
    #[must_use]
    pub fn until(&self) -> Option<i64> {
        match self {
            Self::Until(at, _) => Some(*at),
            Self::Unknown | Self::No => None,
        }
    }

    /// Whether it is, where that is known.
    #[must_use]
    pub fn known(&self) -> Option<bool> {
        match self {
            Self::Unknown => None,
            Self::No => Some(false),
            Self::Until(..) => Some(true),
        }
    }
}

impl LetIn {
    /// Those of now.
    ///
    /// # Errors
    /// Why that is not known, in words.
    pub fn read() -> Result<Self, String> {
        let (sender, read) = mpsc::channel();
        thread::spawn(move || {
            // Nobody waits for one that is late.
            let _ = sender.send(Self::read_in_time());
        });
        read.recv_timeout(TIME)
            .unwrap_or_else(|_| Err("there was no answer in time".into()))
    }

    fn read_in_time() -> Result<Self, String> {
        let mut entries = Vec::new();
        let asked = ask::ask(&Request::Allowed, |answer| {
            if let Answer::Entry(entry) = answer {
                entries.push(entry);
            }
            Ok(())
        });
        match asked {
            Ok(_) => {}
            Err(Error::NotRunning(_)) => entries = of_file()?,
            // One of before this request.
            Err(error) if error.is_about("unknown variant") => {
                return Err(
                    "the running filter is of a version that does not tell it (rblfilter reload)"
                        .into(),
                );
            }
            Err(error) => return Err(error.to_string()),
        }
        Ok(Self { entries, at: now() })
    }

    /// Whether `address` is, and for as long as its longest network.
    #[must_use]
    pub fn of(&self, address: IpAddr) -> IsLetIn {
        let of_it = self.entries.iter();
        let of_it = of_it.filter(|entry| entry.network.contains(address));
        let Some(left) = of_it.clone().map(|entry| entry.left).max() else {
            return IsLetIn::No;
        };
        let networks = of_it.map(|entry| entry.network).collect();
        IsLetIn::Until(self.at.saturating_add(left.into()), networks)
    }
}

/// A time for people, in the zone of this host.
#[must_use]
pub fn shown(at: i64, zone: &TimeZone) -> String {
    Timestamp::from_second(at).map_or_else(
        |_| at.to_string(),
        |time| {
            ZonedDateTime::new(time, zone.clone())
                .strftime("%Y-%m-%d %H:%M:%S %Z")
                .to_string()
        },
    )
}

/// Those that the file holds.
fn of_file() -> Result<Vec<Entry>, String> {
    let paths = Paths::from_env();
    let now = u32::try_from(now()).unwrap_or(u32::MAX);
    store::allowed(&paths.real_state().join(FILE), now).map_err(|error| {
        format!(
            "cannot read {}: {error}",
            paths.state().join(FILE).display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_let_in_for_as_long_as_its_longest_network() {
        let entry = |network: &str, left| Entry::allowed(network.parse().unwrap(), left);
        let let_in = LetIn {
            entries: vec![entry("203.0.113.9/32", 60), entry("203.0.113.0/24", 3600)],
            at: 1_800_000_000,
        };
        let of = |address: &str| let_in.of(address.parse().unwrap());
        let networks = let_in.entries.iter().map(|entry| entry.network).collect();
        assert_eq!(of("203.0.113.9"), IsLetIn::Until(1_800_003_600, networks));
        assert_eq!(of("203.0.114.9"), IsLetIn::No);
        assert_eq!(
            shown(1_800_003_600, &TimeZone::UTC),
            "2027-01-15 09:00:00 UTC"
        );
    }
}
