//! How it is installed, started and stopped.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use rblfilter_lab::smtp::Message;
use rblfilter_lab::{Config, Dns, Lab, wait_for};

#[test]
fn stop_loses_no_message_in_flight_and_start_works_again() {
    // The list is silent, so each message waits at the filter for its limit.
    // couriertcpd looks up nobody's name, or it would wait too.
    let config = Config {
        dns: Dns::Silent,
        tcpd_options: "-nodnslookup".into(),
        ..Config::default()
    };
    let lab = lab(config, &format!("[lookup]\nlimit = \"3s\"\n{OWN_ZONE}"));
    let senders: Vec<_> = (1..=20)
        .map(|host| {
            thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(Message::default().send(ip(&format!("127.1.1.{host}"))))
            })
        })
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
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
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

#[test]
fn a_hangup_does_not_end_it() {
    let lab = lab(Config::default(), OWN_ZONE);
    let filter = lab
        .processes()
        .into_iter()
        .find(|p| p.comm == "rblfilter")
        .unwrap()
        .pid;
    lab.kill(filter, nix::sys::signal::Signal::SIGHUP).unwrap();
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
        "enabled rblfilter-firewall.service",
        "started the filter",
        "done\n",
    ] {
        assert!(said.contains(part), "{part:?} in:\n{said}");
    }
    let filter = fs::metadata("/usr/lib/courier/filters/rblfilter").unwrap();
    assert_eq!(filter.mode() & 0o7777, 0o755);
    let warden = fs::metadata("/usr/lib/courier/rblfilter-warden").unwrap();
    assert_eq!((warden.mode() & 0o7777, warden.uid()), (0o750, 0));
    assert_eq!(
        lab.run_ok(&["rblfilter", "config", "check"]).unwrap(),
        "/etc/courier/filters/rblfilter.toml: ok\n"
    );

    let pid = lab
        .processes()
        .into_iter()
        .find(|p| p.comm == "rblfilter")
        .unwrap()
        .pid;
    let again = product().install(&lab, OWN_ZONE, &[]).unwrap();
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
    assert_eq!(before, after);
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
    let find = "find /etc /usr/lib/courier /usr/sbin /usr/share/man /var/lib/courier/allfilters /var/lib/courier/filters ! -type d ! -name '.cache*' | sort";
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
