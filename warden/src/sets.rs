//! The kernel's two sets of banned networks, through libipset.
//!
//! Both are `hash:net` with timeouts. libipset replaces the timeout of an
//! entry that exists, also by a shorter one, so this module remembers when
//! each entry ends and lets the larger of old and new stand.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use ipset::Session;
use ipset::types::{AddOption, EnvOption, Error, HashNet, NetDataType};
use nix::sys::memfd::{MFdFlags, memfd_create};
use rblfilter_warden::request::Outcome;

/// How often the set is read anew: somebody may have made it again, and
/// `hash:ip` takes an entry of `hash:net` without a word. (libipset gives its
/// header with all its entries or not at all.) A million entries take a second
/// or two, so the pause is at least so many times longer than that took.
const READ_EVERY: Duration = Duration::from_secs(10);
const READ_SHARE: u32 = 100;

/// The IPv4 and the IPv6 set.
pub struct Sets {
    v4: Set,
    v6: Set,
}

impl Sets {
    /// The sets of these names; neither need exist.
    pub fn new(set4: String, set6: String) -> Self {
        Self {
            v4: Set::new(set4, false),
            v6: Set::new(set6, true),
        }
    }

    /// Whether both sets are usable; the second value says which one is not.
    pub fn check(&mut self) -> (Outcome, bool) {
        match self.v4.read(Instant::now()) {
            Outcome::Done => (self.v6.read(Instant::now()), true),
            problem => (problem, false),
        }
    }

    /// Bans `network` for `seconds` from `now`.
    pub fn ban(&mut self, network: IpNetwork, seconds: u32, now: Instant) -> Outcome {
        if network.is_ipv4() {
            &mut self.v4
        } else {
            &mut self.v6
        }
        .ban(network, seconds, now)
    }
}

impl Sets {
    /// Takes `network` out of its set, where it is in.
    pub fn unban(&mut self, network: IpNetwork) -> Outcome {
        if network.is_ipv4() {
            &mut self.v4
        } else {
            &mut self.v6
        }
        .unban(network)
    }
}

struct Set {
    name: String,
    session: Session<HashNet>,
    ipv6: bool,
    /// When each entry ends; `None`: never.
    ends: HashMap<IpNetwork, Option<Instant>>,
    /// When the set is to be read again; `None`: before the next ban.
    read_from: Option<Instant>,
}

impl Set {
    fn new(name: String, ipv6: bool) -> Self {
        Self {
            session: Session::new(name.clone()),
            name,
            ipv6,
            ends: HashMap::new(),
            read_from: None,
        }
    }

    fn ban(&mut self, network: IpNetwork, seconds: u32, now: Instant) -> Outcome {
        if self.read_from.is_none_or(|from| now >= from) {
            match self.read(now) {
                Outcome::Done => {}
                problem => return problem,
            }
        }
        let end = now + Duration::from_secs(seconds.into());
        let outcome = match self.add(network, seconds) {
            Ok(true) => Outcome::Done,
            Ok(false) => match self.extend(network, seconds, now) {
                Ok(outcome) => outcome,
                Err(error) => self.failed(&error),
            },
            Err(error) => self.failed(&error),
        };
        if matches!(outcome, Outcome::Done | Outcome::Extended) {
            self.ends.insert(network, Some(end));
            self.forget_ended(now);
        }
        outcome
    }

    fn unban(&mut self, network: IpNetwork) -> Outcome {
        self.ends.remove(&network);
        let entry = NetDataType::new(network.network(), network.prefix());
        match self.session.del(entry) {
            // It may have ended by itself.
            Ok(_) => Outcome::Done,
            Err(error) => self.failed(&error),
        }
    }

    /// The entry exists: makes it run at least `seconds` more.
    fn extend(&mut self, network: IpNetwork, seconds: u32, now: Instant) -> Result<Outcome, Error> {
        let end = now + Duration::from_secs(seconds.into());
        match self.ends.get(&network) {
            Some(Some(old)) if *old < end => {
                self.session.set_option(EnvOption::Exist);
                let added = self.add(network, seconds);
                self.session.unset_option(EnvOption::Exist);
                added.map(|_| Outcome::Extended)
            }
            // It runs longer, or never ends, or somebody else made it since we
            // last looked.
            _ => Ok(Outcome::Kept),
        }
    }

    fn add(&mut self, network: IpNetwork, seconds: u32) -> Result<bool, Error> {
        self.session.add(
            NetDataType::new(network.network(), network.prefix()),
            &[AddOption::Timeout(seconds)],
        )
    }

    /// Whether the set is there and of the kind that we need; and when each of
    /// its entries ends.
    fn read(&mut self, now: Instant) -> Outcome {
        self.read_from = None;
        let text = match self.save() {
            Ok(text) => text,
            Err(Save::Ipset(error)) => return self.failed(&error),
            Err(Save::Io(error)) => {
                eprintln!("rblfilter-warden: cannot read a set: {error}");
                return Outcome::Failed;
            }
        };
        match Saved::parse(&text, now) {
            Some(saved) if saved.fits(self.ipv6) => {
                self.ends = saved.ends;
                let took = now.elapsed();
                self.read_from = Some(Instant::now() + READ_EVERY.max(took * READ_SHARE));
                Outcome::Done
            }
            _ => Outcome::WrongSet,
        }
    }

    /// The set as `ipset save` prints it. The crate's own `list` panics on a
    /// set that has timeouts, so it saves into memory instead.
    fn save(&mut self) -> Result<String, Save> {
        let memory = memfd_create(c"ipset-save", MFdFlags::MFD_CLOEXEC).map_err(io::Error::from)?;
        self.session
            .save(format!("/proc/self/fd/{}", memory.as_raw_fd()))?;
        let mut text = String::new();
        File::from(memory).read_to_string(&mut text)?;
        Ok(text)
    }

    fn failed(&mut self, error: &Error) -> Outcome {
        // libipset's session answers "internal protocol error" after some errors.
        self.session = Session::new(self.name.clone());
        let text = error
            .to_string()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        if text.contains("is full") {
            return Outcome::Full;
        }
        // Whatever it is, look at the set anew before the next ban.
        self.read_from = None;
        if text.contains("does not exist") {
            Outcome::NoSet
        } else if text.contains("not permitted") {
            Outcome::NotPermitted
        } else if text.contains("Timeout cannot be used") {
            Outcome::WrongSet
        } else {
            eprintln!("rblfilter-warden: ipset: {text}");
            Outcome::Failed
        }
    }

    fn forget_ended(&mut self, now: Instant) {
        if self.ends.len().is_power_of_two() {
            self.ends.retain(|_, end| end.is_none_or(|end| end > now));
        }
    }
}

/// Why a set could not be saved.
enum Save {
    Ipset(Error),
    Io(io::Error),
}

impl From<Error> for Save {
    fn from(error: Error) -> Self {
        Self::Ipset(error)
    }
}

impl From<io::Error> for Save {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What `ipset save NAME` says of a set.
#[derive(Debug, PartialEq)]
struct Saved {
    hash_net: bool,
    ipv6: bool,
    timeout: bool,
    ends: HashMap<IpNetwork, Option<Instant>>,
}

impl Saved {
    /// Reads the `create NAME TYPE OPTION…` line and the `add NAME ENTRY
    /// OPTION…` lines after it (ipset(8)); entries that are no network are
    /// passed over. `None` where there is no `create` line.
    fn parse(text: &str, now: Instant) -> Option<Self> {
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
                    .map(|s| now + Duration::from_secs(s));
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

    fn fits(&self, ipv6: bool) -> bool {
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
            HashMap::from([
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
