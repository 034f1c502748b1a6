//! What is true of all the admin's commands: version, errors, colours, and what the
//! shells complete.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const PROGRAM: &str = env!("CARGO_BIN_EXE_rblfilter");

fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn completions(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("courierfilter/completions")
        .join(name)
}

/// A folder that is gone afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("rblfilter-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_version_tells_of_the_build_and_of_no_place_or_time() {
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(text(&run(&["-V"]).stdout), format!("rblfilter {version}\n"));
    let long = text(&run(&["--version"]).stdout);
    let lines: Vec<_> = long.lines().collect();
    assert_eq!(lines[0], format!("rblfilter {version}"));
    for (line, start) in lines[1..].iter().zip([
        "commit   ",
        "rustc    rustc 1.",
        "target   ",
        "libipset ",
        "features ",
        "licence  GPL",
    ]) {
        assert!(
            line.starts_with(start) && line.len() > start.len(),
            "{long}"
        );
    }
    assert_eq!(lines.len(), 7, "{long}");
    assert!(!long.contains('/') && long.lines().all(|line| line.len() <= 80));
    let warden = Path::new(PROGRAM).with_file_name("rblfilter-warden");
    let said = Command::new(warden).arg("--version").output().unwrap();
    assert_eq!(text(&said.stdout), format!("rblfilter-warden {version}\n"));
}

