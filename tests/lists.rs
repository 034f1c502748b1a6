//! The lists in a real Courier: scores, agreement, vouchers, relays, keys, and
//! a list that turns out to be wrong.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::time::Duration;

use common::*;
use rblfilter_lab::{Config, Dns, KEY, Lab, wait_for};

const HEAD: &str = "watch = \"off\"\n[lookup]\nquery-non-global = true\n";

fn code(last: u8) -> std::net::Ipv4Addr {
    [127, 0, 0, last].into()
}

/// Refused with a text, and neither ended nor banned: the session goes on.
fn assert_rejected(lab: &Lab, source: &str, text: &str) {
    let outcome = lab.send(&message(), ip(source));
    assert_eq!(outcome.refused_code(), Some(554), "{outcome:?}");
    assert!(!outcome.cut_off(), "{outcome:?}");
    let told = format!("{outcome:?}");
    assert!(told.contains(text), "{told}");
    let line = format!("ip=[::ffff:{source}]");
    lab.wait_for_log(&line, LIMIT).unwrap();
    let rejected = || {
        lab.log_matching(",action=reject")
            .into_iter()
            .find(|logged| logged.contains(&line))
    };
    wait_for(LIMIT, rejected).expect("the log says so");
}

/// Refused, ended and banned. (Without the tarpit the client may have read its
/// 554 before that is done.)
fn banned(lab: &Lab, source: &str) {
    let outcome = lab.send(&message(), ip(source));
    let line = format!("ip=[::ffff:{source}]");
    let logged = || {
        let lines = lab.log_matching(",action=ban");
        lines
            .iter()
            .any(|logged| logged.contains(&line))
            .then_some(())
    };
    wait_for(LIMIT, logged).unwrap_or_else(|| panic!("{source}: {outcome:?}"));
    assert_banned(lab, &outcome, source, source);
}

#[test]
fn points_reject_and_ban_and_the_text_is_the_lists_own() {
    let lab = lab(
        Config {
            listed: vec![
                ("127.66.0.0/16".into(), code(2)),
                ("127.67.0.0/16".into(), code(3)),
                ("127.68.0.0/16".into(), code(4)),
            ],
            also_listed: vec![("127.68.1.0/24".into(), code(2))],
            tarpit: false,
            ..Config::default()
        },
        &format!(
            "{HEAD}[[dnsbl]]\nzone = \"bl.test\"\ncodes = [\"127.0.0.2\", {{ codes = \"127.0.0.3\", score = 5 }}, {{ codes = \"127.0.0.4\", score = 4 }}]\n\
             message = \"{{ip}} on {{zone}}: {{txt}}\"\n[[dnsbl]]\nzone = \"other.test\"\nscore = 6\n"
        ),
    );
    assert_rejected(
        &lab,
        "127.67.1.2",
        "127.67.1.2 on bl.test: Listed by bl.test",
    );
    assert_delivered(&lab, &message(), "127.68.2.2", 1);
    // Four and six are ten.
    banned(&lab, "127.68.1.2");
    let line = lab.wait_for_log(",also=bl.test", LIMIT).unwrap();
    assert!(
        line.contains(",zone=other.test,") && line.contains(",score=10,"),
        "{line}"
    );
    banned(&lab, LISTED);
    assert_eq!(lab.set_members("rblfilter4").unwrap().len(), 2);
    let (rejected, pass) = (
        ["rblfilter", "lookup", "127.67.1.2"],
        ["rblfilter", "lookup", CLEAN],
    );
    let output = lab.run(&rejected).unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(
        told.contains("127.67.1.2: reject, score 5")
            && told.contains("listed 127.0.0.3, score 5, ttl "),
        "{told}"
    );
    assert_eq!(lab.run(&pass).unwrap().status.code(), Some(0));
    let json = lab.run_ok(&[
        "sh",
        "-c",
        "printf '127.1.1.1\\n# x\\n127.1.1.2\\n' | rblfilter lookup --json -",
    ]);
    let json = json.unwrap();
    assert_eq!(json.lines().count(), 2, "{json}");
    let first: serde_json::Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&first["address"], &first["sentence"]),
        (&"127.1.1.1".into(), &"pass".into())
    );
}

#[test]
fn at_connect_only_a_ban_acts() {
    let lab = lab(
        Config {
            tarpit: false,
            ..Config::default()
        },
        "[lookup]\nquery-non-global = true\n[[dnsbl]]\nzone = \"bl.test\"\nscore = 5\n",
    );
    assert_rejected(&lab, LISTED, "is listed by bl.test");
    assert!(lab.log_matching("at=connect").is_empty());
    assert_no_bans(&lab);
}

