//! Every command in the documents can be typed as it stands: ours by their own
//! definition of arguments, the others by what they are.
//!
//! A line of a block of code is a command where its first word is a program; each
//! exception stands in [`EXCEPT`] with its reason. In a sentence, what begins with
//! `rblfilter` is one, too.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::Command;

use clap::error::ErrorKind;

/// Lines that look like commands and are none, or are none for this machine: a part
/// of the line, and why. One that is not met any longer is taken out.
const EXCEPT: &[(&str, &str)] = &[
    ("watch (at connect)", "a drawing"),
    ("who is connected", "a drawing"),
    (
        "courierfilter                    runs as courier",
        "a drawing",
    ),
];

/// Programs that a host has, or gets from a package that is named beside them: that
/// there is one of that name is all that is looked at, where this machine has it.
const OTHERS: &[&str] = &[
    "apt",
    "apt-get",
    "awk",
    "cat",
    "chmod",
    "chown",
    "cp",
    "curl",
    "cut",
    "dig",
    "dmesg",
    "dpkg",
    "fail2ban-client",
    "fail2ban-regex",
    "getcap",
    "grep",
    "head",
    "ip",
    "ipset",
    "iptables",
    "less",
    "ln",
    "ls",
    "man",
    "mkdir",
    "mv",
    "nft",
    "promtool",
    "ps",
    "rm",
    "rsyslogd",
    "sed",
    "setcap",
    "sleep",
    "sort",
    "ss",
    "stat",
    "sudoedit",
    "tail",
    "tee",
    "uniq",
    "wc",
    "zcat",
];

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The documents with commands, and their texts.
fn documents() -> Vec<(String, String)> {
    let mut names: Vec<String> = vec!["README.md".into(), "CONTRIBUTING.md".into()];
    for entry in fs::read_dir(top().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".md") {
            names.push(format!("docs/{name}"));
        }
    }
    names.sort();
    let read = |name: String| {
        let text = fs::read_to_string(top().join(&name)).unwrap();
        (name, text)
    };
    names.into_iter().map(read).collect()
}

/// The lines of blocks of code, indented or fenced, with their numbers.
fn code(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let (mut fenced, mut after_space) = (false, true);
    let mut in_block = false;
    for (number, line) in text.lines().enumerate() {
        if line.starts_with("```") {
            fenced = !fenced;
            continue;
        }
        // A block begins after an empty line; else it is a paragraph that goes on.
        in_block = line.starts_with("    ") && (in_block || after_space);
        after_space = line.trim().is_empty();
        if fenced || in_block {
            lines.push((number + 1, line.trim().to_owned()));
        }
        in_block |= after_space && in_block;
    }
    lines
}

/// A line as a shell takes it apart: commands of words, without comments and
/// redirections.
fn commands(line: &str) -> Vec<Vec<String>> {
    let mut all = vec![Vec::new()];
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut redirected = false;
    let end = |word: &mut Option<String>, redirected: &mut bool, all: &mut Vec<Vec<String>>| {
        if let Some(word) = word.take()
            && !std::mem::take(redirected)
        {
            all.last_mut().unwrap().push(word);
        }
    };
    for c in line.chars() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, ' ') => end(&mut word, &mut redirected, &mut all),
            (None, '|' | ';' | '&') => {
                end(&mut word, &mut redirected, &mut all);
                all.push(Vec::new());
            }
            (None, '<' | '>') => {
                end(&mut word, &mut redirected, &mut all);
                redirected = true;
            }
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    end(&mut word, &mut redirected, &mut all);
    for words in &mut all {
        // Who runs it, and with which environment.
        while words.first().is_some_and(|word| {
            let is_variable = word.split_once('=').is_some_and(|(name, _)| {
                !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
            });
            word == "sudo" || is_variable
        }) {
            words.remove(0);
        }
    }
    all.retain(|words| !words.is_empty());
    all
}

fn is_in_path(program: &str) -> bool {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .any(|folder| Path::new(folder).join(program).exists())
}

