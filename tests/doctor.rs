//! `rblfilter doctor` in a real Courier: where all is well it says so; each thing
//! that is broken is found, and what it advises mends it.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fs;
use std::time::{Duration, Instant};

use common::*;
use rblfilter_lab::{BACKUP_MX, Config, Dns, KEY, Lab, wait_for};
use serde_json::Value;

const FILE: &str = "/etc/courier/filters/rblfilter.toml";

/// A Courier as an admin should have it.
fn sound() -> Config {
    Config {
        tcpd_options: "-nodnslookup".into(),
        esmtpd: vec!["MAXPERC=50".into(), "MAXPERIP=10".into()],
        ..Config::default()
    }
}

/// What it found, and its exit status.
struct Told {
    status: Option<i32>,
    findings: Vec<Value>,
}

impl Told {
    /// The first finding of check `id` that is neither ok nor a note.
    fn wrong(&self, id: &str) -> Option<&Value> {
        self.findings.iter().find(|finding| {
            finding["id"] == id && finding["level"] != "ok" && finding["level"] != "note"
        })
    }

    fn of(&self, id: &str) -> &Value {
        let found = self.findings.iter().find(|finding| finding["id"] == id);
        found.unwrap_or_else(|| panic!("{id}: {:#?}", self.findings))
    }

    fn all_wrong(&self) -> Vec<String> {
        let wrong = self
            .findings
            .iter()
            .filter(|finding| finding["level"] != "ok" && finding["level"] != "note");
        wrong.map(ToString::to_string).collect()
    }
}

fn doctor(lab: &Lab, words: &[&str]) -> Told {
    let output = lab
        .run(&[&["rblfilter", "doctor", "--json"], words].concat())
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains(KEY), "{text}");
    let json: Value = serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!(
            "{error}: {text} {}",
            String::from_utf8_lossy(&output.stderr)
        )
    });
    assert_eq!(json["status"].as_i64(), output.status.code().map(i64::from));
    Told {
        status: output.status.code(),
        findings: json["findings"].as_array().unwrap().clone(),
    }
}

/// All is well, or is in a moment: the filter looks at some things every few
/// seconds.
fn assert_well(lab: &Lab, after: &str) {
    let mut last = Vec::new();
    let well = wait_for(LIMIT * 3, || {
        let told = doctor(lab, &[]);
        last = told.all_wrong();
        (told.status == Some(0)).then_some(())
    });
    assert!(well.is_some(), "after {after}: {last:#?}");
}

fn sh(lab: &Lab, command: &str) {
    lab.run_ok(&["sh", "-c", command]).unwrap();
}

/// What is printed for people stays within 80 columns, and is plain where it goes
/// to no terminal.
fn assert_readable(text: &str) {
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line}");
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert_eq!(line.trim_end(), line);
    }
}