#[test]
fn two_lists_must_agree_where_the_admin_says_so() {
    let lab = lab(
        Config {
            also_listed: vec![("127.66.2.0/24".into(), code(2))],
            tarpit: false,
            ..Config::default()
        },
        &format!("[score]\nban-needs = 2\n{}[[dnsbl]]\nzone = \"bl.test\"\n[[dnsbl]]\nzone = \"other.test\"\nscore = 1\n", HEAD.replace("watch = \"off\"\n", "")).replacen("[score]", "watch = \"off\"\n[score]", 1),
    );
    assert_rejected(&lab, LISTED, "is listed by bl.test");
    assert_no_bans(&lab);
    banned(&lab, "127.66.2.2");
}

#[test]
fn relays_vouched_clients_and_spf_senders_are_refused_but_never_banned() {
    let lab = lab(
        Config {
            allowed: vec![("127.66.3.0/24".into(), [127, 0, 5, 1].into())],
            spf: "ip4:127.66.4.0/24 include:spf.test".into(),
            tarpit: false,
            ..Config::default()
        },
        &format!(
            "watch = \"off\"\n[never-ban]\nrelays = [\"127.66.2.0/24\"]\nspf = [\"spf.test\"]\n{}[[dnsbl]]\nzone = \"bl.test\"\n[[dnswl]]\nzone = \"wl.test\"\nipv6 = false\ntrust = {{ low = -1 }}\n",
            HEAD.replace("watch = \"off\"\n", "")
        ),
    );
    // A record that includes itself is none.
    lab.wait_for_log("degraded,what=spf,name=spf.test.: more lookups", LIMIT)
        .unwrap();
    for source in ["127.66.2.2", "127.66.3.3"] {
        assert_rejected(&lab, source, "is listed by bl.test");
    }
    assert_no_bans(&lab);
    banned(&lab, "127.66.4.4");
}

#[test]
fn the_senders_of_an_spf_record_are_never_banned() {
    let lab = lab(
        Config {
            spf: "ip4:127.66.4.0/24".into(),
            tarpit: false,
            ..Config::default()
        },
        &format!(
            "watch = \"off\"\n[never-ban]\nspf = [\"spf.test\"]\n{}[[dnsbl]]\nzone = \"bl.test\"\n",
            HEAD.replace("watch = \"off\"\n", "")
        ),
    );
    let asked = || {
        lab.dns_queries()
            .contains(&"spf.test".to_owned())
            .then_some(())
    };
    wait_for(LIMIT, asked).unwrap();
    assert_rejected(&lab, "127.66.4.4", "is listed by bl.test");
    assert_no_bans(&lab);
    banned(&lab, LISTED);
}

/// Anybody may be one of its senders.
#[test]
fn nobody_is_banned_while_an_spf_record_was_never_read() {
    let lab = lab(
        Config {
            tarpit: false,
            ..Config::default()
        },
        // The nameserver does not answer for it.
        &OWN_ZONE.replace(
            "[lookup]",
            "[never-ban]\nspf = [\"elsewhere.example\"]\n[lookup]",
        ),
    );
    lab.wait_for_log("nobody is banned until", LIMIT).unwrap();
    assert_rejected(&lab, LISTED, "is listed by bl.test");
    assert_no_bans(&lab);
}

/// A list that turns out to be wrong: who was banned on its word since it was
/// last right is let in again.
#[test]
fn bans_that_rest_on_a_list_that_fails_are_lifted() {
    let mut lab = lab(Config::default(), OWN_ZONE);
    banned(&lab, LISTED);
    let error = [127, 255, 255, 254].into();
    lab.dns_list(&[("127.66.0.0/16".into(), error)]).unwrap();
    assert_delivered(&lab, &message(), "127.66.9.9", 1);
    let line = lab.wait_for_log("lifted,zone=bl.test", LIMIT).unwrap();
    assert!(line.contains(",bans=1"), "{line}");
    assert_no_bans(&lab);
    // It is not asked for what it said before, either.
    lab.dns_list(&[]).unwrap();
    lab.wait_for_log("recovered,what=dnsbl,zone=bl.test,after", LIMIT)
        .unwrap();
    assert_delivered(&lab, &message(), LISTED, 2);
}

/// From one moment to the next the list names everybody: a client whose mail
/// was accepted before finds it out, and loses no message.
#[test]
fn a_list_that_names_the_world_costs_a_known_client_nothing() {
    let mut lab = lab(
        Config::default(),
        &format!(
            "{}[cache]\nmin-ttl = \"1s\"\nmax-ttl = \"1s\"\nmax-negative-ttl = \"1s\"\n{}",
            "watch = \"off\"\n", ZONE
        ),
    );
    assert_delivered(&lab, &message(), CLEAN, 1);
    let known = std::time::Instant::now();
    lab.dns_list(&[("127.0.0.0/8".into(), code(2))]).unwrap();
    // What is kept of it ends, and its last test is two seconds old.
    let over = Duration::from_millis(2500).saturating_sub(known.elapsed());
    std::thread::sleep(over);
    assert_delivered(&lab, &message(), CLEAN, 2);
    let line = lab
        .wait_for_log("degraded,what=dnsbl,zone=bl.test: ", LIMIT)
        .unwrap();
    assert!(line.contains("may list the whole world"), "{line}");
    assert_delivered(&lab, &message(), "127.1.9.9", 3);
    assert_no_bans(&lab);
}

