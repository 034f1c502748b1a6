//! `rblfilter report` on logs of a real Courier: recorded ones, and those of a wave without and with the filter.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::collections::HashSet;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::*;
use rblfilter_lab::wave::{Kind, Tally, Wave};
use rblfilter_lab::{Config, Lab};
use serde_json::Value;

const REPORT: &str = env!("CARGO_BIN_EXE_rblfilter");
const LOG: &str = "/var/log/mail.log";
/// The log goes on while it is looked at.
const SNAPSHOT: &str = "/var/log/snapshot.log";

fn recorded() -> String {
    format!("{}/tests/data/log/courier", env!("CARGO_MANIFEST_DIR"))
}

/// The command, in UTC and without a terminal.
fn report(arguments: &[&str]) -> Command {
    let mut command = Command::new(REPORT);
    command
        .arg("report")
        .args(arguments)
        .env("TZ", "UTC")
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null());
    command
}

fn succeeded(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn run(arguments: &[&str]) -> String {
    succeeded(report(arguments).output().unwrap())
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&run(arguments)).unwrap()
}

fn count(report: &Value, name: &str) -> u64 {
    report["totals"][name].as_u64().unwrap()
}

/// What holds of every report for people.
fn assert_fits(text: &str) {
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line:?}");
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
}

/// The page is well-formed, and asks for nothing from elsewhere.
fn assert_page(page: &str) {
    let options = roxmltree::ParsingOptions {
        allow_dtd: true,
        ..roxmltree::ParsingOptions::default()
    };
    let document = roxmltree::Document::parse_with_options(page, options).unwrap();
    let mut charts = 0;
    for node in document.descendants() {
        let name = node.tag_name().name();
        assert!(
            !["script", "link", "img", "iframe", "object"].contains(&name),
            "{name}"
        );
        charts += usize::from(name == "svg");
        for attribute in node.attributes() {
            let name = attribute.name();
            assert!(
                !name.starts_with("on") && !["src", "href"].contains(&name),
                "{attribute:?}"
            );
        }
    }
    assert_eq!(charts, 3);
    assert!(!page.contains("url(") && !page.contains("@import"));
    assert!(page.contains("prefers-color-scheme: dark"));
}

#[test]
fn a_recorded_log_is_counted_line_by_line() {
    let log = recorded();
    let report = json(&["--json", &log]);
    for (name, expected) in [
        ("connections", 50),
        ("addresses", 41),
        ("accepted", 4),
        ("authenticated", 1),
        ("listed_by_courier", 2),
        ("refused", 5),
        ("too_many", 3),
        ("timed_out", 1),
        ("bans", 0),
    ] {
        assert_eq!(count(&report, name), expected, "{name}");
    }
    assert_eq!(report["slots"]["all"], 22);
    assert_eq!(report["slots"]["counted"], 22);
    assert_eq!(report["period"][0], "2026-11-24T10:00:02Z");
    let text = run(&[&log]);
    assert_fits(&text);
    assert!(text.contains("22 of 22"), "{text}");
    let ascii = report_with(&[&log], &[("LC_ALL", "C")]);
    assert!(ascii.is_ascii(), "{ascii}");
    assert_page(&run(&["--html", "-", &log]));
}

fn report_with(arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let mut command = report(arguments);
    command.envs(environment.iter().copied());
    succeeded(command.output().unwrap())
}

