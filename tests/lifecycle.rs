//! How it is installed, started and stopped.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use rblfilter_lab::smtp::Message;
use rblfilter_lab::{Config, Lab, wait_for};

#[test]
fn stop_loses_no_message_in_flight_and_start_works_again() {
    // Each message waits at the filter for the list's limit.
    let lab = with_silent_lists("limit = \"3s\"\n");
    let senders: Vec<_> = (1..=20)
        .map(|host| sending(Message::default(), &format!("127.1.1.{host}")))
        .collect();
    let waiting = || {
        (lab.processes()
            .iter()
            .filter(|p| p.comm == "submit")
            .count()
            >= 20)
            .then_some(())
    };
    wait_for(LIMIT, waiting).expect("twenty messages on their way");
    let begun = Instant::now();
    product().filterctl_stop(&lab).unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    // And while it is down, mail goes on without it.
    assert!(lab.send(&message(), ip(LISTED)).accepted());
    for sender in senders {
        let outcome = sender.join().unwrap();
        assert!(outcome.accepted(), "{outcome:?}");
    }
    lab.wait_for_mail(21, LIMIT).unwrap();
    assert!(
        !lab.processes()
            .iter()
            .any(|p| p.comm.starts_with("rblfilter")),
        "nothing of it is left"
    );

    product().filterctl_start(&lab).unwrap();
    assert_delivered(&lab, &message(), CLEAN, 22);
    assert_eq!(
        lab.log_matching(",started,").len() + lab.log_matching(": started,version").len(),
        2
    );
}

#[test]
fn a_flood_of_messages_across_stop_and_start_loses_none() {
    let lab = lab(Config::default(), OWN_ZONE);
    let sender = thread::spawn(|| {
        let runtime = own_runtime();
        runtime.block_on(async {
            let mut outcomes = Vec::new();
            for host in 1..=80 {
                outcomes.push(
                    Message::default()
                        .send(ip(&format!("127.1.1.{host}")))
                        .await,
                );
            }
            outcomes
        })
    });
    while !sender.is_finished() {
        product().filterctl_stop(&lab).unwrap();
        product().filterctl_start(&lab).unwrap();
    }
    for outcome in sender.join().unwrap() {
        assert!(outcome.accepted(), "{outcome:?}");
    }
    lab.wait_for_mail(80, LIMIT).unwrap();
}

#[test]
fn courierfilter_starts_with_the_filter_active() {
    let lab = lab(Config::default(), OWN_ZONE);
    lab.run_ok(&["courierfilter", "stop"]).unwrap();
    let gone = || {
        (!lab
            .processes()
            .iter()
            .any(|p| p.comm.starts_with("rblfilter")))
        .then_some(())
    };
    wait_for(LIMIT, gone).expect("the filter ends with courierfilter");
    let begun = Instant::now();
    // It returns when every filter has closed its descriptor 3.
    lab.run_ok(&["courierfilter", "start"]).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(
        filter_socket().exists(),
        "ready means that the socket is there"
    );
    assert_banned(&lab, &lab.send(&message(), ip(LISTED)), LISTED, LISTED);
}

/// The pids of the filter's processes: the supervisor, which started first,
/// and the worker.
fn filter_pids(lab: &Lab) -> Vec<i32> {
    let own = |p: &rblfilter_lab::ProcessInfo| p.comm == "rblfilter" && p.state != 'Z';
    lab.processes()
        .iter()
        .filter(|p| own(p))
        .map(|p| p.pid)
        .collect()
}

/// The warden, once it is another than `before`.
fn another_warden(lab: &Lab, before: i32) -> rblfilter_lab::ProcessInfo {
    let warden = || {
        let mut processes = lab.processes().into_iter();
        processes
            .find(|p| p.comm.starts_with("rblfilter-ward") && p.state != 'Z' && p.pid != before)
    };
    wait_for(LIMIT, warden).expect("a warden")
}

