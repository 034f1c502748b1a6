//! What Prometheus is told: of a real Courier with mail and listed clients, in
//! both formats, and whatever whoever asks does.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::*;
use rblfilter_lab::{Config, Lab, wait_for};

const PORT: &str = "127.0.0.1:9625";
const CONFIG: &str = "/etc/courier/filters/rblfilter.toml";
/// Courier's user may write there.
const FOLDER: &str = "/var/lib/courier/rblfilter";
const OPEN: &str = "application/openmetrics-text;version=1.0.0,*/*;q=0.1";

fn toml(metrics: &str) -> String {
    format!("{OWN_ZONE}[metrics]\n{metrics}\n")
}

/// An answer: its status line and fields, and its text.
fn request(
    mut stream: impl Read + Write,
    method: &str,
    path: &str,
    accept: &str,
) -> (String, String) {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_lowercase(), text.to_owned())
}

fn connected() -> TcpStream {
    let stream = TcpStream::connect(PORT).unwrap();
    stream.set_read_timeout(Some(LIMIT * 2)).unwrap();
    stream
}

fn scrape(accept: &str) -> String {
    let (head, text) = request(connected(), "GET", "/metrics", accept);
    assert!(head.starts_with("http/1.1 200"), "{head}");
    text
}

/// The socket is there a moment after the start.
fn wait_for_port() {
    wait_for(LIMIT, || TcpStream::connect(PORT).ok()).expect("the port");
}

/// A sample's value.
fn value(text: &str, series: &str) -> Option<f64> {
    text.lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
        .map(|value| value.parse().unwrap())
}

/// What is told once this is so.
fn wait_for_value(series: &str, expected: f64) -> String {
    let told = || {
        let text = scrape("*/*");
        (value(&text, series) == Some(expected)).then_some(text)
    };
    wait_for(LIMIT, told).unwrap_or_else(|| panic!("{series}: {}", scrape("*/*")))
}

/// The metrics' names, as the text format has them.
fn names(classic: &str) -> BTreeSet<String> {
    let types = classic
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "));
    types
        .map(|rest| rest.split(' ').next().unwrap().to_owned())
        .collect()
}

/// Every word in `text` that is a metric's name, without what a histogram's
/// samples add.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words
        .filter(|word| word.starts_with("rblfilter_"))
        .map(|word| {
            let histogram = ["_bucket", "_sum", "_count"];
            let base = histogram.iter().find_map(|end| word.strip_suffix(end));
            base.unwrap_or(word).to_owned()
        })
        .collect()
}

