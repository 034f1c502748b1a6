//! The text of `ipset save NAME` (ipset(8)), read.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;

/// Networks, and when each ends; `None`: never.
pub type Ends = HashMap<IpNetwork, Option<Instant>>;

/// What `ipset save NAME` says of a set.
#[derive(Debug, PartialEq, Eq)]
pub struct Saved {
    hash_net: bool,
    ipv6: bool,
    timeout: bool,
    /// Its entries, and when each ends.
    pub ends: Ends,
}

impl Saved {
    /// Reads the `create NAME TYPE OPTION…` line and the `add NAME ENTRY
    /// OPTION…` lines after it (ipset(8)); entries that are no network are
    /// passed over. `None` where there is no `create` line.
    #[must_use]
    pub fn parse(text: &str, now: Instant) -> Option<Self> {
        let mut lines = text.lines();
        let header: Vec<&str> = lines.next()?.split_ascii_whitespace().collect();
        let ["create", _, kind, options @ ..] = header.as_slice() else {
            return None;
        };
        let ends = lines
            .filter_map(|line| {
                let words: Vec<&str> = line.split_ascii_whitespace().collect();
                let ["add", _, entry, options @ ..] = words.as_slice() else {
                    return None;
                };
                let seconds: Option<u64> = option(options, "timeout").and_then(|s| s.parse().ok());
                let end = seconds
                    .filter(|s| *s > 0)
                    .and_then(|s| now.checked_add(Duration::from_secs(s)));
                Some((entry.parse().ok()?, end))
            })
            .collect();
        Some(Self {
            hash_net: *kind == "hash:net",
            ipv6: option(options, "family") == Some("inet6"),
            timeout: option(options, "timeout").is_some(),
            ends,
        })
    }

    /// Whether it is a set of networks with timeouts, of this family.
    #[must_use]
    pub fn fits(&self, ipv6: bool) -> bool {
        self.hash_net && self.timeout && self.ipv6 == ipv6
    }
}

/// The word after `name`.
fn option<'a>(words: &[&'a str], name: &str) -> Option<&'a str> {
    let at = words.iter().position(|word| *word == name)?;
    words.get(at + 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_set_tells_its_type_and_when_each_entry_ends() {
        let now = Instant::now();
        let text = "create rblfilter6 hash:net family inet6 hashsize 1024 maxelem 65536 timeout 3600 bucketsize 12 initval 0x7\n\
                    add rblfilter6 fd00:66::/64 timeout 90\n\
                    add rblfilter6 fd00:67::1 timeout 0\n\
                    add rblfilter6 nonsense timeout 1\n";
        let saved = Saved::parse(text, now).unwrap();
        assert!(saved.fits(true));
        assert!(!saved.fits(false));
        assert_eq!(
            saved.ends,
            Ends::from([
                (
                    "fd00:66::/64".parse().unwrap(),
                    Some(now + Duration::from_secs(90))
                ),
                ("fd00:67::1/128".parse().unwrap(), None),
            ])
        );
    }

    #[test]
    fn a_set_of_another_kind_does_not_fit() {
        for text in [
            "create s hash:ip family inet timeout 3600",
            "create s hash:net family inet hashsize 1024",
            "create s hash:net family inet6 timeout 3600",
        ] {
            assert!(
                !Saved::parse(text, Instant::now()).unwrap().fits(false),
                "{text}"
            );
        }
        assert_eq!(Saved::parse("", Instant::now()), None);
        assert_eq!(Saved::parse("add s 1.2.3.4", Instant::now()), None);
    }
}
