//! What does not work at the moment. Each state is logged once when it is
//! entered and once when it is left, however often it is met in between.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Display;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rblfilter_warden::policy::{DENY, PASS};

use crate::dnsbl::Family;
use crate::log::Event;
use crate::status;

/// A part that can fail while mail flows on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// A DNS list, by its shown name; for IPv6 clients alone, where so.
    List(String, Family),
    /// A DNS list's queries of the day.
    Budget(String),
    /// A domain's SPF record.
    Spf(String),
    /// The file of what the lists said.
    Cache,
    /// The file of bans.
    Store,
    /// The socket for the admin's commands.
    Control,
    /// The resolver as a whole.
    Resolver,
    /// The warden, or its capability.
    Warden,
    /// The kernel's set of this name.
    Set(String),
    /// The rule that drops what is in the set of this name; for that of whom the
    /// gate passes, the rule that sends all others to it.
    Rule(String),
    /// The list of the host's own addresses.
    OwnAddresses,
    /// Courier's aliases.
    Aliases,
    /// The slot guard: whom it could end cannot be told.
    Guard,
    /// The gate lets all in at this port.
    Gate(u16),
    /// The filter socket: no connection could be accepted.
    Accept,
    /// The configuration's file, which is not the one in force.
    Config,
    /// The supervisor, which starts worker and warden again.
    Supervisor,
    /// Where what is counted can be read: `listen` or `textfile`.
    Metrics(&'static str),
}

/// What the parts are called, each kind once.
pub const KINDS: [&str; 18] = [
    "dnsbl",
    "budget",
    "spf",
    "cache",
    "store",
    "control",
    "resolver",
    "warden",
    "set",
    "rule",
    "own-addresses",
    "aliases",
    "guard",
    "gate",
    "accept",
    "config",
    "supervisor",
    "metrics",
];

impl Part {
    fn event(&self, name: &str) -> Event {
        let event = Event::new(name);
        match self {
            Self::List(zone, family) => {
                let event = event.field("what", "dnsbl").field("zone", zone);
                match family {
                    Family::V4 => event,
                    Family::V6 => event.field("family", "ipv6"),
                }
            }
            Self::Budget(zone) => event.field("what", "budget").field("zone", zone),
            Self::Spf(domain) => event.field("what", "spf").field("name", domain),
            Self::Cache => event.field("what", "cache"),
            Self::Store => event.field("what", "store"),
            Self::Control => event.field("what", "control"),
            Self::Resolver => event.field("what", "resolver"),
            Self::Warden => event.field("what", "warden"),
            Self::Set(set) => event.field("what", "set").field("name", set),
            Self::Rule(set) => event.field("what", "rule").field("name", set),
            Self::OwnAddresses => event.field("what", "own-addresses"),
            Self::Aliases => event.field("what", "aliases"),
            Self::Gate(port) => event.field("what", "gate").field("port", port),
            Self::Guard => event.field("what", "guard"),
            Self::Accept => event.field("what", "accept"),
            Self::Config => event.field("what", "config"),
            Self::Supervisor => event.field("what", "supervisor"),
            Self::Metrics(name) => event.field("what", "metrics").field("name", name),
        }
    }

    /// What an admin can do about it.
    fn advice(&self) -> &'static str {
        match self {
            Self::List(..) => {
                "nobody is refused on it; it is tested again by itself (rblfilter doctor --only zone-down)"
            }
            Self::Budget(_) => "raise its max-queries-per-day, or ask its operator for a key",
            Self::Spf(_) => "it is read again by itself; else take it out of never-ban.spf",
            Self::Cache | Self::Store => {
                "look at the space and the owner of rblfilter's folder below Courier's state folder"
            }
            Self::Control => "look at the owner of the folder of the control socket",
            Self::Resolver => "look at /etc/resolv.conf, or set lookup.nameservers",
            Self::Warden => {
                "nobody is banned; give it its capability again (install.sh, or dpkg-reconfigure rblfilter), and look at the log"
            }
            Self::Set(_) => "nobody is banned in it: rblfilter firewall apply",
            Self::Rule(set) if set.starts_with(PASS) => {
                "the gate sees nobody, and the watch all: rblfilter firewall apply (where the kernel has no CONFIG_NFT_QUEUE: ban.backend = \"ipset\")"
            }
            Self::Rule(set) if set.starts_with(DENY) => {
                "whom the gate denied is asked for again and again: rblfilter firewall apply"
            }
            Self::Rule(_) => "who is banned is not kept out: rblfilter firewall apply",
            Self::OwnAddresses => "nobody is judged by addresses that are not known; see the log",
            Self::Aliases => "mail for postmaster and abuse passes; try aliaslookup postmaster",
            Self::Gate(_) => {
                "the gate lets all in there; the watch sees them (admin guide, \"The gate\")"
            }
            Self::Guard => "no session is ended for its silence; see the log",
            Self::Accept => "raise the limit of open files (LimitNOFILE of courier's service)",
            Self::Config => "mend the file (rblfilter config check), then rblfilter reload",
            Self::Metrics(_) => {
                "look at [metrics], and whether Courier's user may write there; it is tried again by itself"
            }
            Self::Supervisor => "filterctl stop rblfilter; sleep 1; filterctl start rblfilter",
        }
    }

    /// What it is called in the log, and which of several it is.
    fn name(&self) -> (String, String) {
        let event = self.event("").to_string();
        let mut values = event
            .split(',')
            .filter_map(|field| field.split_once('='))
            .map(|(_, value)| value.to_owned());
        let what = values.next().unwrap_or_default();
        (what, values.collect::<Vec<_>>().join(" "))
    }
}