fn top(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// promtool has nothing to say against it.
fn promtool(words: &[&str], input: &str) {
    let mut child = Command::new("promtool")
        .args(words)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool (tests/run.sh installs it)");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.trim().is_empty(), "{said}");
}

#[test]
fn prometheus_reads_what_is_counted_in_either_format() {
    let lab = lab(Config::default(), &toml(&format!("listen = \"{PORT}\"")));
    wait_for_port();
    assert_delivered(&lab, &message(), CLEAN, 1);
    let outcome = lab.send(&message(), ip(LISTED));
    assert!(!outcome.accepted(), "{outcome:?}");
    assert_banned_too(&lab, LISTED);
    let text = wait_for_value("rblfilter_bans", 1.0);
    for (series, expected) in [
        ("rblfilter_build_info{version=\"0.1.0\"}", 1.0),
        ("rblfilter_enforce", 1.0),
        ("rblfilter_messages_total", 2.0),
        ("rblfilter_bans_set_total", 1.0),
        (
            "rblfilter_sentences_total{at=\"message\",sentence=\"pass\"}",
            1.0,
        ),
        (
            "rblfilter_sentences_total{at=\"message\",sentence=\"ban\"}",
            1.0,
        ),
        ("rblfilter_sessions_ended_total{reason=\"message\"}", 1.0),
        (
            "rblfilter_list_questions_total{list=\"bl.test\",result=\"listed\"}",
            1.0,
        ),
        (
            "rblfilter_list_questions_total{list=\"bl.test\",result=\"not-listed\"}",
            1.0,
        ),
        (
            "rblfilter_list_latency_seconds_count{list=\"bl.test\"}",
            2.0,
        ),
        (
            "rblfilter_list_believed{list=\"bl.test\",family=\"ipv4\"}",
            1.0,
        ),
        ("rblfilter_message_wait_seconds_count", 2.0),
        ("rblfilter_slots_max{listener=\"esmtpd\"}", 300.0),
        ("rblfilter_degraded{what=\"warden\"}", 0.0),
    ] {
        assert_eq!(value(&text, series), Some(expected), "{series} in {text}");
    }
    let started = value(&text, "rblfilter_process_start_time_seconds").unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let age = now.unwrap().as_secs_f64() - started;
    assert!((-5.0..3600.0).contains(&age), "started {age} s ago");
    assert!(value(&text, "rblfilter_process_resident_memory_bytes").unwrap() > 1e6);
    assert!(
        !text.contains("127.66.1.2") && !text.contains("client.test"),
        "{text}"
    );

    promtool(&["check", "metrics"], &text);
    let open = scrape(OPEN);
    assert!(
        open.ends_with("# EOF\n") && open.contains("# UNIT "),
        "{open}"
    );

    // The document, the dashboard and the alerts name what there is.
    let there = names(&text);
    let document = top("docs/metrics.md");
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `"));
    let told: BTreeSet<String> = rows
        .map(|row| row.split('`').next().unwrap().to_owned())
        .collect();
    assert_eq!(told, there);
    for file in ["courierfilter/grafana.json", "courierfilter/alerts.yml"] {
        let unknown: Vec<String> = named(&top(file)).difference(&there).cloned().collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?}");
    }
    let dashboard: serde_json::Value =
        serde_json::from_str(&top("courierfilter/grafana.json")).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() > 10);

    // What is no scrape is told so.
    for (method, path, status) in [
        ("GET", "/", "404"),
        ("GET", "/metrics/x", "404"),
        ("POST", "/metrics", "405"),
        ("DELETE", "/metrics", "405"),
    ] {
        let (head, _) = request(connected(), method, path, "*/*");
        assert!(
            head.starts_with(&format!("http/1.1 {status}")),
            "{method} {path}: {head}"
        );
        assert_eq!(head.contains("allow: get, head"), status == "405", "{head}");
    }
    let (head, text) = request(connected(), "HEAD", "/metrics", "*/*");
    assert!(
        head.starts_with("http/1.1 200") && head.contains("content-length: "),
        "{head}"
    );
    assert_eq!(text, "");
    let (head, _) = request(connected(), "GET", "/metrics", OPEN);
    assert!(
        head.contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{head}"
    );
}

#[test]
fn the_alert_rules_are_right_and_fire_where_they_should() {
    promtool(&["check", "rules", "courierfilter/alerts.yml"], "");
    promtool(&["test", "rules", "tests/data/alerts_test.yml"], "");
}

#[test]
fn whoever_asks_slowly_or_wrongly_holds_up_no_mail() {
    let lab = lab(Config::default(), &toml(&format!("listen = \"{PORT}\"")));
    wait_for_port();
    // More than are served at a time: some say nothing, some half, some nonsense.
    let mut open = Vec::new();
    for number in 0..60 {
        let mut stream = connected();
        let said: &[u8] = match number % 4 {
            0 => b"",
            1 => b"GET /metrics HTTP/1.1\r\nHost: ",
            2 => b"\x16\x03\x01\x00\xff\x00\xfe nonsense",
            _ => &[b'x'; 20_000],
        };
        // It may have been closed already.
        let _ = stream.write_all(said);
        open.push(stream);
    }
    let pid = filter(&lab).worker;
    let descriptors = || fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    for count in 1..=5 {
        assert_delivered(&lab, &message(), CLEAN, count);
        assert!(descriptors() < 60, "{}", descriptors());
    }
    drop(open);
    // When their time is over, others have their turn.
    let served = || {
        let stream = connected();
        let (head, _) = request(stream, "GET", "/metrics", "*/*");
        head.starts_with("http/1.1 200").then_some(())
    };
    wait_for(LIMIT * 4, served).expect("served again");
    assert!(lab.log_matching("bug").is_empty());
}