#[test]
fn where_all_is_well_it_says_so() {
    let lab = lab(sound(), ZONE);
    assert_well(&lab, "the start");
    let text = lab.run_ok(&["rblfilter", "doctor"]).unwrap();
    assert_readable(&text);
    for part in [
        "Installation\n",
        "  ok      the warden has its capability, cap_net_admin\n",
        "  ok      bl.test (ipv4 clients) passes its self-test\n",
        "  ok      the sets and the rules are as the configuration wants them\n",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let last = text.lines().last().unwrap();
    assert!(last.ends_with(" ok") && !last.contains("problem"), "{last}");
    assert_eq!(lab.run_ok(&["rblfilter", "doctor", "--quiet"]).unwrap(), "");
    // Others' programs are not run, whatever PATH is.
    sh(
        &lab,
        "others=$(mktemp -d) && for name in ipset iptables iptables-save ip6tables nft systemctl; do
            printf '#!/bin/sh\\nexit 9\\n' > $others/$name && chmod 755 $others/$name || exit
        done
        PATH=$others:$PATH rblfilter doctor --quiet; status=$?; rm -r $others; exit $status",
    );
    // Courier's group sees enough, others are told what not.
    let as_user = |user: &str| {
        let words = [
            "runuser",
            "-u",
            user,
            "--",
            "rblfilter",
            "doctor",
            "--quiet",
        ];
        let output = lab.run(&words).unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    assert_eq!(as_user("courier"), (Some(0), String::new()));
    let (status, text) = as_user("nobody");
    assert_eq!(status, Some(3), "{text}");
    assert!(
        text.contains("[config-wrong]") && !text.contains("PROBLEM"),
        "{text}"
    );
    assert!(text.contains("root sees more"), "{text}");
    assert_readable(&text);
    // One check alone, one left out, and one that there is not.
    let only = doctor(&lab, &["--only", "zone-down,disk-full"]);
    assert!(
        only.findings
            .iter()
            .all(|f| f["id"] == "zone-down" || f["id"] == "disk-full")
    );
    assert_eq!(only.findings.len(), 3);
    let without = doctor(&lab, &["--ignore", "zone-down"]);
    assert!(without.findings.iter().all(|f| f["id"] != "zone-down"));
    let unknown = lab
        .run(&["rblfilter", "doctor", "--only", "zone-dwn"])
        .unwrap();
    assert_eq!(unknown.status.code(), Some(64));
    let text = String::from_utf8(unknown.stderr).unwrap();
    assert!(text.contains("zone-down"), "the nearest is named: {text}");
}

/// Each is done, found, and mended by the command that it advises, or else by the
/// one here.
#[test]
fn what_is_broken_is_found_and_mended_by_what_it_advises() {
    let lab = lab(sound(), ZONE);
    assert_well(&lab, "the start");
    for (id, status, breaks, mends) in [
        (
            "esmtp-not-filtered",
            2,
            "printf local >/etc/courier/enablefiltering",
            None,
        ),
        ("filter-not-active", 2, "filterctl stop rblfilter", None),
        (
            "filter-not-active",
            2,
            "ln -sfn /bin/true /etc/courier/filters/active/rblfilter",
            None,
        ),
        (
            "warden-incapable",
            2,
            "setcap -r /usr/lib/courier/rblfilter-warden",
            None,
        ),
        (
            "warden-missing",
            2,
            "chmod 0700 /usr/lib/courier/rblfilter-warden",
            None,
        ),
        (
            "warden-missing",
            1,
            "chmod 0755 /usr/lib/courier/rblfilter-warden",
            None,
        ),
        (
            "program-writable",
            2,
            "chmod 0777 /usr/lib/courier/filters/rblfilter",
            None,
        ),
        (
            "program-writable",
            2,
            "chown courier /usr/lib/courier/rblfilter-warden",
            None,
        ),
        (
            "state-folder",
            2,
            "chmod 0777 /var/lib/courier/rblfilter",
            None,
        ),
        (
            "filter-socket",
            2,
            "chmod 0666 /var/lib/courier/allfilters/rblfilter",
            None,
        ),
        ("firewall-wrong", 2, "iptables -F INPUT", None),
        (
            "firewall-wrong",
            2,
            "iptables -F INPUT; ip6tables -F INPUT; ipset destroy rblfilter4; ipset destroy rblfilter6",
            None,
        ),
        (
            "old-program-runs",
            1,
            "cd /usr/lib/courier/filters; cp -p rblfilter .new; mv .new rblfilter",
            None,
        ),
        (
            "boot-rules",
            1,
            "systemctl --quiet disable rblfilter-firewall",
            None,
        ),
        ("proc-hidden", 2, "mount -o remount,hidepid=2 /proc", None),
        (
            "log-missing",
            1,
            "mv /dev/log /dev/away",
            Some("mv /dev/away /dev/log"),
        ),
        (
            "config-wrong",
            2,
            "cp -p /etc/courier/filters/rblfilter.toml /run/good; echo x = 1 >>/etc/courier/filters/rblfilter.toml",
            Some("cp -p /run/good /etc/courier/filters/rblfilter.toml"),
        ),
        (
            "config-wrong",
            2,
            "chmod 0600 /etc/courier/filters/rblfilter.toml",
            None,
        ),
        (
            "public-resolver",
            1,
            "cp /etc/resolv.conf /run/resolv; echo nameserver 9.9.9.9 >>/etc/resolv.conf",
            Some("cp /run/resolv /etc/resolv.conf"),
        ),
        (
            "other-filters",
            0,
            "ln -s /usr/lib/courier/filters/dupfilter /etc/courier/filters/active/dupfilter",
            Some("rm /etc/courier/filters/active/dupfilter"),
        ),
    ] {
        sh(&lab, breaks);
        if breaks == "filterctl stop rblfilter" {
            let gone = || {
                let ours = lab.processes().iter().any(|p| p.comm == "rblfilter");
                (!ours).then_some(())
            };
            wait_for(LIMIT * 2, gone).unwrap();
        }
        let told = doctor(&lab, &[]);
        assert_eq!(told.status, Some(status), "{id}: {:#?}", told.all_wrong());
        if status > 0 {
            let found = told
                .wrong(id)
                .unwrap_or_else(|| panic!("{id}: {breaks}: {:#?}", told.all_wrong()));
            let run = found["run"].as_str();
            sh(&lab, mends.or(run).unwrap_or_else(|| panic!("{found}")));
        } else {
            told.of(id);
            sh(&lab, mends.unwrap());
        }
        assert_well(&lab, breaks);
    }
}

/// Puts this at the end of esmtpd's file, where it wins, and restarts it as the
/// doctor advises.
fn restarted_with(lab: &Lab, text: &str) -> Told {
    lab.append_config("esmtpd", text).unwrap();
    let told = doctor(lab, &[]);
    let found = told.wrong("esmtpd-not-restarted");
    let run = found.unwrap_or_else(|| panic!("{text}: {:#?}", told.all_wrong()))["run"].clone();
    sh(lab, run.as_str().unwrap());
    let told = doctor(lab, &[]);
    assert!(told.wrong("esmtpd-not-restarted").is_none(), "{text}");
    told
}

#[test]
fn what_couriertcpd_really_does_is_looked_at() {
    let lab = lab(sound(), ZONE);
    assert_well(&lab, "the start");
    let told = restarted_with(&lab, "ESMTPAUTH=\"PLAIN LOGIN\"\n");
    assert_eq!(told.status, Some(2));
    let found = told.wrong("logins-on-judged-port").unwrap();
    assert!(
        found["do"].as_str().unwrap().contains("ESMTPAUTH=\"\""),
        "{found}"
    );
    // The edit alone is not enough.
    let told = restarted_with(
        &lab,
        "ESMTPAUTH=\"\"\nBLACKLISTS='-block=bl.test -block=wl.test,SPAM'\nDROP=-drop\n",
    );
    assert_eq!(told.status, Some(1), "{:#?}", told.all_wrong());
    for (id, part) in [
        ("courier-looks-up", "asks 2 lists"),
        ("courier-drops", "whose BLOCK is set"),
        ("zone-asked-twice", "bl.test"),
        ("verdict-unread", "SPAM"),
        ("block-refuses-postmaster", "into BLOCK"),
    ] {
        let found = told.wrong(id).unwrap_or_else(|| panic!("{id}"));
        assert!(found["found"].as_str().unwrap().contains(part), "{found}");
        assert!(found["do"].is_string(), "{found}");
    }
    let told = restarted_with(
        &lab,
        "BLACKLISTS=''\nDROP=''\nMAXDAEMONS=10\nMAXPERIP=10\nTCPDOPTS=-stderrlogger=/usr/sbin/courierlogger\n",
    );
    assert_eq!(told.status, Some(1), "{:#?}", told.all_wrong());
    assert!(told.wrong("few-slots").is_some() && told.wrong("one-client-fills-slots").is_some());
    assert_eq!(told.of("reverse-lookups")["level"], "note");
    restarted_with(
        &lab,
        "MAXDAEMONS=100\nTCPDOPTS=\"$TCPDOPTS -nodnslookup\"\n",
    );
    assert_well(&lab, "all was taken back");
}

/// The backup MX of a domain of ours would be banned for what it passes on.
#[test]
fn an_mx_of_ours_that_is_not_exempt_is_found() {
    let lab = lab(sound(), ZONE);
    fs::write("/etc/courier/hosteddomains/ours", "spf.test\n").unwrap();
    let told = doctor(&lab, &[]);
    assert_eq!(told.status, Some(1), "{:#?}", told.all_wrong());
    let found = told.wrong("mx-not-exempt").unwrap();
    assert_eq!(found["about"], "mx2.spf.test");
    let advice = found["do"].as_str().unwrap();
    assert!(advice.contains(&format!("\"{BACKUP_MX}\"")), "{advice}");
    for exempt in [
        format!("[allow]\nnetworks = [\"{BACKUP_MX}\"]\n{ZONE}"),
        format!("[never-ban]\nrelays = [\"203.0.113.0/24\"]\n{ZONE}"),
    ] {
        fs::write(FILE, exempt).unwrap();
        sh(&lab, found["run"].as_str().unwrap());
        assert_well(&lab, "the MX is exempt");
    }
}

/// A list that is gone convicts nobody; where it is the last one, that is all.
#[test]
fn lists_that_are_down_are_told_one_by_one() {
    let lists = |range: std::ops::Range<u32>| -> String {
        range
            .map(|number| format!("[[dnsbl]]\nzone = \"l{number}.dead.test\"\n"))
            .collect()
    };
    let lab = lab(sound(), &format!("{ZONE}{}", lists(0..40)));
    let told = doctor(&lab, &[]);
    assert_eq!(told.status, Some(1), "{:#?}", told.all_wrong());
    let down = |told: &Told| {
        told.all_wrong()
            .iter()
            .filter(|text| text.contains("zone-down"))
            .count()
    };
    assert_eq!(down(&told), 80);
    let output = lab.run(&["rblfilter", "doctor"]).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_readable(&text);
    assert!(text.contains("and 72 more (--json tells all)"), "{text}");
    assert!(text.lines().count() < 130, "{text}");
    // The same without the filter: the lists are tested here.
    product().filterctl_stop(&lab).unwrap();
    let told = doctor(&lab, &[]);
    assert_eq!(down(&told), 80);
    assert_eq!(told.wrong("zone-down").unwrap()["level"], "warning");
    fs::write(
        FILE,
        format!("[lookup]\nquery-non-global = true\n{}", lists(0..1)),
    )
    .unwrap();
    let told = doctor(&lab, &[]);
    let found = told.wrong("zone-down").unwrap();
    assert_eq!(found["level"], "problem", "{found}");
    assert!(
        found["found"].as_str().unwrap().contains("REFUSED"),
        "{found}"
    );
    // And none at all.
    fs::write(FILE, "").unwrap();
    assert!(doctor(&lab, &[]).wrong("no-verdict").is_some());
}

/// With dead nameservers it ends, whether the filter runs or not.
#[test]
fn dead_nameservers_do_not_hold_it_up() {
    let config = Config {
        dns: Dns::Silent,
        ..sound()
    };
    let lab = lab(config, ZONE);
    for running in [true, false] {
        if !running {
            product().filterctl_stop(&lab).unwrap();
        }
        let begun = Instant::now();
        let told = doctor(&lab, &[]);
        let took = begun.elapsed();
        // 13 s, and time for a busy machine.
        assert!(took < Duration::from_secs(40), "{took:?}");
        assert_eq!(told.status, Some(2));
        assert!(
            told.wrong("no-resolver").is_some(),
            "{:#?}",
            told.all_wrong()
        );
        assert!(told.wrong("zone-down").is_some(), "{:#?}", told.all_wrong());
    }
}

/// A key that everybody can read is found, and not shown.
#[test]
fn a_readable_key_is_found_and_not_shown() {
    let toml = format!("[lookup]\nquery-non-global = true\n[[dnsbl]]\nzone = \"{KEY}.dqs.test\"\n");
    let lab = lab(sound(), &toml);
    assert_well(&lab, "the start");
    sh(&lab, &format!("chmod 0644 {FILE}"));
    let told = doctor(&lab, &[]);
    assert_eq!(told.status, Some(2));
    let run = told.wrong("key-readable").unwrap()["run"].clone();
    sh(&lab, run.as_str().unwrap());
    assert_well(&lab, "the mode");
}

#[test]
fn a_long_observe_is_a_note() {
    let lab = lab(sound(), &format!("mode = \"observe\"\n{ZONE}"));
    sh(&lab, &format!("touch -d '20 days ago' {FILE}"));
    let told = doctor(&lab, &[]);
    assert_eq!(told.status, Some(0), "{:#?}", told.all_wrong());
    let found = told.of("observing");
    assert!(
        found["found"].as_str().unwrap().contains("20 days"),
        "{found}"
    );
}

/// It runs before there is anything, and says that first.
#[test]
fn without_filter_or_courier_it_says_so_first() {
    let stopped = Config {
        courier: false,
        ..sound()
    };
    let lab = Lab::start(stopped).unwrap();
    let program = env!("CARGO_BIN_EXE_rblfilter");
    let told = |sysconfdir: &str| {
        let mut command = lab.command(program);
        command
            .args(["doctor", "--quiet"])
            .env("sysconfdir", sysconfdir);
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_readable(&text);
        assert_eq!(output.status.code(), Some(2), "{text}");
        text
    };
    let text = told("/etc/courier");
    let first = text.lines().nth(1).unwrap();
    assert!(first.contains("is missing"), "{text}");
    for id in [
        "filter-missing",
        "filter-not-active",
        "courierfilter-stopped",
        "config-wrong",
        "port-not-served",
    ] {
        assert!(text.contains(&format!("[{id}]")), "{id}: {text}");
    }
    let text = told("/etc/nowhere");
    assert!(text.contains("[courier-missing]"), "{text}");
    assert_eq!(text.matches("PROBLEM").count(), 1, "{text}");
}