#[test]
fn what_is_nearly_a_command_an_option_or_a_key_is_asked_for() {
    for (arguments, meant) in [
        (&["staus"][..], "'status'"),
        (&["firewall", "aply"], "'apply'"),
        (&["report", "--jurnal"], "'--journal'"),
        (&["report", "--csv=wave"], "'waves'"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(64));
        let said = text(&output.stderr);
        assert!(said.contains("similar") && said.contains(meant), "{said}");
    }
    let folder = Folder::new("keys");
    let file = folder.0.join("x.toml");
    fs::write(&file, "[ban]\ntimes = \"1h\"\n").unwrap();
    let output = run(&["config", "check", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(78));
    let said = text(&output.stderr);
    assert!(
        said.contains("line 2: unknown key \"times\", did you mean \"time\"?"),
        "{said}"
    );
}

/// Every value that somebody types behind a command: what is wrong with it, and what
/// is expected instead, in words of ours.
#[test]
fn a_wrong_value_is_told_with_what_is_expected() {
    let durations = ["soon", "5", "1,5h", "", "99999999999999999999h"];
    let seconds = ["x", "0", "1.5", "99999999999999999999"];
    let networks = [
        "x",
        "10.0.0.0/33",
        "10.0.0.1/8",
        "0.0.0.0/0",
        "mail.example.org",
        "",
    ];
    let times = ["yesterday", "2026-13-24", "1,5h"];
    for (words, option, values) in [
        (&["ban", "10.0.0.9", "--for"][..], "--for", &durations[..]),
        (&["unban", "10.0.0.9", "--for"], "--for", &durations),
        (&["allow", "10.0.0.9", "--for"], "--for", &durations),
        (&["report", "--hold"], "--hold", &durations),
        (&["status", "--watch"], "--watch", &seconds),
        (&["ban"], "<ADDRESS|NETWORK>", &networks),
        (&["unban"], "[ADDRESS|NETWORK]", &networks),
        (&["allow"], "<ADDRESS|NETWORK>", &networks),
        (&["forget"], "<ADDRESS|NETWORK>", &networks),
        (
            &["lookup"],
            "",
            &["x", "10.0.0.0/8", "mail.example.org", "[::1"],
        ),
        (&["why"], "", &["x", "10.0.0.0/8", ""]),
        (&["report", "--since"], "", &times),
        (&["report", "--until"], "", &times),
        (&["why", "10.0.0.9", "--since"], "", &times),
    ] {
        for value in values {
            let output = run(&[words, &[value]].concat());
            let said = text(&output.stderr);
            assert_eq!(
                output.status.code(),
                Some(64),
                "{words:?} {value:?}: {said}"
            );
            assert!(
                said.contains(option),
                "no {option}: {words:?} {value:?}: {said}"
            );
            // An empty value is clap's to tell.
            if !said.contains("a value is required") {
                assert!(said.contains("expected"), "{words:?} {value:?}: {said}");
            }
            for noise in [
                "digit",
                "expected number at",
                "parse",
                "literal",
                "overflow",
                "1..=",
            ] {
                assert!(!said.contains(noise), "{noise}: {said}");
            }
            if values == durations && !value.is_empty() {
                assert!(said.contains("days or weeks)"), "{said}");
            }
        }
    }
}

#[test]
fn the_short_help_of_a_command_fits_a_screen_and_begins_with_what_it_is_for() {
    for command in [
        "why", "lookup", "status", "top", "doctor", "list", "ban", "unban", "allow",
    ] {
        let short = text(&run(&[command, "-h"]).stdout);
        let long = text(&run(&[command, "--help"]).stdout);
        let first = short.split("\n\n").next().unwrap();
        assert!(
            long.starts_with(first) && first.lines().count() == 1,
            "{short}"
        );
        assert!(short.lines().count() <= 24, "{short}");
    }
    let why = text(&run(&["why", "--help"]).stdout);
    let begin = why
        .split_whitespace()
        .take(40)
        .collect::<Vec<_>>()
        .join(" ");
    assert!(begin.contains("rblfilter why 203.0.113.9"), "{why}");
}

/// What the program writes to a terminal, with `variables` in its environment.
fn on_terminal(arguments: &str, variables: &[(&str, &str)]) -> String {
    let mut script = Command::new("script");
    script
        .args(["--quiet", "--return", "--command"])
        .arg(format!("{PROGRAM} {arguments}"))
        .arg("/dev/null")
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .env("TERM", "xterm")
        .envs(variables.iter().copied());
    text(&script.output().unwrap().stdout)
}

#[test]
fn only_a_terminal_that_wants_them_is_shown_colours() {
    for arguments in ["--help", "report --help", "no-command"] {
        assert!(
            on_terminal(arguments, &[]).contains("\u{1b}["),
            "{arguments}"
        );
        for variable in [("NO_COLOR", "1"), ("CLICOLOR", "0"), ("TERM", "dumb")] {
            let said = on_terminal(arguments, &[variable]);
            assert!(
                said.contains("Usage") && !said.contains('\u{1b}'),
                "{variable:?}: {said}"
            );
        }
        let words: Vec<_> = arguments.split(' ').collect();
        let output = run(&words);
        assert!(!output.stdout.contains(&0x1b) && !output.stderr.contains(&0x1b));
    }
}

/// What the program would be started with, where somebody at a terminal of `shell`
/// types `line`, the tab key in it.
fn typed(shell: &str, set_up: &str, line: &str) -> String {
    let script = format!(
        "printf '%s\\n%b' \"$1\" \"$2\" | timeout 60 script --quiet --return --command '{shell}' /dev/null"
    );
    // It is not run: a function of its name tells what would be.
    let set_up = format!("{set_up}; rblfilter() {{ echo \"ran:$*.\"; }}");
    let output = Command::new("sh")
        .args(["-c", &script, "sh", &set_up, &format!("{line}\\nexit\\n")])
        .env("TERM", "xterm")
        .output()
        .unwrap();
    let said = text(&output.stdout);
    // The first is the function's own text.
    let ran = said
        .rsplit_once("ran:")
        .and_then(|(_, ran)| ran.split_once('.'));
    ran.map_or_else(|| panic!("{shell}: {said}"), |(ran, _)| ran.to_owned())
}

#[test]
fn bash_and_zsh_complete_commands_and_options() {
    let folder = Folder::new("shells");
    let bash = format!(
        "source {}; complete -p rblfilter",
        completions("rblfilter.bash").display()
    );
    let zsh = format!(
        "fpath=({} $fpath); autoload -U compinit; compinit -u -d {}/dump",
        completions("").display(),
        folder.0.display()
    );
    for (shell, set_up) in [("bash --norc -i", bash), ("zsh -f -i", zsh)] {
        for (line, meant) in [
            ("rblfilter firew\\tap\\t", "firewall apply"),
            ("rblfilter report --anon\\t", "report --anonymise"),
        ] {
            assert_eq!(typed(shell, &set_up, line).trim(), meant, "{shell}");
        }
    }
}

#[test]
fn fish_completes_commands_and_options() {
    let folder = Folder::new("fish");
    let complete = |line: &str| {
        let script = format!(
            "set -e fish_complete_path; source {}; complete --do-complete '{line}'",
            completions("rblfilter.fish").display()
        );
        let output = Command::new("fish")
            .args(["--no-config", "--command", &script])
            .env("HOME", &folder.0)
            .output()
            .expect("fish");
        assert!(output.status.success(), "{output:?}");
        text(&output.stdout)
    };
    assert!(complete("rblfilter report --anon").starts_with("--anonymise"));
    let offered = complete("rblfilter firewall ");
    assert!(offered.contains("apply\tCreate the sets"), "{offered}");
}
