//! The table of faults.

use std::fmt;
use std::time::Duration;

use super::stage::{Role, Stage};
use super::{process, restart, surroundings};
use crate::stub::{Answer, Lie, Stub};
use crate::{Config, Dns, Error, Lab};

/// What ends a fault that does not end by itself.
pub struct Mend(Option<Act>);

type Act = Box<dyn FnOnce(&mut Stage) -> Result<(), Error>>;

impl fmt::Debug for Mend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Mend" } else { "Nothing" })
    }
}

impl Mend {
    /// There is nothing to do.
    #[must_use]
    pub fn nothing() -> Self {
        Self(None)
    }

    /// This is to be done.
    pub fn by(act: impl FnOnce(&mut Stage) -> Result<(), Error> + 'static) -> Self {
        Self(Some(Box::new(act)))
    }

    /// Does it; whether there was something to do.
    ///
    /// # Errors
    /// Where it cannot be done.
    pub fn done(self, stage: &mut Stage) -> Result<bool, Error> {
        match self.0 {
            Some(act) => act(stage).map(|()| true),
            None => Ok(false),
        }
    }
}

/// How long a fault stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lasts {
    /// It is over as soon as it has happened.
    AMoment,
    /// So long; then it is mended.
    For(Duration),
    /// Until rblfilter is over it by itself, so long at most.
    UntilOver(Duration),
}

/// One fault.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// How `--only` names it.
    pub name: &'static str,
    /// What the table says.
    pub title: &'static str,
    /// How long the wave runs at least before it.
    pub after: Duration,
    /// How long it stays.
    pub lasts: Lasts,
    /// Whether it is done to Courier too, which then tempfails by itself: it is done once more without rblfilter.
    pub compared: bool,
    /// Whether bans are lifted by it, and rightly: those that rest on a list alone that has failed since.
    pub lifts: bool,
    /// Whether a list lies: until something shows it, whom it names is ended.
    pub lies: bool,
    /// Whether Courier itself closes sessions in it; then only the log tells who was wrongly ended.
    pub cuts: bool,
    /// Whether the filter's memory can be bounded in it.
    pub bounded: bool,
    /// The lab.
    pub config: fn(&mut Config),
    /// Keys and tables of the configuration, beside the list.
    pub toml: &'static str,
    /// What is done before rblfilter starts.
    pub prepare: fn(&Lab) -> Result<(), Error>,
    /// The fault.
    pub inject: fn(&mut Stage) -> Result<Mend, Error>,
}

const fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

/// For how long what can be mended is left as it is.
const A_WHILE: Lasts = Lasts::For(seconds(4));

impl Scenario {
    const fn new(
        name: &'static str,
        title: &'static str,
        lasts: Lasts,
        inject: fn(&mut Stage) -> Result<Mend, Error>,
    ) -> Self {
        Self {
            name,
            title,
            after: Duration::ZERO,
            lasts,
            compared: false,
            lifts: false,
            lies: false,
            cuts: false,
            bounded: false,
            config: |_| {},
            toml: "",
            prepare: |_| Ok(()),
            inject,
        }
    }

    /// rblfilter's whole configuration.
    #[must_use]
    pub fn toml(&self) -> String {
        format!(
            "[lookup]\nquery-non-global = true\n[[dnsbl]]\nzone = \"bl.test\"\n{}\n",
            self.toml
        )
    }
}

/// Else couriertcpd itself would wait for the clients' names.
fn no_names(config: &mut Config) {
    config.tcpd_options = "-nodnslookup".into();
}

const SLOW: Dns = Dns::Stub(Stub {
    list: Answer::After(seconds(5)),
    names: Answer::AtOnce,
    text: None,
});

