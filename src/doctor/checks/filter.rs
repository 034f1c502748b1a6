//! Sets and rules, and what the running filter says of itself.

use super::super::catalogue::*;
use super::super::facts::{Facts, Filter};
use super::super::finding::Mend;
use super::{Out, START_AGAIN, bans};
use crate::config::WatchBy;
use crate::status::{Degraded, Status};

/// The parts without which much of the filter does nothing.
const VITAL: [&str; 7] = [
    "accept",
    "own-addresses",
    "resolver",
    "rule",
    "set",
    "supervisor",
    "warden",
];
const APPLY: &str = "rblfilter firewall apply";

pub(super) fn examine(facts: &Facts, out: Out) {
    firewall(facts, out);
    match &facts.filter {
        Filter::Runs(status) => running(facts, status, out),
        Filter::Silent(error) => out.push(FILTER_SILENT.problem(error.clone()).run(START_AGAIN)),
        Filter::Stopped | Filter::Unasked(_) => {}
    }
}

fn firewall(facts: &Facts, out: Out) {
    let there = "the sets and the rules are as the configuration wants them";
    let told = match &facts.firewall {
        Some(Ok(wrong)) => wrong,
        Some(Err(error)) if error.contains("it is not installed") => {
            out.push(FIREWALL_WRONG.problem(error.clone()).run(APPLY));
            return;
        }
        Some(Err(error)) => {
            out.push(FIREWALL_WRONG.unknown(error));
            return;
        }
        None => {
            // The filter looks at them, too, and may.
            let status = facts.filter.status().filter(|_| bans(facts));
            let sees = |status: &Status| {
                let mut parts = status.degraded.iter();
                parts.all(|part| !["set", "rule", "warden"].contains(&part.what.as_str()))
            };
            match status {
                Some(status) if sees(status) => {
                    out.push(
                        FIREWALL_WRONG.ok("the filter sees its sets, and rules that use them"),
                    );
                }
                // Told as degraded.
                Some(_) => {}
                None if facts.root => {}
                None => out.push(FIREWALL_WRONG.unknown("only root can see the firewall")),
            }
            return;
        }
    };
    if told.is_empty() {
        out.push(FIREWALL_WRONG.ok(there));
    }
    for what in told {
        let finding = if bans(facts) {
            FIREWALL_WRONG.problem(what.clone())
        } else {
            FIREWALL_WRONG.warning(what.clone())
        };
        out.push(finding.run(APPLY));
    }
}

fn running(facts: &Facts, status: &Status, out: Out) {
    // Of those the checks of lists and of the configuration tell more.
    let told_elsewhere = |part: &&Degraded| part.what != "dnsbl";
    let mut any = false;
    for part in status.degraded.iter().filter(told_elsewhere) {
        any = true;
        let name = [&*part.what, &*part.name].join(" ");
        let name = name.trim();
        let what = format!("{name} does not work: {}", part.reason);
        let mut finding = if VITAL.contains(&&*part.what) {
            DEGRADED.problem(what)
        } else {
            DEGRADED.warning(what)
        }
        .about(name);
        finding.mend = Some(match part.what.as_str() {
            "set" | "rule" => Mend::Run(APPLY.into()),
            "supervisor" => Mend::Run(START_AGAIN.into()),
            _ => Mend::Do(part.advice.clone()),
        });
        out.push(finding);
    }
    if !any {
        out.push(DEGRADED.ok("each part of the filter works"));
    }
    let wanted = facts
        .config
        .read
        .as_ref()
        .ok()
        .map(|config| config.watch.by);
    out.push(match (status.watch.as_str(), wanted) {
        ("poll", Some(WatchBy::Events)) => WATCH_POLLS
            .warning("watch is \"events\", and the kernel gives none: sessions are polled")
            .by_hand("see why in the log (journalctl -t rblfilter), or set watch = \"auto\""),
        ("poll", Some(WatchBy::Auto)) => {
            WATCH_POLLS.note("sessions are seen by polling (in containers, and in observe, always)")
        }
        ("poll", _) => WATCH_POLLS.ok("sessions are seen by polling, as configured"),
        ("events", _) => WATCH_POLLS.ok("sessions are seen by the kernel's word"),
        _ => return sandbox(status, out),
    });
    sandbox(status, out);
}

fn sandbox(status: &Status, out: Out) {
    let thin =
        |walls: &crate::status::Walls| !(walls.capabilities && walls.no_new_privs && walls.seccomp);
    let worker = thin(&status.sandbox.worker);
    let warden = status.sandbox.warden.as_ref().is_some_and(thin);
    let who = match (worker, warden) {
        (true, true) => "worker and warden are",
        (true, false) => "the worker is",
        (false, true) => "the warden is",
        (false, false) => {
            out.push(SANDBOX_THIN.ok("worker and warden are bound by their sandboxes"));
            return;
        }
    };
    out.push(
        SANDBOX_THIN
            .warning(format!("{who} not bound by all layers of the sandbox"))
            .by_hand("[sandbox] seccomp = \"auto\", landlock = \"auto\"; `rblfilter status` shows which layer is missing"),
    );
}