/// Waits for a line of the log, which comes again after `clear_log`.
fn wait_for_line(lab: &Lab, part: &str) {
    lab.wait_for_log(part, LIMIT * 2).unwrap();
}

#[test]
fn what_cannot_be_had_is_told_once_and_mends_itself() {
    let lab = Lab::start(Config::default()).unwrap();
    let taken = TcpListener::bind(PORT).unwrap();
    let metrics = format!("listen = \"{PORT}\"\ntextfile = \"/var/lib/nobodys/x.prom\"");
    product().start(&lab, &toml(&metrics)).unwrap();
    wait_for_line(
        &lab,
        "degraded,what=metrics,name=listen: cannot listen on 127.0.0.1:9625",
    );
    wait_for_line(
        &lab,
        "degraded,what=metrics,name=textfile: cannot write /var/lib/nobodys/x.prom",
    );
    assert_delivered(&lab, &message(), CLEAN, 1);
    drop(taken);
    wait_for_line(&lab, "recovered,what=metrics,name=listen,after=");
    scrape("*/*");
    let again = lab.log_matching("degraded,what=metrics,name=listen");
    assert_eq!(again.len(), 1, "{again:?}");
}

#[test]
fn a_reload_moves_the_socket_and_the_file_and_the_stop_removes_them() {
    let (socket, file) = (format!("{FOLDER}/metrics"), format!("{FOLDER}/x.prom"));
    let metrics = format!("listen = \"unix:{socket}\"\ntextfile = \"{file}\"");
    let lab = lab(Config::default(), &toml(&metrics));
    let connect = |path: &str| wait_for(LIMIT, || UnixStream::connect(path).ok()).unwrap();
    let (head, text) = request(connect(&socket), "GET", "/metrics", "*/*");
    assert!(head.starts_with("http/1.1 200"), "{head}");
    promtool(&["check", "metrics"], &text);
    let mode = |path: &str| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&socket), 0o660);
    wait_for(LIMIT, || fs::metadata(&file).ok()).expect("the file");
    assert_eq!(mode(&file), 0o644);
    let written = fs::read_to_string(&file).unwrap();
    promtool(&["check", "metrics"], &written);
    assert_eq!(names(&written), names(&text));

    // A socket that somebody removes is made again.
    fs::remove_file(&socket).unwrap();
    let back = || UnixStream::connect(&socket).ok();
    wait_for(LIMIT * 2, back).expect("the socket again");

    // Elsewhere, by a reload.
    let (moved, other) = (format!("{FOLDER}/moved"), format!("{FOLDER}/y.prom"));
    let before = fs::read_to_string(CONFIG).unwrap();
    fs::write(
        CONFIG,
        before.replace(&socket, &moved).replace(&file, &other),
    )
    .unwrap();
    by_hand(&lab, &["reload"]);
    request(connect(&moved), "GET", "/metrics", "*/*");
    wait_for(LIMIT, || fs::metadata(&other).ok()).expect("the other file");
    for gone in [&socket, &file] {
        assert!(!Path::new(gone).exists(), "{gone}");
    }
    // The same once more: the place is free for the next worker.
    lab.clear_log();
    by_hand(&lab, &["reload"]);
    request(connect(&moved), "GET", "/metrics", "*/*");
    assert!(lab.log_matching("degraded,what=metrics").is_empty());

    product().filterctl_stop(&lab).unwrap();
    let gone = || (!Path::new(&moved).exists() && !Path::new(&other).exists()).then_some(());
    wait_for(Duration::from_secs(20), gone).expect("nothing is left");
}

#[test]
fn a_key_in_a_zones_name_is_not_told() {
    let key = "abcdefghijklmnopqrstuvwxyz";
    let config = format!(
        "watch = \"off\"\n[metrics]\nlisten = \"{PORT}\"\n[lookup]\nquery-non-global = true\n[[dnsbl]]\nzone = \"{key}.bl.test\"\nself-test = false\n"
    );
    let _lab = lab(Config::default(), &config);
    wait_for_port();
    let text = scrape(OPEN);
    assert!(
        text.contains("list=\"*.bl.test\"") && !text.contains(key),
        "{text}"
    );
}