#[test]
fn the_supervisor_holds_the_warden_too_and_replaces_one_that_dies() {
    let lab = lab(Config::default(), OWN_ZONE);
    let pids = filter_pids(&lab);
    let mut warden = another_warden(&lab, 0);
    assert_eq!(warden.ppid, pids[0]);
    // At once the first times, without anybody asking for it, and then after a pause.
    for _ in 0..3 {
        lab.kill(warden.pid, Signal::SIGKILL).unwrap();
        warden = another_warden(&lab, warden.pid);
    }
    let lines = lab.log_matching(": warden,pause=");
    assert!(
        lines.len() == 3 && lines[2].contains("pause=1s"),
        "{lines:?}"
    );
    assert_banned(&lab, &lab.send(&message(), ip(LISTED)), LISTED, LISTED);
    // A worker has one of its own, which ends with it.
    lab.kill(pids[1], Signal::SIGKILL).unwrap();
    let next = another_warden(&lab, warden.pid);
    let gone = || (!lab.processes().iter().any(|p| p.pid == warden.pid)).then_some(());
    wait_for(LIMIT, gone).expect("the one before ends, and is collected");
    assert_eq!(next.ppid, pids[0]);
    let again = "127.66.1.3";
    assert_banned(&lab, &lab.send(&message(), ip(again)), again, again);
}

#[test]
fn for_want_of_memory_the_kernel_ends_the_supervisor_last() {
    let lab = lab(Config::default(), OWN_ZONE);
    let supervisor = filter(&lab).supervisor;
    let mut names = Vec::new();
    for process in lab.processes() {
        if process.comm.starts_with("rblfilter") {
            let adj = format!("/proc/{}/oom_score_adj", process.pid);
            let adj = fs::read_to_string(adj).unwrap();
            let wanted = if process.pid == supervisor {
                "0"
            } else {
                "1000"
            };
            assert_eq!(adj.trim(), wanted, "{process:?}");
            names.push(process.comm);
        }
    }
    names.sort();
    let all = [
        "rblfilter",
        "rblfilter",
        "rblfilter-alias",
        "rblfilter-warde",
    ];
    assert_eq!(names, all);
}

/// What the worker cannot start itself.
#[test]
fn what_looks_up_aliases_is_there_again_when_it_has_died() {
    let config = Config {
        aliases: vec![CAROL.into()],
        ..Config::default()
    };
    let lab = lab(config, OWN_ZONE);
    let before = filter(&lab);
    let kill = || {
        let processes = lab.processes();
        let its = |process: &&_| {
            let process: &rblfilter_lab::ProcessInfo = process;
            process.comm == "rblfilter-alias"
        };
        let process = processes.iter().find(its).expect("one that looks up");
        lab.kill(process.pid, Signal::SIGKILL).unwrap();
    };
    kill();
    lab.wait_for_log("reload,user=aliases", LIMIT).unwrap();
    let after = filter(&lab);
    assert!(after.supervisor == before.supervisor && after.worker != before.worker);
    let told = lab.log_matching("degraded,what=aliases");
    assert!(
        told.len() == 1 && told[0].contains("has ended (signal: 9"),
        "{told:?}"
    );
    assert_aliases_are_looked_up(&lab, "127.66.11.1");
    let postmaster = Message {
        to: vec!["postmaster@lab.test".into()],
        ..message()
    };
    assert_delivered(&lab, &postmaster, "127.66.10.1", 1);
    assert_eq!(lab.log_matching("what=aliases").len(), 1);
    // The next time not at once; mail for postmaster passes meanwhile.
    kill();
    let again = || (lab.log_matching("degraded,what=aliases").len() == 2).then_some(());
    wait_for(LIMIT, again).expect("told");
    assert_delivered(&lab, &postmaster, "127.66.10.2", 2);
    assert_eq!(lab.log_matching("reload,user=aliases").len(), 1);
    assert_eq!(filter(&lab), after);
}

/// A file that is right and half done, say: it is the admin's to put into service.
#[test]
fn a_changed_configuration_does_not_come_into_service_because_of_aliases() {
    let lab = lab(Config::default(), OWN_ZONE);
    let before = filter(&lab);
    let process = || {
        let mut processes = lab.processes().into_iter();
        processes.find(|process| process.comm == "rblfilter-alias")
    };
    fs::write(
        "/etc/courier/filters/rblfilter.toml",
        format!("exempt-recipients = []\n{OWN_ZONE}"),
    )
    .unwrap();
    let its = process().expect("one that looks up");
    lab.kill(its.pid, Signal::SIGKILL).unwrap();
    let told = || lab.log_matching("degraded,what=aliases").pop();
    let told = wait_for(LIMIT, told).expect("told");
    assert!(told.contains("rblfilter reload"), "{told}");
    assert_eq!(filter(&lab), before);
    lab.run_ok(&["rblfilter", "reload"]).unwrap();
    assert_ne!(filter(&lab).worker, before.worker);
    assert!(lab.log_matching("reload,user=aliases").is_empty());
    // Nobody is exempt: nothing is looked up, and nothing is missed.
    assert!(process().is_none());
    assert_eq!(lab.log_matching("what=aliases").len(), 1);
}

