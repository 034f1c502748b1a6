//! The benchmark runs, and its figures are what they say.
#![allow(clippy::unwrap_used)] // Also outside the tests, where clippy.toml does not exempt it.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// One short run; its figures.
fn wave(options: &[&str]) -> Value {
    let lab = Path::new(env!("CARGO_BIN_EXE_lab"));
    let output = Command::new(lab)
        .args(["wave", "--seconds", "3", "--idle", "0", "--json", "-"])
        .arg("--install")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../install.sh"))
        .arg("--programs")
        .arg(lab.parent().unwrap())
        .args(options)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{options:?}: {text}{errors}");
    let mut all: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(all.len(), 1, "{text}");
    all.remove(0)
}

fn number(figures: &Value, path: &str) -> f64 {
    let value = figures.pointer(path).and_then(Value::as_f64);
    value.unwrap_or_else(|| panic!("{path} in {figures:#}"))
}

#[test]
fn without_a_guard_each_spammer_keeps_its_slot() {
    for kind in ["banner", "hang", "data"] {
        let figures = wave(&["--kind", kind, "--guard", "none", "--rate", "30"]);
        assert!(number(&figures, "/slots/peak") >= 50.0, "{figures:#}");
        assert!(number(&figures, "/spam/greeted") >= 50.0, "{figures:#}");
        let accepted = number(&figures, "/spam/accepted");
        assert_eq!(accepted >= 30.0, kind == "data", "{figures:#}");
        let mail = ["/mail/accepted", "/mail/offered"].map(|path| number(&figures, path));
        assert!(mail[0] == mail[1] && mail[0] >= 10.0, "{figures:#}");
        assert!(
            number(&figures, "/mail/latency_ms/p50") > 0.5,
            "{figures:#}"
        );
    }
}

#[test]
fn couriertcpd_drops_whom_the_list_names_and_no_other() {
    let options = ["--guard", "drop", "--rate", "40", "--share-listed", "50"];
    let figures = wave(&options);
    let (ended, connects) = (
        number(&figures, "/spam/ended"),
        number(&figures, "/spam/connects"),
    );
    assert!((ended / connects - 0.5).abs() < 0.1, "{figures:#}");
    // Those never became courieresmtpd. (A legitimate session that is over before the meter looks whose it is counts.)
    let killed = figures.pointer("/spam/exec_to_kill_ms/count");
    let killed = killed.and_then(Value::as_f64).unwrap_or(0.0);
    assert!(killed <= ended / 5.0, "{figures:#}");
    assert!(number(&figures, "/slots/peak") >= 40.0, "{figures:#}");
}

#[test]
fn rblfilter_frees_the_slots_in_either_namespace() {
    let figures = wave(&["--rate", "40", "--guard", "rblfilter-block"]);
    assert_eq!(figures["watch"], "poll");
    assert!(number(&figures, "/slots/peak") <= 20.0, "{figures:#}");
    assert!(number(&figures, "/banned") >= 50.0, "{figures:#}");
    assert!(number(&figures, "/memory/rss_kib") > 1000.0, "{figures:#}");

    let figures = wave(&["--rate", "40", "--spaces", "machine"]);
    assert_eq!(figures["watch"], "events");
    assert!(number(&figures, "/slots/peak") <= 20.0, "{figures:#}");
    // The kernel's events, which are there where the machine's namespaces are the initial ones: each session that the
    // server ended, and no legitimate one.
    let told = number(&figures, "/spam/exec_to_kill_ms/count");
    let ended = number(&figures, "/spam/ended");
    assert!(told >= 50.0 && (told - ended).abs() <= 3.0, "{figures:#}");
    assert!(number(&figures, "/slots/kernel_mean") > 0.0, "{figures:#}");
}

#[test]
fn those_who_come_back_are_not_answered_once_they_are_banned() {
    let figures = wave(&["--kind", "return", "--rate", "100", "--addresses", "20"]);
    assert_eq!(number(&figures, "/banned"), 20.0, "{figures:#}");
    assert!(number(&figures, "/spam/unanswered") >= 20.0, "{figures:#}");
    // Ended at once, without a set: each comes back.
    let figures = wave(&[
        "--kind",
        "return",
        "--rate",
        "100",
        "--addresses",
        "20",
        "--guard",
        "drop",
    ]);
    assert!(number(&figures, "/spam/ended") >= 200.0, "{figures:#}");
}

#[test]
fn a_slow_list_delays_and_a_silent_one_holds_the_slots() {
    let figures = wave(&["--dns", "slow:0.5", "--guard", "drop", "--rate", "20"]);
    assert!(
        number(&figures, "/mail/latency_ms/p50") >= 500.0,
        "{figures:#}"
    );
    let figures = wave(&[
        "--dns",
        "silent",
        "--guard",
        "block",
        "--rate",
        "20",
        "--patience",
        "1",
    ]);
    assert_eq!(number(&figures, "/mail/accepted"), 0.0, "{figures:#}");
    let options = [
        "--ptr-silent",
        "--nodnslookup",
        "--guard",
        "block",
        "--rate",
        "20",
    ];
    let figures = wave(&options);
    assert!(number(&figures, "/mail/accepted") >= 10.0, "{figures:#}");
}

#[test]
fn ipv6_spammers_come_from_networks_of_their_own() {
    let figures = wave(&["--ipv6", "--rate", "30"]);
    assert!(number(&figures, "/banned") >= 40.0, "{figures:#}");
}
