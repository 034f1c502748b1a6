//! A wall clock that is set while bans run, under a real Courier: the filter is
//! shown another time than the machine's by libfaketime. (The warden is not: it
//! has a capability, so that nothing is preloaded to it, and the kernel's sets
//! count by themselves.)
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::*;
use rblfilter_lab::{Lab, wait_for};
use serde_json::Value;

const DAY: i64 = 86_400;
const HAND: &str = "127.9.9.9";
const BAN: u32 = 600;
/// By rounding at each restart, and by a busy machine.
const SLACK: u32 = 20;

fn machines_clock() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_secs()).unwrap()
}

fn toml(time: &str) -> String {
    format!("[ban]\ntime = \"{time}\"\n{ZONE}")
}

/// What `rblfilter list` says of a ban.
fn listed(lab: &Lab, address: &str) -> Option<Value> {
    let served = || {
        let output = lab.run(&["rblfilter", "list", "--json"]).unwrap();
        output.status.success().then_some(output.stdout)
    };
    let text = wait_for(LIMIT, served).expect("the filter serves commands");
    let text = String::from_utf8(text).unwrap();
    let mut bans = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    bans.find(|ban| ban["network"] == format!("{address}/32"))
}

/// What the kernel's set has left of it.
fn left(lab: &Lab, address: &str) -> Option<u32> {
    let members = lab.set_members("rblfilter4").unwrap();
    let member = members.into_iter().find(|member| member.net == address)?;
    member.timeout
}

fn ban(lab: &Lab, source: &str) {
    assert!(!lab.send(&impatient(), ip(source)).accepted(), "{source}");
    wait_for(LIMIT, || left(lab, source)).unwrap_or_else(|| panic!("{source} is not banned"));
}

/// A ban as it was meant.
struct Meant {
    address: &'static str,
    begun: Instant,
    seconds: u32,
}

impl Meant {
    /// In the kernel and in the filter's book it has what is left of it by a
    /// clock that nobody sets, and in particular no more.
    fn assert_runs(&self, lab: &Lab, when: &str) {
        let address = self.address;
        let expected = |seconds: u32| {
            let gone = u32::try_from(self.begun.elapsed().as_secs()).unwrap();
            let left = self.seconds.saturating_sub(gone);
            // The ban began after `begun`, and not at once.
            (left.saturating_sub(SLACK)..=self.seconds.min(left + SLACK)).contains(&seconds)
        };
        let kernel = wait_for(LIMIT, || left(lab, address));
        let kernel = kernel.unwrap_or_else(|| panic!("{when}: {address} is not banned"));
        assert!(expected(kernel), "{when}: {kernel} s of {address}");
        let book = listed(lab, address).unwrap_or_else(|| panic!("{when}: {address} is forgotten"));
        let book = u32::try_from(book["left"].as_u64().unwrap()).unwrap();
        assert!(expected(book), "{when}: {book} s of {address}");
    }
}

fn restart(lab: &Lab) {
    product().filterctl_stop(lab).unwrap();
    for set in ["rblfilter4", "rblfilter6"] {
        lab.run_ok(&["ipset", "flush", set]).unwrap();
    }
    lab.clear_log();
    product().filterctl_start(lab).unwrap();
    lab.wait_for_log("restored,bans=", LIMIT).unwrap();
}

#[test]
fn a_wall_clock_that_is_set_makes_no_ban_longer_and_ends_none() {
    let lab = lab_with_a_clock(&toml(&format!("{BAN}s")));
    let by_lists = Meant {
        address: LISTED,
        begun: Instant::now(),
        seconds: BAN,
    };
    ban(&lab, LISTED);
    let of_hand = Meant {
        address: HAND,
        begun: Instant::now(),
        seconds: BAN,
    };
    by_hand(&lab, &["ban", HAND, "--for", &format!("{BAN}s")]);
    for (number, days) in [1, -1, 0].into_iter().enumerate() {
        let when = format!("{days:+} days");
        set_clock(days * DAY);
        // A ban of after the step is as long as any other.
        let address = ["127.66.8.1", "127.66.8.2", "127.66.8.3"][number];
        let new = Meant {
            address,
            begun: Instant::now(),
            seconds: BAN,
        };
        ban(&lab, address);
        let all = [&by_lists, &of_hand, &new];
        for meant in all {
            meant.assert_runs(&lab, &when);
        }
        // The next process begins with the new time, the file with the old one's.
        restart(&lab);
        for meant in all {
            meant.assert_runs(&lab, &format!("{when}, restarted"));
        }
        let since = listed(&lab, LISTED).unwrap()["since"].as_i64().unwrap();
        let shown = since - machines_clock();
        assert!(
            (shown - days * DAY).abs() < 3600,
            "the filter does not see the clock that was set: {shown}"
        );
        // One that is set while nothing runs.
        product().filterctl_stop(&lab).unwrap();
        set_clock(-days * DAY);
        lab.run_ok(&["ipset", "flush", "rblfilter4"]).unwrap();
        lab.clear_log();
        product().filterctl_start(&lab).unwrap();
        lab.wait_for_log("restored,bans=", LIMIT).unwrap();
        for meant in all {
            meant.assert_runs(&lab, &format!("{when}, set between"));
        }
        assert!(lab.send(&message(), ip(CLEAN)).accepted(), "{when}");
    }
    let mut degraded = lab.log_matching("degraded,what=store");
    degraded.retain(|line| !is_late(line));
    assert!(degraded.is_empty(), "{degraded:?}");
}

/// The end comes when it was meant, in the kernel, the book and the file.
#[test]
fn a_ban_ends_in_its_time_whatever_the_wall_clock_says() {
    const SECONDS: u64 = 20;
    let lab = lab_with_a_clock(&toml(&format!("{SECONDS}s")));
    for (days, address) in [(1, "127.66.9.1"), (-1, "127.66.9.2")] {
        set_clock(0);
        restart_with_nothing(&lab);
        let begun = Instant::now();
        ban(&lab, address);
        wait_for(LIMIT, || listed(&lab, address)).expect("in the book, too");
        set_clock(days * DAY);
        let ended = || (listed(&lab, address).is_none()).then(Instant::now);
        let ended = wait_for(Duration::from_secs(90), ended)
            .unwrap_or_else(|| panic!("{days:+} days: {address} is banned for ever"));
        // The ban began after `begun`; seconds of the book are whole ones.
        let lasted = ended - begun;
        assert!(
            lasted >= Duration::from_secs(SECONDS - 1),
            "{days:+} days: {lasted:?}"
        );
        let free = || left(&lab, address).is_none().then_some(());
        wait_for(LIMIT, free).unwrap_or_else(|| panic!("{days:+} days: the kernel keeps it"));
        let database = rusqlite::Connection::open("/var/lib/courier/rblfilter/state.db").unwrap();
        let rows = || {
            let query = "SELECT count(*) FROM bans";
            let rows: u32 = database.query_row(query, [], |row| row.get(0)).ok()?;
            (rows == 0).then_some(())
        };
        wait_for(LIMIT, rows).unwrap_or_else(|| panic!("{days:+} days: the file keeps it"));
    }
}

fn restart_with_nothing(lab: &Lab) {
    product().filterctl_stop(lab).unwrap();
    product().filterctl_start(lab).unwrap();
}
