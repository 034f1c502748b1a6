//! Every key, with every kind of wrong value: what its author is told.

use super::{example, parse, tests::known_keys};

/// Words of libraries, which tell an admin nothing.
const NOISE: [&str; 16] = [
    "`",
    "invalid",
    "literal",
    "mantissa",
    "sequence",
    "digit",
    "u8",
    "u16",
    "i64",
    "usize",
    "f64",
    "TOML parse",
    "struct",
    "EOF",
    "unclosed",
    "integer",
];

/// A list that nothing is wrong with, for what stands beside it.
const LIST: &str = "zone = \"bl.test\"\n";

/// `key = value` in its table.
fn file(key: &str, value: &str) -> String {
    match key.split_once('.') {
        None => format!("{key} = {value}\n"),
        Some((table @ ("dnsbl" | "dnswl"), name)) => {
            let zone = if name == "zone" { "" } else { LIST };
            format!("[[{table}]]\n{zone}{name} = {value}\n")
        }
        Some((table, name)) => format!("[{table}]\n{name} = {value}\n"),
    }
}

fn told(text: &str) -> (Option<usize>, String) {
    let problem = parse(text).expect_err(text);
    (problem.line, problem.message)
}

#[test]
fn every_key_has_an_example_that_is_right() {
    for key in known_keys() {
        let example = example::of(&key).unwrap_or_else(|| panic!("{key} has no example"));
        // What is right for itself may want something else beside it.
        let beside = match &*key {
            "gate.enabled" => "[[dnsbl]]\nzone = \"bl.test\"\n",
            _ => "",
        };
        if let Err(problem) = parse(&(file(&key, example) + beside)) {
            let wants_more = ["score.ban-needs", "include"].contains(&&*key);
            assert!(wants_more, "{key} = {example}: {}", problem.message);
        }
    }
    assert_eq!(example::of("dnswl.score"), Some("-5.0"));
    assert_eq!(example::of("dnswl.ipv6"), Some("false"));
    assert_eq!(example::of("no.key"), None);
}

#[test]
fn every_wrong_value_of_every_key_is_told_with_key_line_and_what_is_expected() {
    let mut keys = known_keys();
    for name in [
        "codes",
        "score",
        "ipv4",
        "ipv6",
        "self-test",
        "max-queries-per-day",
    ] {
        keys.push(format!("dnswl.{name}"));
    }
    for key in keys {
        let kind = example::kind(example::of(&key).unwrap());
        let mut wrong = vec![
            "bare",
            "1h",
            "1,5",
            "80%",
            "\"open",
            "'open",
            "[1",
            "[\"a\",,]",
            "",
            "True",
            "yes",
            "+",
            "{",
            "{ x }",
            "1 2",
            "\"a\" \"b\"",
            "1979-05-27",
            "0x",
            "010",
            "\"\\q\"",
            "“a”",
            "{}",
        ];
        match kind {
            "a text in \" \"" => wrong.extend(["1", "true", "[\"x\"]", "1.5"]),
            "true or false" => wrong.extend(["1", "\"true\"", "[true]", "\"yes\""]),
            "a whole number" => {
                wrong.extend([
                    "\"1\"",
                    "true",
                    "[1]",
                    "1.5",
                    "nan",
                    "-1",
                    "99999999999999999999999",
                ]);
            }
            "a number" => wrong.extend(["\"1\"", "true", "[1]", "nan", "inf", "1e300"]),
            "a table in { }" => wrong.extend(["1", "\"1\"", "true"]),
            _ => wrong.extend(["1", "\"1\"", "true", "[true]", "[[1]]"]),
        }
        // Which is a table with all its defaults.
        if kind == "a table in { }" {
            wrong.retain(|value| *value != "{}");
        }
        for value in wrong {
            let text = file(&key, value);
            let expected_line = text.trim_end().matches('\n').count() + 1;
            let (line, message) = told(&text);
            let context = format!("{text}{message}");
            assert!(message.contains(&key), "no key: {context}");
            assert!(message.contains("expected"), "nothing expected: {context}");
            assert_eq!(line, Some(expected_line), "{context}");
            for word in NOISE {
                assert!(!message.contains(word), "{word}: {context}");
            }
        }
    }
}