#[test]
fn who_is_not_started_by_courierfilter_supervises_nothing() {
    let lab = lab(Config::default(), OWN_ZONE);
    let script = "true | { /usr/lib/courier/filters/rblfilter 3> >(cat); echo ended $?; } 2>&1";
    let output = lab.run(&["bash", "-c", script]).unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.contains("Usage:") && said.contains("ended 64"),
        "{said}"
    );
}

/// The filter's processes once they are not those of `before`.
fn another_filter(lab: &Lab, before: Filter) -> Filter {
    let another = || Some(filter(lab)).filter(|now| *now != before);
    wait_for(LIMIT, another).expect("others")
}

/// A worker that hangs is silent, and another one serves what waits for it.
#[test]
fn a_worker_that_is_stopped_is_replaced() {
    let lab = lab(Config::default(), OWN_ZONE);
    let before = filter(&lab);
    let stream = Stream::begin(3);
    lab.kill(before.worker, Signal::SIGSTOP).unwrap();
    let line = lab
        .wait_for_log("worker: it has not been heard of", LIMIT * 3)
        .unwrap();
    let after = another_filter(&lab, before);
    assert!(
        after.supervisor == before.supervisor && after.worker != before.worker,
        "{line}"
    );
    let fates = stream.end(&lab, 0);
    // Those that it had accepted before it was ended.
    assert!(fates.tempfailed <= 3, "{fates:?}");
    assert_banned(&lab, &lab.send(&message(), ip(LISTED)), LISTED, LISTED);
    assert_eq!(filter(&lab).worker, after.worker);
}

/// Though nobody asks anything of it.
#[test]
fn a_warden_that_is_stopped_is_replaced() {
    let lab = lab(Config::default(), OWN_ZONE);
    let before = filter(&lab);
    lab.kill(before.warden, Signal::SIGSTOP).unwrap();
    lab.wait_for_log("warden: it has not been heard of", LIMIT * 3)
        .unwrap();
    let after = another_filter(&lab, before);
    assert!(after.worker == before.worker && after.warden != before.warden);
    assert_banned(&lab, &lab.send(&message(), ip(LISTED)), LISTED, LISTED);
}

/// As a virtual machine that is stopped; and the supervisor alone, which then
/// finds only what was said long ago.
#[test]
fn whoever_was_stopped_with_all_others_is_let_be() {
    let lab = lab(Config::default(), OWN_ZONE);
    let before = filter(&lab);
    let all = [before.supervisor, before.worker, before.warden];
    for stopped in [&all[..], &all[..1]] {
        for pid in stopped {
            lab.kill(*pid, Signal::SIGSTOP).unwrap();
        }
        // Longer than anybody may be silent.
        thread::sleep(Duration::from_secs(14));
        for pid in stopped {
            lab.kill(*pid, Signal::SIGCONT).unwrap();
        }
        assert_delivered(&lab, &message(), CLEAN, lab.mailbox().len() + 1);
    }
    // It would be ended by now, at its second look.
    thread::sleep(Duration::from_secs(3));
    assert_eq!(filter(&lab), before);
    assert!(lab.log_matching("not been heard of").is_empty());
}

#[test]
fn it_restarts_as_the_documents_say() {
    let lab = lab(Config::default(), OWN_ZONE);
    for _ in 0..3 {
        lab.run_ok(&[
            "sh",
            "-c",
            "filterctl stop rblfilter; sleep 1; filterctl start rblfilter",
        ])
        .unwrap();
        let runs = || (filter_socket().exists() && filter_pids(&lab).len() == 2).then_some(());
        wait_for(LIMIT, runs).expect("it runs again");
    }
    assert_banned(&lab, &lab.send(&message(), ip(LISTED)), LISTED, LISTED);
}

