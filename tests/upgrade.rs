//! Another version is put into service over a running one, without a gap; one that
//! is broken is not.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::*;
use rblfilter_lab::{Config, Lab, Product, wait_for};

const PROGRAM: &str = "/usr/lib/courier/filters/rblfilter";

/// The same programs in other files: what stands behind an executable's end
/// changes nothing.
fn next_version(lab: &Lab, number: usize) -> Product {
    let folder = format!("/run/version-{number}");
    fs::create_dir(&folder).unwrap();
    for program in ["rblfilter", "rblfilter-warden"] {
        let from = product().programs.join(program);
        let to = Path::new(&folder).join(program);
        lab.run_ok(&["cp", from.to_str().unwrap(), to.to_str().unwrap()])
            .unwrap();
        let script = format!("echo version {number} >>{}", to.display());
        lab.run_ok(&["sh", "-c", &script]).unwrap();
    }
    Product {
        programs: folder.into(),
        ..product()
    }
}

#[test]
fn install_sh_over_a_running_version_loses_nothing() {
    let lab = lab(Config::default(), ZONE);
    assert_banned(&lab, &lab.send(&message(), ip(LISTED)), LISTED, LISTED);
    let mut before = filter(&lab);
    let started = before.supervisor;
    let stream = Stream::begin(3);
    for number in 1..=3 {
        let said = next_version(&lab, number).install_again(&lab, &[]).unwrap();
        assert!(said.contains("without a gap"), "{said}");
        let after = filter(&lab);
        assert_eq!(after.supervisor, started, "courierfilter knows it still");
        assert!(after.worker != before.worker && after.warden != before.warden);
        assert_runs_what_is_installed(&lab);
        before = after;
    }
    let fates = stream.end(&lab, 0);
    println!("3 upgrades: {fates:?}");
    assert!(fates.tempfailed == 0 && fates.delivered > 5, "{fates:?}");
    assert_eq!(lab.log_matching(": upgraded,version=").len(), 3);
    let said = lab.run_ok(&["rblfilter", "list"]).unwrap();
    assert!(said.contains(LISTED), "{said}");
    // The supervisor that went on as another holds all that it held.
    lab.kill(before.worker, nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    let after = filter(&lab);
    assert!(after.supervisor == started && after.worker != before.worker);
    let again = "127.66.1.3";
    assert_banned(&lab, &lab.send(&message(), ip(again)), again, again);
    product().filterctl_stop(&lab).unwrap();
    assert!(!filter_socket().exists());
    product().filterctl_start(&lab).unwrap();
}

#[test]
fn a_version_that_does_not_start_leaves_the_one_that_runs() {
    let lab = lab(Config::default(), OWN_ZONE);
    let before = filter(&lab);
    let stream = Stream::begin(2);
    // The command is a link to the program.
    let command = product().programs.join("rblfilter");
    let reload = [command.to_str().unwrap(), "reload"];
    let put = |text: &[u8], mode: u32| {
        fs::write("/run/new", text).unwrap();
        fs::set_permissions("/run/new", Permissions::from_mode(mode)).unwrap();
        lab.run_ok(&["mv", "-f", "/run/new", PROGRAM]).unwrap();
    };
    for (text, mode) in [
        (&b"\x7fELF and no more"[..], 0o755),
        (b"#!/bin/sh\nexec sleep 600\n", 0o644),
        (b"#!/bin/sh\nexit 0\n", 0o755),
        (b"#!/bin/sh\nkill -SEGV $$\n", 0o755),
        // As one of another version does it.
        (b"#!/bin/sh\nexit 64\n", 0o755),
        // It is never ready.
        (b"#!/bin/sh\nexec sleep 600\n", 0o755),
    ] {
        put(text, mode);
        let output = lab.run(&reload).unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("the one before serves on"), "{said}");
        assert_eq!(
            filter(&lab),
            before,
            "{said}{:#?}",
            lab.log_matching("rblfilter")
        );
    }
    assert_banned(&lab, &lab.send(&message(), ip(LISTED)), LISTED, LISTED);
    lab.run_ok(&["rm", PROGRAM]).unwrap();
    let output = lab.run(&reload).unwrap();
    assert_eq!(output.status.code(), Some(1));
    // And one that is as it should be.
    let said = product().install_again(&lab, &[]).unwrap();
    assert!(said.contains("without a gap"), "{said}");
    assert_runs_what_is_installed(&lab);
    assert_eq!(filter(&lab).supervisor, before.supervisor);
    assert_eq!(stream.end(&lab, 0).tempfailed, 0);
}

/// As `install.sh --no-start` leaves it, over a version that needs a stop and a start: a
/// worker that dies is started from the program that the supervisor runs.
#[test]
fn what_looks_up_aliases_is_of_the_version_that_runs() {
    let config = Config {
        aliases: vec![CAROL.into()],
        ..Config::default()
    };
    let lab = lab(config, OWN_ZONE);
    let before = filter(&lab);
    fs::write("/run/new", "#!/bin/sh\nexit 64\n").unwrap();
    lab.run_ok(&["chmod", "0755", "/run/new"]).unwrap();
    lab.run_ok(&["mv", "-f", "/run/new", PROGRAM]).unwrap();
    lab.kill(before.worker, nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    lab.wait_for_log("outdated: ", LIMIT).unwrap();
    assert_ne!(filter(&lab).worker, before.worker);
    assert_aliases_are_looked_up(&lab, "127.66.11.1");
    assert!(lab.log_matching("aliases").is_empty());
}

/// A warden that does not live is started ever more rarely, also by the supervisor
/// that goes on as the installed program.
#[test]
fn a_warden_that_does_not_live_waits_as_long_after_an_upgrade() {
    let lab = lab(Config::default(), OWN_ZONE);
    let before = filter(&lab);
    let put = |text: &str, place: &str| {
        lab.run_ok(&["cp", "--preserve=all", place, "/run/new"])
            .unwrap();
        fs::write("/run/new", text).unwrap();
        lab.run_ok(&["mv", "-f", "/run/new", place]).unwrap();
    };
    put("#!/bin/sh\nexit 1\n", "/usr/lib/courier/rblfilter-warden");
    lab.kill(before.warden, nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    lab.wait_for_log("warden,pause=4s", LIMIT * 2).unwrap();
    let told = lab.log_matching("rblfilter").len();
    let next = next_version(&lab, 1).programs.join("rblfilter");
    lab.run_ok(&["cp", "--preserve=all", PROGRAM, "/run/new"])
        .unwrap();
    lab.run_ok(&["cp", next.to_str().unwrap(), "/run/new"])
        .unwrap();
    lab.run_ok(&["mv", "-f", "/run/new", PROGRAM]).unwrap();
    lab.run_ok(&["rblfilter", "reload"]).unwrap();
    lab.wait_for_log(": upgraded,version=", LIMIT).unwrap();
    let pauses = || {
        let lines = lab.log_matching("rblfilter").into_iter().skip(told);
        let pauses: Vec<String> = lines
            .filter_map(|line| Some(line.split_once("warden,pause=")?.1.to_owned()))
            .collect();
        (!pauses.is_empty()).then_some(pauses)
    };
    let pauses = wait_for(LIMIT * 3, pauses).expect("it is tried, and ends");
    let long = |pause: &String| !pause.starts_with("0s") && !pause.starts_with("1s:");
    assert!(pauses.iter().all(long), "{pauses:?}");
}
