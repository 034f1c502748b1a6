//! fail2ban in the lab: its own server, with a folder, a socket and a database of its own, and one jail that reads an
//! empty file.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rblfilter_lab::{Config, Lab, Process, wait_for};

use super::{address, line};

/// As many as it can take in a bearable time.
const NUMBER: u32 = 2_000;
/// It is a matter of minutes; nobody waits for longer.
const LIMIT: Duration = Duration::from_secs(300);
const PROGRAM: &str = "/usr/bin/fail2ban-server";
const FOLDER: &str = "/run/fail2ban-lab";
const SOCKET: &str = "/run/fail2ban-lab/socket";
const PID: &str = "/run/fail2ban-lab/pid";

/// The rows of one backend: the bans of one command, and those that come back when it is started again.
pub fn rows(backend: &str, all: u32) -> Vec<String> {
    if !Path::new(PROGRAM).exists() {
        let text = "is not installed (Debian: apt-get install fail2ban)";
        return vec![format!("fail2ban {text}")];
    }
    let lab = Lab::start(Config {
        courier: false,
        ..Config::default()
    })
    .unwrap();
    configure(backend);
    let server = start(&lab);
    wait_until_it_answers(&lab);
    let begun = Instant::now();
    let mut ban = lab.command("fail2ban-client");
    ban.args(["-s", SOCKET, "-p", PID, "set", "lab", "banip"]);
    ban.args((0..NUMBER).map(|number| address(number).to_string()));
    // The client gives up after a while, the server does not.
    let client = ban.stdout(std::process::Stdio::null()).spawn().unwrap();
    wait_until_all_are_there(&lab, backend);
    let banned = begun.elapsed();
    client.wait_within(LIMIT).unwrap();

    lab.run_ok(&["fail2ban-client", "-s", SOCKET, "-p", PID, "stop"])
        .unwrap();
    server.wait_within(LIMIT).unwrap();
    assert_eq!(entries(&lab, backend), 0, "it takes its set with it");
    let begun = Instant::now();
    let server = start(&lab);
    wait_until_all_are_there(&lab, backend);
    let back = begun.elapsed();
    server.kill().unwrap();
    let extrapolated = back.as_secs_f64() * f64::from(all) / f64::from(NUMBER);
    vec![
        format!(
            "{}  ({NUMBER} bans)",
            line("fail2ban banip", NUMBER, banned)
        ),
        format!(
            "{}  ({NUMBER} bans; {all} at that rate: {extrapolated:.0} s, extrapolated)",
            line("fail2ban, restarted", NUMBER, back)
        ),
    ]
}

fn configure(backend: &str) {
    let write = |name: &str, text: &str| {
        let path = Path::new(FOLDER).join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write(
        "fail2ban.conf",
        &format!(
            "[DEFAULT]\nloglevel = ERROR\nallowipv6 = auto\nlogtarget = {FOLDER}/log\nsyslogsocket = auto\nsocket = {SOCKET}\npidfile = {PID}\ndbfile = {FOLDER}/database\ndbpurgeage = 1d\ndbmaxmatches = 10\n[Definition]\n"
        ),
    );
    let action = if backend == "ipset" {
        "iptables-ipset[name=lab, type=allports]"
    } else {
        "nftables[name=lab, type=allports]"
    };
    write(
        "jail.conf",
        &format!(
            "[lab]\nenabled = true\nbackend = polling\nlogpath = {FOLDER}/empty\nfilter = lab\nbantime = 2h\naction = {action}\n"
        ),
    );
    write("filter.d/lab.conf", "[Definition]\nfailregex = ^<HOST>$\n");
    write("empty", "");
    // Debian's actions, as they are.
    std::os::unix::fs::symlink("/etc/fail2ban/action.d", Path::new(FOLDER).join("action.d"))
        .unwrap();
}

fn start(lab: &Lab) -> Process {
    let mut server = lab.command(PROGRAM);
    server.args(["-f", "-x", "-c", FOLDER, "-s", SOCKET, "-p", PID, "start"]);
    server.stdout(std::process::Stdio::null()).spawn().unwrap()
}

fn wait_until_it_answers(lab: &Lab) {
    let answers = || {
        let ask = ["fail2ban-client", "-s", SOCKET, "-p", PID, "status", "lab"];
        lab.run(&ask).unwrap().status.success().then_some(())
    };
    wait_for(LIMIT, answers).unwrap_or_else(|| panic!("{:?}", told()));
}

fn wait_until_all_are_there(lab: &Lab, backend: &str) {
    let there = || (entries(lab, backend) == NUMBER as usize).then_some(());
    wait_for(LIMIT, there).unwrap_or_else(|| panic!("{}: {:?}", entries(lab, backend), told()));
}

fn told() -> String {
    fs::read_to_string(Path::new(FOLDER).join("log")).unwrap_or_default()
}

/// Entries of its set. To look costs little beside one ban, for which it starts a shell.
fn entries(lab: &Lab, backend: &str) -> usize {
    let words: &[&str] = if backend == "ipset" {
        &["ipset", "list", "-terse", "f2b-lab"]
    } else {
        &["nft", "list", "set", "inet", "f2b-table", "addr-set-lab"]
    };
    let text = lab.run(words).unwrap().stdout;
    let text = String::from_utf8_lossy(&text);
    if backend == "ipset" {
        let count = text
            .lines()
            .find_map(|line| line.strip_prefix("Number of entries: "));
        return count.map_or(0, |count| count.trim().parse().unwrap());
    }
    let elements = text
        .split_once("elements = {")
        .and_then(|(_, rest)| rest.split_once('}'));
    elements.map_or(0, |(list, _)| list.split(',').count())
}
