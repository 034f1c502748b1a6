//! The recipes of docs/logging.md, each tried with the program that it is for, on
//! lines that a filter wrote.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use common::*;
use rblfilter_lab::{Config, wait_for};

/// A folder of a test's own, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("rblfilter-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What docs/logging.md puts into this file: the indented block that follows its name.
fn recipe(name: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/logging.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, after) = page.split_once(&format!("`{name}`")).expect(name);
    let lines = after.lines().skip_while(|line| !line.starts_with("    "));
    let block = lines.take_while(|line| line.is_empty() || line.starts_with("    "));
    let mut text = String::new();
    for line in block {
        // What follows is for a shell.
        if line.starts_with("    sudo ") || line.starts_with("    fail2ban-regex ") {
            break;
        }
        text.push_str(line.strip_prefix("    ").unwrap_or(line));
        text.push('\n');
    }
    assert!(text.lines().count() > 2, "{name}: {text}");
    text
}

fn run(command: &mut Command) -> Output {
    let program = command.get_program().to_owned();
    command
        .output()
        .unwrap_or_else(|error| panic!("{program:?}: {error} (tests/run.sh installs it)"))
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// What a filter and its Courier logged of a client that was banned, one that was
/// refused and one that would have been.
fn lines() -> Vec<String> {
    let toml = format!("watch = \"off\"\n{ZONE}[[dnsbl]]\nzone = \"other.test\"\nscore = 5\n");
    let config = || Config {
        also_listed: vec![("127.77.0.0/16".into(), [127, 0, 0, 2].into())],
        ..Config::default()
    };
    let lab = lab(config(), &toml);
    for (source, client) in [
        (LISTED, format!("::ffff:{LISTED}")),
        (LISTED6, LISTED6.into()),
        ("127.77.1.1", "::ffff:127.77.1.1".into()),
    ] {
        lab.send(&message(), ip(source));
        lab.wait_for_log(&format!("listed,ip=[{client}]"), LIMIT)
            .unwrap();
    }
    by_hand(
        &lab,
        &[
            "ban",
            "127.9.9.9",
            "--reason",
            "listed,ip=[::ffff:127.9.9.8],action=ban",
        ],
    );
    let mut all = lab.log_matching("");
    drop(lab);
    let lab = self::lab(config(), &format!("mode = \"observe\"\n{toml}"));
    lab.send(&message(), ip("127.66.7.7"));
    lab.wait_for_log(",action=none", LIMIT).unwrap();
    all.extend(lab.log_matching(""));
    all
}

/// A daemon, ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn rsyslog_writes_ours_to_a_file_of_its_own_and_what_is_not_well_to_another() {
    let folder = Folder::new("rsyslog");
    let at = folder.0.to_str().unwrap();
    let recipe = recipe("/etc/rsyslog.d/30-rblfilter.conf");
    let recipe = recipe.replace("/var/log/", &format!("{at}/"));
    let socket = format!("{at}/log");
    let config = folder.write(
        "rsyslog.conf",
        &format!(
            "global(workDirectory=\"{at}\")\nmodule(load=\"imuxsock\" SysSock.Use=\"off\")\n\
             input(type=\"imuxsock\" Socket=\"{socket}\")\n{recipe}\
             action(type=\"omfile\" file=\"{at}/mail.log\")\n"
        ),
    );
    let checked = run(Command::new("rsyslogd").args(["-N1", "-f", &config]));
    assert!(checked.status.success(), "{}", told(&checked));
    let child = Command::new("rsyslogd")
        .args(["-n", "-f", &config, "-i", &format!("{at}/pid")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _running = Running(child);
    let sender = UnixDatagram::unbound().unwrap();
    let connected = || sender.connect(&socket).ok();
    wait_for(LIMIT, connected).expect("rsyslogd listens");
    for (level, line) in [
        (6, "rblfilter[7]: listed,ip=[::ffff:127.66.1.2],action=ban"),
        (
            4,
            "rblfilter[7]: degraded,what=dnsbl,zone=bl.test: no answer in time",
        ),
        (
            6,
            "courieresmtpd[8]: started,ip=[::ffff:127.66.1.2],port=[7]",
        ),
        (
            3,
            "courierfilter[9]: rblfilter-warden: cannot trust the configuration",
        ),
    ] {
        let line = format!("<{}>Nov 24 10:00:00 {line}", 2 * 8 + level);
        sender.send(line.as_bytes()).unwrap();
    }
    let read = |name: &str| fs::read_to_string(folder.0.join(name)).unwrap_or_default();
    let all = || (read("mail.log").lines().count() == 4).then_some(());
    wait_for(LIMIT, all).expect("all are in mail.log");
    for (name, parts) in [
        ("rblfilter.log", &["listed,", "degraded,"][..]),
        ("rblfilter.warn", &["degraded,", "rblfilter-warden: cannot"]),
    ] {
        let lines = || (read(name).lines().count() == parts.len()).then(|| read(name));
        let lines = wait_for(LIMIT, lines).unwrap_or_else(|| panic!("{name}: {}", read(name)));
        for part in parts {
            assert!(lines.contains(part), "{name}: {lines}");
        }
    }
}

#[test]
fn logrotate_takes_its_recipe() {
    let folder = Folder::new("logrotate");
    let at = folder.0.to_str().unwrap();
    let recipe = recipe("/etc/logrotate.d/rblfilter");
    let recipe = recipe.replace("/var/log/", &format!("{at}/"));
    let config = folder.write("rblfilter", &recipe);
    folder.write("rblfilter.log", "x\n");
    let state = format!("{at}/state");
    let checked = run(Command::new("logrotate").args(["-d", "-s", &state, &config]));
    let told = told(&checked);
    assert!(
        checked.status.success() && !told.contains("error"),
        "{told}"
    );
    assert!(told.contains("(30 rotations)"), "{told}");
}

/// A journal with these lines, of these programs and levels.
fn journal(folder: &Folder, lines: &[(&str, u8, &str)]) -> String {
    let mut text = String::new();
    for (number, (program, level, line)) in lines.iter().enumerate() {
        let id = "1234567890abcdef1234567890abcdef";
        text.push_str(&format!(
            "__REALTIME_TIMESTAMP={}\n_BOOT_ID={id}\n_MACHINE_ID={id}\nPRIORITY={level}\n\
             SYSLOG_FACILITY=2\nSYSLOG_IDENTIFIER={program}\n_HOSTNAME=mail\nMESSAGE={line}\n\n",
            1_795_514_400_000_000_u64 + number as u64
        ));
    }
    let export = folder.write("export", &text);
    let journal = folder.0.join("system.journal");
    let journal = journal.to_str().unwrap();
    let made =
        run(Command::new("/lib/systemd/systemd-journal-remote").args(["-o", journal, &export]));
    assert!(made.status.success(), "{}", told(&made));
    journal.to_owned()
}

/// The commands of the page, with a journal of the test's in the machine's place.
#[test]
fn each_command_of_journalctl_finds_its_lines() {
    let folder = Folder::new("journal");
    let journal = journal(
        &folder,
        &[
            ("rblfilter", 6, "listed,ip=[::ffff:127.66.1.2],action=ban"),
            (
                "rblfilter",
                4,
                "degraded,what=dnsbl,zone=bl.test: no answer in time",
            ),
            (
                "courieresmtpd",
                6,
                "started,ip=[::ffff:127.66.1.2],port=[7]",
            ),
        ],
    );
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/logging.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, page) = page.split_once("### journald").unwrap();
    let commands = page
        .lines()
        .filter(|line| line.starts_with("    journalctl "));
    let mut tried = 0;
    for command in commands {
        let command = command.split(" #").next().unwrap().trim();
        // A time of the reader's day, and what does not end, are not of this journal.
        let command = command.replace(" -f", "");
        let command = without_since(&command);
        let shell = format!("{command} --quiet --file '{journal}'");
        let output = run(Command::new("sh").args(["-c", &shell]));
        assert!(output.status.success(), "{shell}: {}", told(&output));
        let found = told(&output);
        let warnings = command.contains("-p warning") || command.contains("degraded");
        assert_eq!(found.contains("listed,"), !warnings, "{shell}: {found}");
        assert!(found.contains("degraded,"), "{shell}: {found}");
        assert_eq!(
            found.contains("started,"),
            command.contains("courieresmtpd"),
            "{shell}: {found}"
        );
        tried += 1;
    }
    assert!(tried >= 5, "{tried}");
    let settings = recipe("/etc/systemd/journald.conf.d/mail.conf");
    let known = run(Command::new("man").args(["-P", "cat", "journald.conf"]));
    let known = String::from_utf8_lossy(&known.stdout).into_owned();
    for line in settings.lines().filter(|line| line.contains('=')) {
        let key = line.split('=').next().unwrap();
        assert!(
            known.is_empty() || known.contains(&format!("{key}=")),
            "journald.conf(5) has no {key}"
        );
    }
}

/// A command without `--since WHEN`.
fn without_since(command: &str) -> String {
    match command.split_once(" --since ") {
        Some((before, after)) => {
            let rest = after.split_once(' ').map_or("", |(_, rest)| rest);
            format!("{before} {rest}").trim().to_owned()
        }
        None => command.to_owned(),
    }
}

#[test]
fn fail2ban_finds_who_was_banned_and_nobody_else() {
    let folder = Folder::new("fail2ban");
    let at = folder.0.to_str().unwrap().to_owned();
    let copied = run(Command::new("cp").args(["-r", "/etc/fail2ban/.", &at]));
    assert!(
        copied.status.success(),
        "{} (tests/run.sh installs it)",
        told(&copied)
    );
    folder.write(
        "filter.d/rblfilter.conf",
        &recipe("/etc/fail2ban/filter.d/rblfilter.conf"),
    );
    let log: String = lines()
        .iter()
        .map(|line| format!("Nov 24 10:00:02 mail {line}\n"))
        .collect();
    assert!(
        log.contains("action=reject") && log.contains("action=none"),
        "{log}"
    );
    let log = folder.write("mail.log", &log);
    let words = ["-c", &at, &log, "rblfilter", "--print-all-matched"];
    let output = run(Command::new("fail2ban-regex").args(words));
    let found = told(&output);
    assert!(found.contains(", 2 matched,"), "{found}");
    let (_, matched) = found.split_once("Matched line(s)").unwrap();
    let matched = matched.split("Missed line(s)").next().unwrap();
    for address in [LISTED, LISTED6] {
        assert!(matched.contains(address), "{matched}");
    }
    // The jail, beside no other.
    let _ = fs::remove_file(folder.0.join("jail.d/defaults-debian.conf"));
    let jail = recipe("/etc/fail2ban/jail.d/rblfilter.conf");
    folder.write(
        "jail.d/rblfilter.conf",
        &jail.replace("/var/log/mail.log", &log),
    );
    let tested = run(Command::new("fail2ban-client").args(["-c", &at, "--test"]));
    assert!(tested.status.success(), "{}", told(&tested));
    let shown = run(Command::new("fail2ban-client").args(["-c", &at, "-d"]));
    assert!(
        told(&shown).contains("['add', 'rblfilter'"),
        "{}",
        told(&shown)
    );
}
