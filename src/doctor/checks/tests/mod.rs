//! What each check says of a host where all is well, and where one thing is not.

mod healthy;
mod rows;

use std::collections::HashSet;

use self::healthy::*;
use self::rows::ROWS;
use super::examine;
use crate::courier::tcpd::Options;
use crate::doctor::facts::*;
use crate::doctor::{Finding, Level};

fn told(finding: &Finding) -> String {
    format!("{} {}: {}", finding.level, finding.check.id, finding.what)
}

#[test]
fn where_all_is_well_nothing_is_said_but_that() {
    for finding in examine(&healthy()) {
        assert_eq!(finding.level, Level::Ok, "{}", told(&finding));
        assert!(finding.by_hand.is_none() && finding.run.is_none());
    }
}

#[test]
fn each_thing_that_is_wrong_is_found_with_what_mends_it() {
    for (change, id, level, what, mend) in ROWS {
        let mut facts = healthy();
        change(&mut facts);
        let findings = examine(&facts);
        let all: Vec<String> = findings.iter().map(told).collect();
        let found = findings.iter().find(|finding| {
            finding.check.id == *id && finding.level == *level && finding.what.contains(what)
        });
        let found = found.unwrap_or_else(|| panic!("{level} {id}: {what}\n{}", all.join("\n")));
        let advice = [&found.by_hand, &found.run].map(|part| part.clone().unwrap_or_default());
        let advice = advice.join(" ");
        let advice = advice.trim();
        assert!(advice.contains(mend), "{id}: {advice}");
        assert_eq!(advice.is_empty(), mend.is_empty(), "{id}: {advice}");
        for finding in &findings {
            assert!(
                finding.level <= finding.check.worst || finding.level == Level::Unknown,
                "{}",
                told(finding)
            );
        }
    }
}

/// A check that nothing can make speak is none.
#[test]
fn each_check_is_seen_at_its_worst() {
    let seen: HashSet<(&str, Level)> = ROWS
        .iter()
        .map(|(_, id, level, ..)| (*id, *level))
        .collect();
    for check in crate::doctor::ALL {
        assert!(seen.contains(&(check.id, check.worst)), "{}", check.id);
    }
}

/// What somebody may not see is told as that, and nothing follows from it.
#[test]
fn what_could_not_be_looked_at_is_no_problem() {
    let mut facts = healthy();
    let no = || "permission denied".to_owned();
    facts.root = false;
    facts.firewall = None;
    facts.install = crate::doctor::gather::unseen_install(&no());
    facts.courier.enablefiltering = Err(no());
    facts.courier.daemons = Err(no());
    facts.courier.listeners[0].logins = Err(no());
    facts.courier.processes[0].replaced = Err(no());
    facts.courier.courierfilter.as_mut().unwrap().mounts = Err(no());
    facts.dns.nameservers = Err(no());
    facts.dns.exchangers = vec![(String::new(), Err(no()))];
    facts.host.mounts = Err(no());
    facts.host.last_seen = Err(no());
    facts.host.free = Err(no());
    facts.host.synchronised = Err(no());
    facts.host.kernel = Err(no());
    facts.filter = Filter::Unasked(no());
    let findings = examine(&facts);
    for finding in &findings {
        assert!(finding.level <= Level::Unknown, "{}", told(finding));
    }
    assert_eq!(crate::doctor::status(&findings), 3);
    let firewall = findings.iter().find(|one| one.check.id == "firewall-wrong");
    assert!(firewall.unwrap().what.contains("only root"));
}

/// Courier's group sees the firewall through the filter.
#[test]
fn the_filter_vouches_for_the_firewall_where_root_does_not_look() {
    let mut facts = healthy();
    facts.root = false;
    facts.firewall = None;
    assert_eq!(crate::doctor::status(&examine(&facts)), 0);
    degraded(&mut facts, "set", "rblfilter4", "missing");
    assert_eq!(crate::doctor::status(&examine(&facts)), 2);
}

#[test]
fn without_lists_couriertcpds_verdicts_do() {
    let mut facts = healthy();
    toml(&mut facts, "");
    esmtpd(&mut facts, "BLACKLISTS='-block=b.test,BLOCK2'");
    let findings = examine(&facts);
    let verdict = findings.iter().find(|one| one.check.id == "no-verdict");
    assert_eq!(verdict.unwrap().level, Level::Ok);
}

#[test]
fn no_key_is_shown() {
    let mut facts = healthy();
    let key = "abcdefghijklmnopqrstuvwxyz";
    esmtpd(&mut facts, &format!("BLACKLISTS='-block={key}.zen.test'"));
    let text: String = examine(&facts)
        .iter()
        .map(|one| format!("{one:?}"))
        .collect();
    assert!(!text.contains(key) && text.contains("*.zen.test"), "{text}");
}

/// Ports of ours that another daemon serves are looked at there.
#[test]
fn other_daemons_than_those_of_judged_ports_are_left_alone() {
    let mut facts = healthy();
    facts.courier.listeners.push(Listener {
        name: "esmtpd-msa".into(),
        options: Options {
            ports: "587".into(),
            ..Options::default()
        },
        logins: Ok(Some("ESMTPAUTH")),
        proxied: false,
    });
    assert_eq!(crate::doctor::status(&examine(&facts)), 0);
}