/// The parts that do not work, since when, and why.
#[derive(Debug, Default)]
pub struct Degraded {
    since: Mutex<HashMap<Part, (Instant, String)>>,
}

impl Degraded {
    fn since(&self) -> MutexGuard<'_, HashMap<Part, (Instant, String)>> {
        // The map is whole at every moment, so a panic elsewhere leaves it usable.
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `part` does not work.
    #[must_use]
    pub fn is_entered(&self, part: &Part) -> bool {
        self.since().contains_key(part)
    }

    /// `part` does not work, for this reason. Logged only where it worked before;
    /// the status tells the newest reason.
    pub fn enter(&self, part: Part, reason: impl Display, now: Instant) {
        let reason = reason.to_string();
        let event = part.event("degraded").text(&reason);
        match self.since().entry(part) {
            Entry::Vacant(entry) => {
                entry.insert((now, reason));
                log::warn!("{event}");
            }
            Entry::Occupied(mut entry) => entry.get_mut().1 = reason,
        }
    }

    /// `part` works. Logged only where it did not before.
    pub fn leave(&self, part: &Part, now: Instant) {
        if let Some((since, _)) = self.since().remove(part) {
            let seconds = now.saturating_duration_since(since).as_secs();
            log::warn!(
                "{}",
                part.event("recovered")
                    .field("after", format!("{seconds}s"))
            );
        }
    }
}

impl Degraded {
    /// What does not work, the longest first.
    #[must_use]
    pub fn status(&self, now: Instant) -> Vec<status::Degraded> {
        let mut all: Vec<status::Degraded> = self
            .since()
            .iter()
            .map(|(part, (since, reason))| {
                let (what, name) = part.name();
                status::Degraded {
                    what,
                    name,
                    age: now.saturating_duration_since(*since).as_secs(),
                    reason: reason.clone(),
                    advice: part.advice().into(),
                }
            })
            .collect();
        all.sort_by(|one, other| {
            other
                .age
                .cmp(&one.age)
                .then_with(|| one.what.cmp(&other.what))
        });
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_part_is_of_a_known_kind() {
        let some = || "x".to_owned();
        let parts = [
            Part::List(some(), Family::V4),
            Part::Budget(some()),
            Part::Spf(some()),
            Part::Cache,
            Part::Store,
            Part::Control,
            Part::Resolver,
            Part::Warden,
            Part::Set(some()),
            Part::Rule(some()),
            Part::OwnAddresses,
            Part::Aliases,
            Part::Guard,
            Part::Gate(25),
            Part::Accept,
            Part::Config,
            Part::Supervisor,
            Part::Metrics("listen"),
        ];
        let names = parts.map(|part| part.name().0);
        assert_eq!(names.each_ref().map(String::as_str), KINDS);
        let log = include_str!("../docs/logging.md");
        for kind in KINDS {
            assert!(log.contains(&format!("`{kind}`")), "{kind}");
        }
    }

    #[test]
    fn a_state_is_entered_once_and_left_once() {
        let degraded = Degraded::default();
        let now = Instant::now();
        degraded.enter(Part::Warden, "gone", now);
        degraded.enter(Part::Warden, "still gone", now + Duration::from_secs(9));
        assert_eq!(
            degraded.since()[&Part::Warden].0,
            now,
            "since it was entered"
        );
        degraded.enter(Part::Set("a".into()), "missing", now);
        assert_eq!(degraded.since().len(), 2);
        let list = Part::List("bl.test".into(), Family::V6);
        degraded.enter(list.clone(), "silent", now - Duration::from_secs(9));
        let told = degraded.status(now);
        let names: Vec<(&str, &str, u64, &str)> = told
            .iter()
            .map(|it| (&*it.what, &*it.name, it.age, &*it.reason))
            .collect();
        assert_eq!(
            names,
            [
                ("dnsbl", "bl.test ipv6", 9, "silent"),
                ("set", "a", 0, "missing"),
                ("warden", "", 0, "still gone"),
            ]
        );
        degraded.leave(&list, now);
        degraded.leave(&Part::Warden, now);
        degraded.leave(&Part::Warden, now);
        assert_eq!(degraded.since().len(), 1);
    }
}