/// Its worker goes on with its start for a while, unaware of the next filter.
#[test]
fn one_that_is_stopped_while_it_starts_takes_nothing_from_the_next() {
    let lab = lab(Config::default(), OWN_ZONE);
    product().filterctl_stop(&lab).unwrap();
    // As a worker that has not given up its files yet, for which the first one waits.
    let folder = fs::File::open("/var/lib/courier/rblfilter").unwrap();
    let held = Flock::lock(folder, FlockArg::LockExclusiveNonblock).unwrap();
    product().filterctl_start(&lab).unwrap();
    let worker = || filter_pids(&lab).get(1).copied();
    let first = wait_for(LIMIT, worker).expect("a worker");
    let place = || fs::metadata(filter_socket()).ok().map(|meta| meta.ino());
    let before = place();
    lab.run_ok(&["filterctl", "stop", "rblfilter"]).unwrap();
    wait_for(LIMIT, || place().is_none().then_some(())).expect("it is stopped");
    product().filterctl_start(&lab).unwrap();
    assert_ne!(place(), before);
    assert!(
        filter_pids(&lab).contains(&first) && lab.log_matching("]: started,").len() == 1,
        "it has not been held up, and nothing is tested"
    );
    drop(held);
    let ended = || (!filter_pids(&lab).contains(&first)).then_some(());
    wait_for(LIMIT, ended).expect("the first ends");
    assert_banned(&lab, &lab.send(&message(), ip(LISTED)), LISTED, LISTED);
    let status = lab.run_ok(&["rblfilter", "status"]).unwrap();
    assert!(status.contains("running"), "{status}");
}

const WARDEN: &str = "/usr/lib/courier/rblfilter-warden";

#[test]
fn a_worker_that_dies_is_replaced_and_mail_flows_meanwhile() {
    let lab = lab(Config::default(), OWN_ZONE);
    // The third death in a minute makes the supervisor wait, and accept unread.
    for death in 1..=4 {
        let pids = filter_pids(&lab);
        assert_eq!(pids.len(), 2, "{pids:?}");
        lab.kill(pids[1], Signal::SIGKILL).unwrap();
        assert_delivered(&lab, &message(), CLEAN, death);
        let again = || (filter_pids(&lab).len() == 2).then_some(());
        wait_for(LIMIT, again).expect("another worker");
    }
    assert_eq!(
        lab.log_matching("rblfilter[")
            .iter()
            .filter(|l| l.contains(": worker,pause="))
            .count(),
        4
    );
    assert_banned(&lab, &lab.send(&message(), ip(LISTED)), LISTED, LISTED);
    product().filterctl_stop(&lab).unwrap();
    assert!(!filter_socket().exists());
}

#[test]
fn a_worker_that_cannot_run_stops_no_mail() {
    let lab = lab(Config::default(), OWN_ZONE);
    fs::remove_file("/usr/lib/courier/filters/rblfilter").unwrap();
    lab.kill(filter_pids(&lab)[1], Signal::SIGKILL).unwrap();
    lab.wait_for_log("worker,pause=1s: cannot start", LIMIT)
        .unwrap();
    for count in 1..=3 {
        assert_delivered(&lab, &message(), LISTED, count);
    }
}

#[test]
fn a_worker_serves_on_without_its_supervisor_and_ends_with_courierfilter() {
    let lab = lab(Config::default(), OWN_ZONE);
    let before = filter(&lab);
    let stream = Stream::begin(2);
    lab.kill(before.supervisor, Signal::SIGKILL).unwrap();
    wait_for(LIMIT, || {
        (!filter_pids(&lab).contains(&before.supervisor)).then_some(())
    })
    .unwrap();
    // Right after the start there is no control socket yet.
    let told = || {
        let output = lab.run(&["rblfilter", "reload"]).unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        said.contains("the supervisor is gone").then_some(())
    };
    wait_for(LIMIT, told).expect("the reload fails for that");
    let fates = stream.end(&lab, 0);
    assert_eq!(fates.tempfailed, 0, "{fates:?}");
    lab.clear_mailbox();
    assert!(
        lab.processes()
            .iter()
            .any(|p| p.pid == before.warden && p.state != 'Z'),
        "the warden serves on too"
    );
    assert_banned(&lab, &lab.send(&message(), ip(LISTED)), LISTED, LISTED);
    assert_delivered(&lab, &message(), CLEAN, 1);
    product().filterctl_stop(&lab).unwrap();
    assert!(!filter_socket().exists(), "the worker took it away");
    assert_delivered(&lab, &message(), CLEAN, 2);
    product().filterctl_start(&lab).unwrap();
    assert_banned(
        &lab,
        &lab.send(&message(), ip("127.66.1.3")),
        "127.66.1.3",
        "127.66.1.3",
    );
}