#[test]
fn every_duration_is_told_with_its_units() {
    for key in known_keys() {
        let example = example::of(&key).unwrap();
        if crate::duration::parse(example.trim_matches('"')).is_err() || !example.starts_with('"') {
            continue;
        }
        for value in [
            "soon",
            "5",
            "1,5h",
            "",
            "5 bananas",
            "99999999999999999999h",
        ] {
            let (_, message) = told(&file(&key, &format!("{value:?}")));
            let expected = crate::duration::EXPECTED;
            let begin = format!("{key}: {value:?} is ");
            assert!(
                message.starts_with(&begin) && message.ends_with(expected),
                "{message}"
            );
        }
        // What humantime takes is taken; it may be out of range.
        for value in ["1day", "1 d", "1.5h", "500ms"] {
            if let Err(problem) = parse(&file(&key, &format!("{value:?}"))) {
                assert!(
                    problem.message.contains("is out of range"),
                    "{}",
                    problem.message
                );
            }
        }
    }
}

#[test]
fn what_is_no_toml_is_told_in_words() {
    for (text, line, expected) in [
        (
            "mode = enforce",
            1,
            "mode: expected a text in \" \", for example mode = \"observe\"",
        ),
        (
            "[guard]\nhigh-water = 80%",
            2,
            "guard.high-water: expected a whole number, for example high-water = 90",
        ),
        (
            "[guard]\nenabled = on",
            2,
            "guard.enabled: expected true or false, for example enabled = false",
        ),
        (
            "score.ban = 1,5",
            1,
            "score.ban: cannot read what stands behind the value, expected a number, for example ban = 8.0",
        ),
        (
            "mode = \"enforce",
            1,
            "mode: a text without its closing quote, expected a text in \" \", for example mode = \"observe\"",
        ),
        (
            "mode \"enforce\"",
            1,
            "mode: expected mode = \"observe\", with a =",
        ),
        (
            "mode: \"enforce\"",
            1,
            "mode: expected mode = \"observe\", with a =",
        ),
        (
            "x\ny",
            1,
            "expected KEY = VALUE, or a table, for example [[dnsbl]]",
        ),
        (
            "[ban",
            1,
            "a table's name without its closing bracket, expected for example [ban] or [[dnsbl]]",
        ),
        (
            "[ban]]",
            1,
            "cannot read the name of a table, expected for example [ban] or [[dnsbl]], alone in its line",
        ),
        (
            "[]",
            1,
            "cannot read the name of a table, expected for example [ban] or [[dnsbl]], alone in its line",
        ),
        (
            "[ban]\n[ban]",
            2,
            "[ban] stands here twice, expected once, with all its keys",
        ),
        (
            "mode = \"enforce\"\nmode = \"observe\"",
            2,
            "mode stands here twice, expected once",
        ),
        (
            "[[ban]]\ntime = \"1h\"",
            1,
            "[[ban]]: expected [ban], which stands once",
        ),
        (
            "[dnsbl]\nzone = \"bl.test\"",
            1,
            "[dnsbl]: expected [[dnsbl]], which stands once for each list",
        ),
        (
            "dnsbl.zone = \"bl.test\"",
            1,
            "dnsbl: expected [[dnsbl]], a table for each list",
        ),
        ("allow = 1", 1, "allow: expected a table, [allow]"),
        (
            "[[dnsbl]]\nname = \"x\"",
            1,
            "dnsbl.zone: missing, expected for example zone = \"zen.spamhaus.org\"",
        ),
        (
            "[allow]\nnetworks = [\n\"10.0.0.0/8\",\n5\n]",
            4,
            "allow.networks: expected a list in [ ] of texts, each in \" \", for example networks = [\"203.0.113.25\", \"2001:db8::/48\"]",
        ),
        (
            "ports = [25, 26\nmode = \"x\"",
            2,
            "mode: a comma or a closing ] is missing, here or in the line before, expected a text in \" \", for example mode = \"observe\"",
        ),
        (
            "zzz = 1",
            1,
            "unknown key \"zzz\", expected one of include, mode, watch, poll-interval, ports, block-variables, exempt-recipients, kill, grace, retention, allow, guard, gate, score, never-ban, ban, firewall, reply, lookup, cache, log, metrics, reload, sandbox, dnsbl, dnswl",
        ),
    ] {
        assert_eq!(told(text), (Some(line), expected.to_owned()), "{text}");
    }
}
