//! A lab in the machine's own network and pid namespaces.
#![allow(clippy::unwrap_used)] // Also outside the tests, where clippy.toml does not exempt it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rblfilter_lab::smtp::Message;
use rblfilter_lab::{Config, Lab, Product, Spaces, wait_for};

const LIMIT: Duration = Duration::from_secs(20);
const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 1, 2, 3);

fn config() -> Config {
    Config {
        spaces: Spaces::Machine,
        ..Config::default()
    }
}

/// The machine's processes in this mount namespace, as `ls -l` shows it; this one apart.
fn in_space(space: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let own = entry.file_name().to_str() == Some(&std::process::id().to_string());
        let link = fs::read_link(entry.path().join("ns/mnt"));
        if !own && link.is_ok_and(|link| link == Path::new(space)) {
            found.push(fs::read_to_string(entry.path().join("comm")).unwrap_or_default());
        }
    }
    found
}

fn assert_nothing_in(space: &str) {
    let gone = || in_space(space).is_empty().then_some(());
    wait_for(LIMIT, gone).unwrap_or_else(|| panic!("left: {:?}", in_space(space)));
}

#[test]
fn a_mail_is_delivered_on_a_port_of_its_own_and_nothing_remains() {
    let host_space = fs::read_link("/proc/thread-self/ns/mnt").unwrap();
    let sockets_before = fs::read_dir("/var/lib/courier/allfilters").unwrap().count();
    let lab = Lab::start(config()).unwrap();
    assert_eq!(lab.port(), 2525);
    let space = fs::read_link("/proc/thread-self/ns/mnt").unwrap();
    assert_ne!(space, host_space);
    assert!(lab.send(&Message::default(), CLIENT).accepted());
    lab.wait_for_mail(1, LIMIT).unwrap();

    let mut client = lab.connect(CLIENT).unwrap();
    assert_eq!(lab.block_on(client.read_reply()).unwrap().code, 220);
    let sessions = lab.sessions().unwrap();
    assert_eq!((sessions.len(), lab.slots_used().unwrap()), (1, 1));
    assert_eq!(
        sessions[0].remote,
        Some((CLIENT.into(), client.local_addr().unwrap().port()))
    );
    let processes = lab.processes();
    assert!(processes.iter().any(|it| it.pid == sessions[0].pid));
    assert!(
        processes.iter().all(|it| it.pid != 1),
        "pid 1 is the machine's"
    );
    assert!(lab.kill(1, nix::sys::signal::Signal::SIGCONT).is_err());
    // Nobody waits for this one.
    lab.spawn(&["sleep", "1000"]).unwrap();

    drop(lab);
    assert_eq!(
        fs::read_link("/proc/thread-self/ns/mnt").unwrap(),
        host_space
    );
    assert_nothing_in(space.to_str().unwrap());
    assert_eq!(
        fs::read_dir("/var/lib/courier/allfilters").unwrap().count(),
        sockets_before
    );
}

#[test]
fn the_watch_is_told_by_the_kernel() {
    let programs = Path::new(env!("CARGO_BIN_EXE_lab")).parent().unwrap();
    let product = Product {
        installer: Path::new(env!("CARGO_MANIFEST_DIR")).join("../../install.sh"),
        programs: programs.to_owned(),
    };
    let lab = Lab::start(config()).unwrap();
    product
        .start(
            &lab,
            "[lookup]\nquery-non-global = true\n[[dnsbl]]\nzone = \"bl.test\"\n",
        )
        .unwrap();
    lab.wait_for_log("watching,by=events", LIMIT).unwrap();
    let outcome = lab.send(&Message::default(), Ipv4Addr::new(127, 66, 1, 2));
    assert!(outcome.cut_off(), "{outcome:?}");
    lab.wait_for_log("listed,ip=", LIMIT).unwrap();
    assert!(lab.send(&Message::default(), CLIENT).accepted());
}

#[test]
fn nothing_remains_of_a_lab_whose_process_was_killed() {
    let mut lab = Command::new(env!("CARGO_BIN_EXE_lab"))
        .args(["run", "--spaces", "machine", "sh", "-c"])
        .arg("readlink /proc/$$/ns/mnt; exec sleep 1000")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut space = String::new();
    BufReader::new(lab.stdout.take().unwrap())
        .read_line(&mut space)
        .unwrap();
    let space = space.trim();
    assert!(space.starts_with("mnt:["), "{space:?}");
    assert!(in_space(space).len() > 5, "{:?}", in_space(space));
    lab.kill().unwrap();
    lab.wait().unwrap();
    assert_nothing_in(space);
}