/// What stands for something of the reader's.
fn filled_in(word: &str) -> String {
    let word = word.trim_matches(['[', ']']);
    match word.trim_end_matches('…') {
        "ADDRESS" | "ADDRESS|NETWORK" | "NETWORK" | "ADDRESS|MESSAGE-ID" => "203.0.113.9".into(),
        "FILE" => "/var/log/mail.log".into(),
        "DURATION" => "1h".into(),
        _ => word.to_owned(),
    }
}

/// Whether `rblfilter` takes these arguments. `named`: it is spoken of, so that
/// what it needs may be missing.
fn ours(words: &[String], named: bool) -> Result<(), String> {
    let words = words.iter().map(|word| filled_in(word));
    match rblfilter::cli::command().try_get_matches_from(words) {
        Ok(_) => Ok(()),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(()),
            ErrorKind::MissingRequiredArgument
            | ErrorKind::MissingSubcommand
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                if named =>
            {
                Ok(())
            }
            _ => Err(error.to_string()),
        },
    }
}

/// Whether install.sh has these options: those of its `case`.
fn installer(words: &[String]) -> Result<(), String> {
    let script = fs::read_to_string(top().join("install.sh")).unwrap();
    let known = |word: &String| {
        word.starts_with("--") && script.contains(&format!("    {word})")) || word == "DIR"
    };
    words[1..]
        .iter()
        .all(known)
        .then_some(())
        .ok_or_else(|| "no such option".into())
}

/// Whether a program with `--help` tells of these options there.
fn by_help(words: &[String]) -> Result<(), String> {
    let help = Command::new(&words[0]).arg("--help").output();
    let Ok(help) = help else {
        // Not on this machine.
        return Ok(());
    };
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    for word in words[1..].iter().filter(|word| word.starts_with('-')) {
        let option = word.split('=').next().unwrap();
        // `--since -7d` is a value.
        let is_value = option[1..].starts_with(|c: char| c.is_ascii_digit());
        if !is_value && !help.contains(option) {
            return Err(format!("its --help has no {option}"));
        }
    }
    Ok(())
}

fn cargo(words: &[String]) -> Result<(), String> {
    let verbs = [
        "bench", "build", "clippy", "deb", "deny", "doc", "fmt", "fuzz", "install", "run", "test",
    ];
    if !verbs.contains(&words[1].as_str()) {
        return Err("no verb of cargo's that is used here".into());
    }
    for pair in words.windows(2) {
        let there = match pair[0].as_str() {
            "--bench" => top().join(format!("benches/{}.rs", pair[1])),
            "--test" => top().join(format!("tests/{}.rs", pair[1])),
            _ => continue,
        };
        if !there.exists() {
            return Err(format!("no {}", there.display()));
        }
    }
    Ok(())
}