#[test]
fn what_the_lists_said_outlives_a_restart() {
    let lab = lab(Config::default(), OWN_ZONE);
    assert_delivered(&lab, &message(), CLEAN, 1);
    banned(&lab, LISTED);
    product().filterctl_stop(&lab).unwrap();
    // What was listed within a second of the last test is not kept.
    lab.wait_for_log("cache,written=", LIMIT).unwrap();
    let file = fs::metadata("/var/lib/courier/rblfilter/dnsbl-cache").unwrap();
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
    product().filterctl_start(&lab).unwrap();
    lab.wait_for_log("cache,read=", LIMIT).unwrap();
    assert_delivered(&lab, &message(), CLEAN, 2);
    let asked = lab.dns_queries();
    let times = asked.iter().filter(|name| *name == "3.2.1.127.bl.test");
    assert_eq!(times.count(), 1, "{asked:?}");
}

#[test]
fn a_real_resolver_between_changes_nothing() {
    let lab = lab(
        Config {
            dns: Dns::Unbound,
            ..Config::default()
        },
        OWN_ZONE,
    );
    banned(&lab, LISTED);
    assert_delivered(&lab, &message(), CLEAN, 1);
    let degraded = lab.log_matching("degraded");
    assert!(degraded.is_empty(), "{degraded:?}");
}

/// The key is asked for, and is in nothing that the filter or its commands say.
#[test]
fn a_key_is_in_no_output_of_a_run() {
    let mut lab = Lab::start(Config {
        tarpit: false,
        ..Config::default()
    })
    .unwrap();
    let keys = "/etc/courier/filters/rblfilter.keys";
    fs::write(
        keys,
        format!("[[dnsbl]]\nzone = \"{KEY}.dqs.test\"\nname = \"dqs\"\n"),
    )
    .unwrap();
    fs::set_permissions(keys, fs::Permissions::from_mode(0o600)).unwrap();
    let courier = nix::unistd::User::from_name("courier").unwrap().unwrap();
    chown(keys, Some(courier.uid.as_raw()), None).unwrap();
    let toml = format!(
        "include = \"{keys}\"\nkill = \"pressure\"\n[log]\nlevel = \"debug\"\n[reply]\ntext = \"{{ip}} {{zone}} {{lookup_url}} {{txt}}\"\n{}",
        HEAD.replace("watch = \"off\"\n", "")
    );
    product().start(&lab, &toml).unwrap();
    let refused = lab.send(&message(), ip(LISTED));
    assert_eq!(refused.refused_code(), Some(554), "{refused:?}");
    let mut told = vec![format!("{refused:?}")];
    assert_delivered(&lab, &message(), CLEAN, 1);
    let mut run = |lab: &Lab, words: &[&str]| {
        let output = lab.run(words).unwrap();
        told.push(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned());
    };
    for words in [
        &["rblfilter", "lookup", LISTED, CLEAN][..],
        &["rblfilter", "lookup", "--json", LISTED],
        &["rblfilter", "config", "check"],
        &["rblfilter", "firewall", "show"],
        &["ipset", "list"],
    ] {
        run(&lab, words);
    }
    // And while it fails in each way.
    for error in [[127, 255, 255, 252], [10, 0, 0, 1]] {
        lab.dns_list(&[("127.66.0.0/16".into(), error.into())])
            .unwrap();
        run(&lab, &["rblfilter", "lookup", LISTED]);
        assert_delivered(&lab, &message(), &format!("127.66.7.{}", error[3]), 1);
    }
    lab.dns_start(Dns::Silent).unwrap();
    run(&lab, &["rblfilter", "lookup", LISTED]);
    lab.wait_for_log("degraded,what=dnsbl,zone=dqs", Duration::from_secs(30))
        .unwrap();
    product().filterctl_stop(&lab).unwrap();
    told.extend(lab.log_matching(""));
    told.push(fs::read_to_string("/var/log/mail.log").unwrap_or_default());
    let cache = fs::read("/var/lib/courier/rblfilter/dnsbl-cache").unwrap();
    told.push(String::from_utf8_lossy(&cache).into_owned());
    assert!(told.iter().any(|text| text.contains("zone=dqs")));
    for text in &told {
        assert!(!text.to_lowercase().contains(KEY), "{text}");
    }
}
