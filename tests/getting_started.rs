//! What docs/getting-started.md has a new admin type, typed: the commands of ours in
//! their order, at a real Courier.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use common::*;
use rblfilter_lab::{Config, Lab};

const FILE: &str = "/etc/courier/filters/rblfilter.toml";

/// The lines of the page that begin with rblfilter, for a client that is listed.
fn commands() -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/getting-started.md");
    let page = fs::read_to_string(page).unwrap();
    let lines = page.lines().filter_map(|line| line.strip_prefix("    "));
    let lines = lines.map(|line| line.strip_prefix("sudo ").unwrap_or(line));
    let lines = lines.filter(|line| line.starts_with("rblfilter "));
    lines
        .map(|line| line.replace("203.0.113.9", LISTED))
        .collect()
}

fn typed(lab: &Lab, line: &str) -> (i32, String) {
    let output = lab
        .run(&["sh", "-c", &format!("cd /run && {line}")])
        .unwrap();
    let told = [&output.stdout[..], &output.stderr].concat();
    (
        output.status.code().unwrap(),
        String::from_utf8_lossy(&told).into_owned(),
    )
}

#[test]
fn what_a_new_admin_types_does_what_the_page_says() {
    let lab = lab(Config::default(), &format!("mode = \"observe\"\n{ZONE}"));
    // A day goes by: a listed client and another send their mail, which is accepted.
    assert_delivered(&lab, &message(), LISTED, 1);
    assert_delivered(&lab, &message(), CLEAN, 2);
    lab.wait_for_log("action=none,would=ban", LIMIT).unwrap();
    let lines = lab.log();
    let log: String = lines
        .iter()
        .map(|line| format!("{}\n", in_a_file(&line.text)))
        .collect();
    fs::write("/var/log/mail.log", log).unwrap();
    let mut done = Vec::new();
    for line in commands() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words[1] == "config" {
            fs::write(FILE, format!("mode = \"enforce\"\n{ZONE}")).unwrap();
        }
        let (code, told) = typed(&lab, &line);
        let fine = match words[1] {
            // What is not as it should be in a lab is told.
            "doctor" => 0..=3,
            // It is listed.
            "lookup" => 1..=1,
            "why" => 0..=2,
            _ => 0..=0,
        };
        assert!(fine.contains(&code), "{line}: {code}: {told}");
        let expected = match words[1] {
            "status" => "observe",
            "lookup" | "list" | "unban" | "why" => LISTED,
            "report" => "Would be refused (observe)",
            "config" => "enforce",
            _ => "",
        };
        assert!(told.contains(expected), "{line}: {told}");
        match words[1] {
            "reload" => {
                let refused = lab.send(&message(), ip(LISTED));
                assert!(!refused.accepted(), "{refused:?}");
                assert_banned_too(&lab, LISTED);
            }
            "unban" => assert_delivered(&lab, &message(), LISTED, 3),
            _ => {}
        }
        done.push(words[1].to_owned());
    }
    for command in [
        "doctor", "status", "lookup", "report", "why", "reload", "unban",
    ] {
        assert!(
            done.iter().any(|word| word == command),
            "{command}: {done:?}"
        );
    }
    assert!(fs::metadata("/run/report.html").is_ok_and(|page| page.len() > 1000));
}

/// A line as rsyslog writes it to its file, now.
fn in_a_file(line: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = i64::try_from(now.as_secs()).unwrap();
    let now = jiff::Timestamp::from_second(now).unwrap();
    format!("{now} mail {line}")
}