#[test]
fn a_start_that_fails_leaves_no_socket_that_stops_mail() {
    let lab = Lab::start(Config::default()).unwrap();
    product().install(&lab, OWN_ZONE, &["--no-start"]).unwrap();
    // As a crash leaves it, and in its way what cannot be removed.
    drop(std::os::unix::net::UnixListener::bind(filter_socket()).unwrap());
    fs::create_dir("/var/lib/courier/filters/rblfilter").unwrap();
    fs::create_dir("/etc/courier/filters/rblfilter-mode").unwrap();
    product().filterctl_start(&lab).unwrap();
    lab.wait_for_log("socket: cannot read", LIMIT).unwrap();
    assert_delivered(&lab, &message(), CLEAN, 1);
    assert_banned(&lab, &lab.send(&message(), ip(LISTED)), LISTED, LISTED);
}

/// As `pkill rblfilter` does it.
#[test]
fn a_sigterm_to_all_of_it_stops_no_mail() {
    let lab = lab(Config::default(), OWN_ZONE);
    for pid in filter_pids(&lab) {
        lab.kill(pid, Signal::SIGTERM).unwrap();
    }
    assert_delivered(&lab, &message(), CLEAN, 1);
    assert_banned(&lab, &lab.send(&message(), ip(LISTED)), LISTED, LISTED);
    // Nor without a supervisor, who would start another worker.
    let pids = filter_pids(&lab);
    lab.kill(pids[0], Signal::SIGKILL).unwrap();
    wait_for(LIMIT, || {
        (!filter_pids(&lab).contains(&pids[0])).then_some(())
    })
    .unwrap();
    lab.kill(pids[1], Signal::SIGTERM).unwrap();
    assert_delivered(&lab, &message(), CLEAN, 2);
    let outcome = lab.send(&message(), ip("127.66.1.3"));
    assert_banned(&lab, &outcome, "127.66.1.3", "127.66.1.3");
}

#[test]
fn a_hangup_does_not_end_it() {
    let lab = lab(Config::default(), OWN_ZONE);
    for pid in filter_pids(&lab) {
        lab.kill(pid, Signal::SIGHUP).unwrap();
    }
    lab.wait_for_log("ignored,signal=SIGHUP", LIMIT).unwrap();
    assert_banned(&lab, &lab.send(&message(), ip(LISTED)), LISTED, LISTED);
}

#[test]
fn the_mode_file_moves_the_socket() {
    let lab = lab(Config::default(), OWN_ZONE);
    fs::write("/etc/courier/filters/rblfilter-mode", "filters\n").unwrap();
    product().filterctl_stop(&lab).unwrap();
    product().filterctl_start(&lab).unwrap();
    assert!(!filter_socket().exists());
    assert!(fs::exists("/var/lib/courier/filters/rblfilter").unwrap());
    assert_delivered(&lab, &message(), CLEAN, 1);
}