/// All faults, in the order of the report.
#[must_use]
pub fn all() -> Vec<Scenario> {
    let new = Scenario::new;
    let killed = Lasts::AMoment;
    // The worker gives a warden up that is silent for 30 s, and the supervisor a worker after 10 s.
    let stopped = Lasts::UntilOver(seconds(50));
    let dns = |name, title, lasts, inject| Scenario {
        config: no_names,
        lifts: true,
        ..new(name, title, lasts, inject)
    };
    let clock = |name, title, inject| Scenario {
        prepare: surroundings::own_clock,
        ..new(name, title, A_WHILE, inject)
    };
    let courier = |name, title, inject| Scenario {
        compared: true,
        ..new(name, title, Lasts::For(seconds(2)), inject)
    };
    vec![
        new("worker-killed", "worker, SIGKILL", killed, |stage| {
            process::kill(stage, Role::Worker)
        }),
        new("warden-killed", "warden, SIGKILL", killed, |stage| {
            process::kill(stage, Role::Warden)
        }),
        new(
            "supervisor-killed",
            "supervisor, SIGKILL",
            killed,
            |stage| process::kill(stage, Role::Supervisor),
        ),
        new("worker-stopped", "worker, SIGSTOP", stopped, |stage| {
            process::stop(stage, Role::Worker)
        }),
        new("warden-stopped", "warden, SIGSTOP", stopped, |stage| {
            process::stop(stage, Role::Warden)
        }),
        new(
            "supervisor-stopped",
            "supervisor, SIGSTOP",
            A_WHILE,
            |stage| process::stop(stage, Role::Supervisor),
        ),
        new(
            "descriptors",
            "the worker out of descriptors",
            A_WHILE,
            process::descriptors,
        ),
        Scenario {
            bounded: true,
            ..new(
                "memory",
                "the filter out of memory (cgroup)",
                A_WHILE,
                process::memory,
            )
        },
        Scenario {
            prepare: surroundings::small_disk,
            ..new(
                "disk-full",
                "the disk of the state full",
                A_WHILE,
                surroundings::fill_disk,
            )
        },
        dns("dns-dead", "DNS dead", A_WHILE, |stage| {
            surroundings::dns(stage, Dns::None)
        }),
        dns(
            "dns-slow",
            "DNS slow: 5 s",
            Lasts::For(seconds(6)),
            |stage| surroundings::dns(stage, SLOW),
        ),
        Scenario {
            // Good clients are asked for anew, as they are all day long where there are many.
            toml: "[cache]\nmin-ttl = \"1s\"\nmax-negative-ttl = \"1s\"\n",
            lies: true,
            ..dns(
                "dns-lying",
                "DNS lying: 127.0.0.2 for all",
                A_WHILE,
                |stage| surroundings::dns(stage, Dns::Lying(Lie::AllListed)),
            )
        },
        dns(
            "dns-hijacked",
            "DNS hijacked: an address for each name that does not exist",
            A_WHILE,
            |stage| surroundings::dns(stage, Dns::Lying(Lie::Hijacked)),
        ),
        new(
            "sets-destroyed",
            "the sets destroyed (ipset)",
            A_WHILE,
            |stage| {
                surroundings::firewall(
                    stage,
                    &[
                        &["iptables", "-F"],
                        &["ip6tables", "-F"],
                        &["ipset", "destroy"],
                    ],
                )
            },
        ),
        Scenario {
            // The filter looks at its sets every 10 s: those that it has never seen are no loss to it.
            after: seconds(12),
            ..new(
                "sets-flushed",
                "the sets emptied (ipset)",
                A_WHILE,
                |stage| surroundings::firewall(stage, &[&["ipset", "flush"]]),
            )
        },
        new(
            "iptables-flushed",
            "the firewall flushed: iptables -F",
            A_WHILE,
            |stage| surroundings::firewall(stage, &[&["iptables", "-F"], &["ip6tables", "-F"]]),
        ),
        Scenario {
            toml: "[ban]\nbackend = \"nftables\"\n",
            ..new(
                "nft-flushed",
                "the firewall flushed: nft flush ruleset",
                A_WHILE,
                |stage| surroundings::firewall(stage, &[&["nft", "flush", "ruleset"]]),
            )
        },
        new("syslog-gone", "syslog gone", A_WHILE, surroundings::syslog),
        clock("clock-forward", "the clock a day ahead", |stage| {
            surroundings::step_clock(stage, "+1d")
        }),
        clock("clock-back", "the clock a day back", |stage| {
            surroundings::step_clock(stage, "-1d")
        }),
        Scenario {
            cuts: true,
            ..courier("couriertcpd", "couriertcpd restarted", restart::couriertcpd)
        },
        courier("courierd", "courierd restarted", restart::courierd),
        new(
            "courierfilter",
            "courierfilter restarted",
            Lasts::For(seconds(2)),
            restart::courierfilter,
        ),
        new(
            "filter-restarted",
            "rblfilter stopped and started",
            Lasts::AMoment,
            restart::filter,
        ),
        new(
            "config-garbage",
            "started again with a configuration of garbage",
            A_WHILE,
            restart::garbage,
        ),
        new("reload", "reloaded", Lasts::AMoment, restart::reload),
        new(
            "reload-garbage",
            "a configuration of garbage, reloaded",
            A_WHILE,
            restart::garbage_reloaded,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::all;

    #[test]
    fn each_fault_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = all().iter().map(|one| one.name).collect();
        assert_eq!(names.len(), all().len());
    }
}
