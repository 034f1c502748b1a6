//! The checks: facts in, findings out, no I/O. One file a group.

mod configuration;
mod courier;
mod filter;
mod host;
mod installation;
mod lists;
#[cfg(test)]
mod tests;

use rblfilter_warden::policy::Backend;

use super::facts::Facts;
use super::finding::Finding;
use crate::config::Mode;

/// Where findings go.
type Out<'a> = &'a mut Vec<Finding>;

/// What there is to say of `facts`, by group, in the order of the catalogue.
#[must_use]
pub fn examine(facts: &Facts) -> Vec<Finding> {
    let mut all = Vec::new();
    installation::examine(facts, &mut all);
    // The rest would be one long list of what follows from that.
    if facts.courier.there {
        courier::examine(facts, &mut all);
        configuration::examine(facts, &mut all);
        lists::examine(facts, &mut all);
        filter::examine(facts, &mut all);
        host::examine(facts, &mut all);
    }
    let place = |finding: &Finding| {
        super::ALL
            .iter()
            .position(|check| *check == finding.check)
            .unwrap_or(usize::MAX)
    };
    all.sort_by_key(|finding| place(finding));
    all
}

/// Whether bans are to reach the kernel; where the configuration cannot be read,
/// they may be.
fn bans(facts: &Facts) -> bool {
    facts.config.read.as_ref().map_or(true, |config| {
        config.mode == Mode::Enforce && config.ban.backend != Backend::DryRun
    })
}

/// The ports that are judged.
fn ports(facts: &Facts) -> Vec<u16> {
    facts
        .config
        .read
        .as_ref()
        .map_or_else(|_| vec![25], |config| config.ports.clone())
}

/// The command that restarts the daemon `name` of Courier's.
fn restart(facts: &Facts, name: &str) -> String {
    if !facts.systemd {
        return format!("{name} stop; sleep 1; {name} start");
    }
    let unit = match name {
        "esmtpd" => "courier-mta",
        "esmtpd-ssl" => "courier-mta-ssl",
        "esmtpd-msa" => "courier-msa",
        other => other,
    };
    format!("systemctl restart {unit}")
}

/// The command that starts courierfilter again.
fn restart_courierfilter(facts: &Facts) -> &'static str {
    if facts.systemd {
        "systemctl restart courierfilter"
    } else {
        "courierfilter stop; courierfilter start"
    }
}

/// What gives the filter its programs, links and folders back.
const INSTALL: &str = "./install.sh";
/// What starts it again where courierfilter believes that it runs.
const START_AGAIN: &str = "filterctl stop rblfilter; sleep 1; filterctl start rblfilter";

/// A number of things, with its word.
fn count(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}