#[test]
fn install_sh_installs_once_keeps_the_configuration_and_goes_without_a_trace() {
    let lab = Lab::start(Config::default()).unwrap();
    let before = tree(&lab);
    let said = product().install(&lab, OWN_ZONE, &[]).unwrap();
    for part in [
        "installed /usr/lib/courier/filters/rblfilter\n",
        "installed /usr/lib/courier/rblfilter-warden\n",
        "file capability cap_net_admin=p\n",
        "linked /usr/sbin/rblfilter",
        "created the set rblfilter4 (inet)\n",
        "created the set rblfilter6 (inet6)\n",
        "added a rule for new connections from rblfilter4",
        "added a rule for new connections from rblfilter6",
        "enabled rblfilter-sets.service",
        "enabled rblfilter-firewall.service",
        "started the filter",
        "done\n",
    ] {
        assert!(said.contains(part), "{part:?} in:\n{said}");
    }
    let filter = fs::metadata("/usr/lib/courier/filters/rblfilter").unwrap();
    assert_eq!(filter.mode() & 0o7777, 0o755);
    let warden = fs::metadata(WARDEN).unwrap();
    assert_eq!((warden.mode() & 0o7777, warden.uid()), (0o750, 0));
    assert_eq!(
        lab.run_ok(&["rblfilter", "config", "check"]).unwrap(),
        "/etc/courier/filters/rblfilter.toml: ok\n  mode             enforce\n  watch            off: messages are judged at the end of data alone\n  guard            off\n  ports            25\n  lists            bl.test\n  score            reject from 5, ban from 10\n  block-variables  BLOCK, BLOCK2\n  allow.networks   0\n"
    );

    let pid = lab
        .processes()
        .into_iter()
        .find(|p| p.comm == "rblfilter")
        .unwrap()
        .pid;
    let again = product().install_again(&lab, &[]).unwrap();
    assert!(again.ends_with("nothing to change\n"), "{again}");
    assert!(
        lab.processes().iter().any(|p| p.pid == pid),
        "and it runs on"
    );

    let said = lab
        .run_ok(&[product().installer.to_str().unwrap(), "--uninstall"])
        .unwrap();
    assert!(
        said.contains("kept /etc/courier/filters/rblfilter.toml"),
        "{said}"
    );
    let mut after = tree(&lab);
    after.retain(|path| path != "/etc/courier/filters/rblfilter.toml");
    let traces: Vec<_> = after.iter().filter(|path| !before.contains(path)).collect();
    let taken: Vec<_> = before.iter().filter(|path| !after.contains(path)).collect();
    assert!(
        traces.is_empty() && taken.is_empty(),
        "left {traces:?}, took {taken:?}"
    );
    assert!(!lab.has_set("rblfilter4").unwrap() && !lab.has_set("rblfilter6").unwrap());
    for program in ["iptables", "ip6tables"] {
        assert!(
            !lab.run_ok(&[&format!("{program}-save")])
                .unwrap()
                .contains("rblfilter")
        );
    }
    assert!(lab.send(&message(), ip(LISTED)).accepted());
}

/// The names of all files where an installer could leave some.
fn tree(lab: &Lab) -> Vec<String> {
    let find = "find /etc /usr/lib/courier /usr/lib/systemd /usr/sbin /usr/share/* /var/lib/courier/allfilters /var/lib/courier/filters ! -type d ! -name '.cache*' | sort";
    lab.run_ok(&["sh", "-c", find])
        .unwrap()
        .lines()
        .map(String::from)
        .collect()
}

#[test]
fn observe_is_installed_on_request_and_the_sample_is_the_default() {
    let lab = Lab::start(Config::default()).unwrap();
    let installer = product().installer;
    let installer = installer.to_str().unwrap();
    let programs = product().programs;
    lab.run_ok(&[
        installer,
        "--prebuilt",
        programs.to_str().unwrap(),
        "--observe",
    ])
    .unwrap();
    let config = "/etc/courier/filters/rblfilter.toml";
    let text = fs::read_to_string(config).unwrap();
    assert!(text.contains("\nmode = \"observe\"\n"), "{text}");
    assert_eq!(fs::metadata(config).unwrap().mode() & 0o7777, 0o640);
    lab.wait_for_log("started,version=", LIMIT).unwrap();
    assert!(
        lab.wait_for_log("mode=observe", LIMIT)
            .unwrap()
            .contains("zones=zen.spamhaus.org")
    );
}

#[test]
fn the_rule_drops_new_connections_alone() {
    let lab = lab(Config::default(), OWN_ZONE);
    let mut open = lab.connect(ip(LISTED)).unwrap();
    lab.block_on(open.read_reply()).unwrap();
    lab.run_ok(&["ipset", "add", "rblfilter4", LISTED]).unwrap();
    assert!(lab.send(&impatient(), ip(LISTED)).not_answered());
    assert_eq!(
        lab.block_on(open.command("EHLO x.test")).unwrap().code,
        250,
        "an open session goes on"
    );
}