/// The lab's command, by its own definition.
fn lab(words: &[String]) -> Result<(), String> {
    let programs = Path::new(env!("CARGO_BIN_EXE_rblfilter")).parent().unwrap();
    let output = Command::new(programs.join("lab"))
        .args(&words[1..])
        .arg("--help")
        .output()
        .map_err(|error| format!("{error} (cargo build --workspace)"))?;
    output
        .status
        .success()
        .then_some(())
        .ok_or_else(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

fn check(words: &[String]) -> Result<(), String> {
    let program = words[0].as_str();
    let arguments: Vec<&str> = words[1..].iter().map(String::as_str).collect();
    match program {
        "rblfilter" => ours(words, false),
        "filterctl" => match arguments[..] {
            ["start" | "stop", "rblfilter"] => Ok(()),
            _ => Err("expected start or stop, and rblfilter".into()),
        },
        "./install.sh" => installer(words),
        "journalctl" | "logrotate" => by_help(words),
        "systemctl" => match arguments[..] {
            ["restart" | "reload" | "status" | "enable", ..] | ["daemon-reload"] => Ok(()),
            _ => Err("no verb of systemctl's that is used here".into()),
        },
        "cargo" => cargo(words),
        "cd" => top()
            .join(arguments[0])
            .is_dir()
            .then_some(())
            .ok_or_else(|| "no such folder".into()),
        "cp" | "install" => {
            // What is of the sources is there.
            let ours = |word: &&&str| word.contains('/') && !word.starts_with('/');
            let missing = arguments
                .iter()
                .filter(ours)
                .find(|word| !top().join(word).exists());
            missing.map_or(Ok(()), |word| Err(format!("no {word}")))
        }
        _ if program.ends_with("/lab") => lab(words),
        _ if program.contains('/') => {
            let there = top().join(program).exists() || Path::new(program).exists();
            there.then_some(()).ok_or_else(|| "no such program".into())
        }
        _ if OTHERS.contains(&program) => Ok(()),
        _ => Err("a program that this test does not know: add it, with how it is checked".into()),
    }
}

#[test]
fn every_command_in_a_block_of_code_can_be_typed() {
    let mut met = vec![false; EXCEPT.len()];
    let (mut checked, mut wrong) = (0, Vec::new());
    for (name, text) in documents() {
        for (number, line) in code(&text) {
            if let Some(except) = EXCEPT.iter().position(|(part, _)| line.contains(part)) {
                met[except] = true;
                continue;
            }
            let first = line.split(' ').next().unwrap_or_default();
            // A setting.
            if line.split(' ').nth(1) == Some("=") {
                continue;
            }
            let looks_like_one = first == "sudo"
                || first == "rblfilter"
                || first == "filterctl"
                || first.ends_with("/lab")
                || first.ends_with("install.sh")
                || first.ends_with("run.sh")
                || first
                    .split_once('=')
                    .is_some_and(|(name, _)| name == "KEEP")
                || first
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
                    && !first.is_empty()
                    && is_in_path(first);
            if !looks_like_one {
                continue;
            }
            for words in commands(&line) {
                checked += 1;
                if let Err(error) = check(&words) {
                    wrong.push(format!("{name}:{number}: {}: {error}", words.join(" ")));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked > 80, "{checked}");
    let unmet = EXCEPT.iter().zip(met).filter(|(_, met)| !met);
    let unmet: Vec<_> = unmet.map(|((part, _), _)| part).collect();
    assert!(unmet.is_empty(), "no longer there: {unmet:?}");
}

#[test]
fn every_command_of_ours_in_a_sentence_is_one() {
    let mut checked = 0;
    for (name, text) in documents() {
        // In pairs: what stands between backticks is every second part.
        for paragraph in text.split("\n\n").filter(|part| !part.starts_with("    ")) {
            for span in paragraph.split('`').skip(1).step_by(2) {
                let span = span.split_whitespace().collect::<Vec<_>>().join(" ");
                let of_ours = span.strip_prefix("sudo ").unwrap_or(&span);
                if !of_ours.starts_with("rblfilter ") {
                    continue;
                }
                for words in commands(&span.replace('|', "\u{1}")) {
                    let words: Vec<String> = words
                        .iter()
                        .map(|word| word.replace('\u{1}', "|"))
                        .collect();
                    checked += 1;
                    if let Err(error) = ours(&words, true) {
                        panic!("{name}: {span}: {error}");
                    }
                }
            }
        }
    }
    assert!(checked > 30, "{checked}");
}

#[test]
fn a_line_is_taken_apart_as_a_shell_does() {
    let words = |line: &str| -> Vec<String> {
        commands(line).iter().map(|words| words.join("·")).collect()
    };
    for (line, expected) in [
        ("sudo rblfilter list   # who", &["rblfilter·list"][..]),
        (
            "zcat a.gz | rblfilter report - >out",
            &["zcat·a.gz", "rblfilter·report·-"],
        ),
        (
            "rblfilter report --since \"2026-11-24 09:00\" <in",
            &["rblfilter·report·--since·2026-11-24 09:00"],
        ),
        (
            "KEEP=/tmp/x fuzz/run.sh; sleep 1",
            &["fuzz/run.sh", "sleep·1"],
        ),
        ("grep 'a|b' x", &["grep·a|b·x"]),
    ] {
        assert_eq!(words(line), expected, "{line}");
    }
    // One that is wrong is found.
    for line in [
        "rblfilter lookup",
        "rblfilter unban 203.0.113.9 --fro 2h",
        "filterctl restart rblfilter",
        "./install.sh --remove",
        "cargo bench --bench nonesuch",
        "mysteriously",
    ] {
        assert!(check(&commands(line)[0]).is_err(), "{line}");
    }
}