#[test]
fn compressed_logs_pipes_and_times_are_understood() {
    let log = recorded();
    let plain = json(&["--json", &log]);
    let folder = std::env::temp_dir().join(format!("rblfilter-report-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let packed = folder.join("mail.log.2.gz");
    let output = Command::new("gzip").args(["-c", &log]).output().unwrap();
    std::fs::write(&packed, output.stdout).unwrap();
    assert_eq!(json(&["--json", packed.to_str().unwrap()]), plain);
    let mut command = report(&["--json", "-"]);
    command.stdin(std::fs::File::open(&packed).unwrap());
    let piped: Value = serde_json::from_str(&succeeded(command.output().unwrap())).unwrap();
    assert_eq!(piped, plain);
    let some = json(&[
        "--json",
        "--since",
        "2026-11-24T10:01:00Z",
        "--until",
        "2026-11-24 10:02",
        &log,
    ]);
    let lines = |report: &Value| report["counted_lines"].as_u64().unwrap();
    assert!(lines(&some) > 0 && lines(&some) < lines(&plain));
    assert!(some["period"][0].as_str() >= Some("2026-11-24T10:01:00Z"));
    assert!(some["period"][1].as_str() < Some("2026-11-24T10:02:00Z"));
    std::fs::remove_dir_all(&folder).unwrap();
}

/// journalctl stands in front of its place in PATH, as no journal can be written here.
#[test]
fn the_journal_is_read_as_journalctl_writes_it() {
    let folder = std::env::temp_dir().join(format!("rblfilter-journal-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let program = folder.join("journalctl");
    let script = "#!/bin/sh\necho \"$@\" > \"$0.arguments\"\n\
        echo '1795514400.250000 mail courieresmtpd[7]: started,ip=[::ffff:127.1.1.1],port=[7]'\n\
        echo '1795514401.000000 mail rblfilter[8]: listed,ip=[::ffff:127.66.1.1],port=[8],zone=bl.test,action=ban,at=connect,killed=1'\n";
    std::fs::write(&program, script).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, mode).unwrap();
    let path = format!("{}:/usr/bin:/bin", folder.display());
    let report = report_with(
        &["--journal", "--since", "2026-11-24T10:00:00Z", "--json"],
        &[("PATH", &path)],
    );
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(
        (count(&report, "connections"), count(&report, "bans")),
        (2, 1)
    );
    let arguments = std::fs::read_to_string(folder.join("journalctl.arguments")).unwrap();
    assert!(arguments.contains("--since=@1795514400"), "{arguments}");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn nothing_and_what_cannot_be_read_are_told() {
    let text = run(&["/dev/null"]);
    assert!(text.starts_with("No line of Courier's"), "{text}");
    let page = run(&["--html", "-", "/dev/null"]);
    assert!(page.contains("No line of Courier"));
    assert_eq!(run(&["--csv=waves", "/dev/null"]).lines().count(), 1);
    assert_eq!(json(&["--json", "/dev/null"])["period"], Value::Null);
    for (arguments, code, expected) in [
        (
            ["/nonexistent/log"].as_slice(),
            66,
            "cannot read /nonexistent/log: ",
        ),
        (
            &["--csv", "candidates", "/dev/null"],
            64,
            "a table is named with an equals sign, --csv=candidates",
        ),
        (&["--since", "soon", "/dev/null"], 64, "\"soon\" is no time"),
        (
            &["--html", "/nonexistent/page", "/dev/null"],
            73,
            "cannot write /nonexistent/page: ",
        ),
    ] {
        let output = report(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_period_without_a_line_says_which_the_log_has() {
    let log = "2026-11-24T10:00:00Z mail courieresmtpd: started,ip=[::ffff:127.1.1.1],port=[7]\n\
        2026-11-24T11:00:00Z mail cron[7]: x\n";
    let path = std::env::temp_dir().join(format!("rblfilter-period-{}", std::process::id()));
    std::fs::write(&path, log).unwrap();
    let path = path.to_str().unwrap();
    for period in [["--since", "2026-11-25"], ["--until", "2026-11-23"]] {
        let all = [&period[..], &[path]].concat();
        let text = run(&all);
        assert!(
            text.starts_with("None in that period: no line of Courier's")
                && text.contains("2 lines are not of it, but of 2026-11-24 10:00:00"),
            "{text}"
        );
        assert_fits(&text);
        let page = run(&[&["--html", "-"], &all[..]].concat());
        assert!(page.contains("None in that period"), "{page}");
        assert_eq!(json(&[&["--json"], &all[..]].concat())["outside"], 2);
    }
    // Where something is in it, what is not is no news.
    let text = run(&["--since", "2026-11-24T09:00:00Z", path]);
    assert!(!text.contains("that period"), "{text}");
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_refused_client_that_delivers_is_shown_and_its_name_left_out_on_demand() {
    let log = "Nov 24 10:00:00 mail courieresmtpd: started,ip=[::ffff:198.51.100.7],port=[7]\n\
        Nov 24 10:00:01 mail courierd: newmsg,id=1.2.3: dns; a.test (a.test [::ffff:198.51.100.7])\n\
        Nov 24 10:00:01 mail courierd: started,id=1.2.3,from=<bob@shop.example>,module=local,host=x,addr=<alice>\n\
        Nov 24 11:00:00 mail courieresmtpd: started,ip=[::ffff:198.51.100.7],port=[8]\n\
        Nov 24 11:00:01 mail courieresmtpd: error,relay=::ffff:198.51.100.7,port=8,from=<bob@shop.example>,to=<alice@lab.test>: 511 Listed\n";
    let path = std::env::temp_dir().join(format!("rblfilter-candidate-{}", std::process::id()));
    std::fs::write(&path, log).unwrap();
    let path_text = path.to_str().unwrap();
    let table = run(&["--csv=candidates", path_text]);
    assert_eq!(
        table.lines().nth(1),
        Some("198.51.100.7,shop.example,before,1,1,2026-11-24T11:00:01Z,2026-11-24T11:00:01Z")
    );
    for arguments in [
        &[path_text] as &[_],
        &["--html", "-", path_text],
        &["--json", path_text],
        &["--csv=candidates", path_text],
    ] {
        assert!(run(arguments).contains("198.51.100.7"));
        let anonymous = run(&[&["--anonymise"], arguments].concat());
        assert!(
            !anonymous.contains("198.51.100.7") && !anonymous.contains("shop"),
            "{anonymous}"
        );
        assert!(anonymous.contains("198.51.100.0/24"), "{anonymous}");
        assert!(
            !anonymous.contains("alice") && !anonymous.contains("bob"),
            "{anonymous}"
        );
    }
    std::fs::remove_file(path).unwrap();
}

/// What a client says reaches neither the terminal nor the page as it is.
#[test]
fn no_word_of_a_client_does_harm() {
    let evil = "Nov 24 10:00:00 mail courieresmtpd: started,ip=[::ffff:127.1.1.1],port=[7]\n\
        Nov 24 10:00:01 mail courieresmtpd: error,relay=::ffff:127.1.1.1,port=7,from=<x@y>: 550 \x1b[31m<script>alert(1)\"'&\n\
        Nov 24 10:00:02 mail rblfilter: listed,ip=[::ffff:127.1.1.2],port=[7],zone=<b>\x1b]0;\u{9b},action=ban\n";
    let path = std::env::temp_dir().join(format!("rblfilter-evil-{}", std::process::id()));
    std::fs::write(&path, evil).unwrap();
    let path_text = path.to_str().unwrap();
    assert_fits(&run(&[path_text]));
    let page = run(&["--html", "-", path_text]);
    assert_page(&page);
    assert!(!page.contains("<b>") && !page.contains('\x1b'));
    std::fs::remove_file(path).unwrap();
}

/// Some mail, then a wave of clients that are told 511 and stay.
fn wave(lab: &Lab) {
    let quiet = Wave {
        rate: 0,
        mail_rate: 1,
        length: Duration::from_secs(14),
        ..Wave::default()
    };
    let wave = Wave {
        kind: Kind::Hang,
        rate: 30,
        addresses: 5000,
        hold: Duration::from_secs(20),
        mail_rate: 1,
        length: Duration::from_secs(12),
        ..Wave::default()
    };
    for part in [quiet, wave] {
        let tally = Arc::new(Tally::default());
        part.start(&tally).unwrap().join().unwrap();
    }
    // The last messages are delivered, so that their lines are in the log.
    let ids = || {
        let delivered = lab.log_matching("completed,id=").len();
        (delivered >= lab.log_matching("newmsg,id=").len()).then_some(())
    };
    rblfilter_lab::wait_for(LIMIT, ids).expect("all mail is delivered");
}

/// All kinds of output, of the lab's own log as it is now; returns the numbers and the log.
fn look_at() -> (Value, String) {
    let log = std::fs::read_to_string(LOG).unwrap();
    std::fs::write(SNAPSHOT, &log).unwrap();
    let report = json(&["--json", SNAPSHOT]);
    let text = run(&[SNAPSHOT]);
    println!("{text}");
    assert_fits(&text);
    assert_page(&run(&["--html", "-", SNAPSHOT]));
    let table = run(&["--csv", SNAPSHOT]);
    let connections: u64 = table
        .lines()
        .skip(1)
        .map(|row| row.split(',').nth(2).unwrap().parse::<u64>().unwrap())
        .sum();
    assert_eq!(connections, count(&report, "connections"));
    // Each message that Courier took over is counted, and each session that it told of.
    let accepted = lines_with(&log, "newmsg,id=");
    assert_eq!(count(&report, "accepted"), accepted as u64);
    (report, log)
}

fn lines_with(log: &str, part: &str) -> usize {
    log.lines().filter(|line| line.contains(part)).count()
}

fn blacklists() -> Config {
    Config {
        blacklists: "-block=bl.test,BLOCK,\"Listed by bl.test\"".into(),
        max_daemons: 100,
        ..Config::default()
    }
}

#[test]
fn a_wave_without_the_filter_shows_what_it_cost() {
    let lab = Lab::start(blacklists()).unwrap();
    wave(&lab);
    let (report, log) = look_at();
    let started = lines_with(&log, "started,ip=[") as u64;
    assert_eq!(count(&report, "connections"), started);
    let refused: HashSet<&str> = log
        .lines()
        .filter(|line| line.contains(": 511 Listed by bl.test"))
        .filter_map(|line| line.split(",relay=").nth(1)?.split(",from=").next())
        .collect();
    assert_eq!(count(&report, "listed_by_courier"), refused.len() as u64);
    assert!(refused.len() > 30, "{}", refused.len());
    let slots = &report["slots"];
    assert_eq!(
        slots["all"], 100,
        "Courier said that all are in use: {slots}"
    );
    assert!(slots["most"].as_u64() > Some(50), "{slots}");
    assert_eq!(report["waves_found"], 1, "{report}");
    let wave = &report["waves"][0];
    assert!(wave["addresses"].as_u64() > Some(50), "{wave}");
    let without = &report["without"];
    assert_eq!(without["sessions"], count(&report, "listed_by_courier"));
    assert!(
        without["slot_seconds_assumed"].as_u64() > Some(100),
        "{without}"
    );
    assert!(without["bans"].as_u64() > Some(30), "{without}");
    assert_eq!(count(&report, "bans"), 0);
}

#[test]
fn a_wave_with_the_filter_shows_its_bans() {
    let lab = lab(blacklists(), ZONE);
    wave(&lab);
    let (report, log) = look_at();
    let listed = lines_with(&log, ": listed,ip=") as u64;
    let bans = lines_with(&log, ",action=ban,") as u64;
    assert_eq!(count(&report, "bans"), bans);
    assert!(bans > 100, "{bans}");
    assert!(
        count(&report, "listed_by_us") >= listed * 9 / 10,
        "{report}"
    );
    let list = &report["refusals"][0];
    assert_eq!(
        (&list["by"], &list["what"]),
        (&"rblfilter".into(), &"bl.test".into())
    );
    assert!(report["slots"]["most"].as_u64() < Some(50), "{report}");
    let sessions = report["without"]["sessions"].as_u64();
    assert!(
        sessions < Some(20),
        "hardly anybody was left to Courier: {sessions:?}"
    );
    // And the report without names names nobody.
    let anonymous = run(&["--json", "--anonymise", SNAPSHOT]);
    assert!(!anonymous.contains("127.66.1.1\"") && !anonymous.contains("client.test"));
}