/// One that hangs, as on a dead disk; and a command of an admin's, which is none.
#[test]
fn uninstall_takes_nothing_away_from_under_a_filter_that_runs() {
    let lab = lab(Config::default(), OWN_ZONE);
    let processes = lab.processes();
    let hangs = processes.iter().find(|p| p.comm == "rblfilter-alias");
    let hangs = hangs.unwrap().pid;
    lab.kill(hangs, Signal::SIGSTOP).unwrap();
    let installer = product().installer;
    let uninstall = [installer.to_str().unwrap(), "--uninstall"];
    let before = tree(&lab);
    let output = lab.run(&uninstall).unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.code() == Some(1)
            && said.contains(&format!("the filter still runs (processes {hangs})"))
            && said.contains("nothing was removed"),
        "{said}"
    );
    let mut after = tree(&lab);
    // It was stopped.
    let link = "/etc/courier/filters/active/rblfilter";
    assert!(!after.iter().any(|path| path == link));
    after.push(link.into());
    after.push(filter_socket().display().to_string());
    let taken: Vec<_> = before.iter().filter(|path| !after.contains(path)).collect();
    assert!(taken.is_empty(), "took {taken:?}");
    assert!(lab.has_set("rblfilter4").unwrap());
    lab.kill(hangs, Signal::SIGCONT).unwrap();
    let command = lab
        .spawn(&["sh", "-c", "sleep 600 | rblfilter report -"])
        .unwrap();
    let said = lab.run_ok(&uninstall).unwrap();
    assert!(said.contains(&format!("removed {WARDEN}")), "{said}");
    drop(command);
}

#[test]
fn install_sh_heals_what_it_finds_broken() {
    let lab = lab(Config::default(), OWN_ZONE);
    // Both killed: a socket without a listener, and 432 for all mail.
    for pid in filter_pids(&lab) {
        lab.kill(pid, Signal::SIGKILL).unwrap();
    }
    fs::set_permissions(
        "/etc/courier/filters/rblfilter.toml",
        fs::Permissions::from_mode(0o666),
    )
    .unwrap();
    lab.run_ok(&["iptables", "-F"]).unwrap();
    let said = product().install_again(&lab, &[]).unwrap();
    for part in [
        "does not run",
        "its owner root:courier and mode 0640",
        "added a rule",
        "the filter runs",
    ] {
        assert!(said.contains(part), "{part:?} in:\n{said}");
    }
    assert_banned(&lab, &lab.send(&message(), ip(LISTED)), LISTED, LISTED);
    // A replaced program is put into service by whichever run comes next.
    lab.run_ok(&["sh", "-c", "cp /usr/lib/courier/filters/rblfilter /run/x && mv /run/x /usr/lib/courier/filters/rblfilter"]).unwrap();
    let pids = filter_pids(&lab);
    product().install_again(&lab, &[]).unwrap();
    let now = filter(&lab);
    assert!(
        now.supervisor == pids[0] && now.worker != pids[1],
        "{pids:?} {now:?}"
    );
    assert_runs_what_is_installed(&lab);
}

#[test]
fn the_firewall_is_put_right_whatever_an_earlier_configuration_left() {
    let lab = lab(Config::default(), OWN_ZONE);
    let rules = || lab.run_ok(&["iptables", "-S", "INPUT"]).unwrap();
    lab.run_ok(&[
        "iptables", "-A", "INPUT", "-p", "udp", "--dport", "9", "-j", "DROP",
    ])
    .unwrap();
    let file = "/etc/courier/filters/rblfilter.toml";
    fs::write(file, "ports = [25, 2525]\n[ban]\nset4 = \"mine4\"\n").unwrap();
    lab.run_ok(&["rblfilter", "firewall", "apply"]).unwrap();
    let ours: Vec<String> = rules()
        .lines()
        .filter(|l| l.contains("--comment rblfilter"))
        .map(String::from)
        .collect();
    assert!(
        ours.len() == 1 && ours[0].contains("25,2525") && ours[0].contains("mine4"),
        "{ours:?}"
    );
    assert_eq!(
        lab.run_ok(&["rblfilter", "firewall", "apply"]).unwrap(),
        "",
        "twice is the same as once"
    );
    // Removed also without a configuration that could be read.
    fs::write(file, "x = 1\n").unwrap();
    lab.run_ok(&["rblfilter", "firewall", "remove"]).unwrap();
    assert!(
        !rules().contains("rblfilter") && rules().contains("--dport 9"),
        "{}",
        rules()
    );
    assert!(!lab.has_set("mine4").unwrap() && !lab.has_set("rblfilter6").unwrap());
    // A set of that name that is none of ours.
    fs::write(file, "").unwrap();
    lab.run_ok(&["ipset", "create", "rblfilter4", "hash:ip"])
        .unwrap();
    let output = lab.run(&["rblfilter", "firewall", "apply"]).unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.code() == Some(70) && said.contains("ipset destroy rblfilter4"),
        "{said}"
    );
}
