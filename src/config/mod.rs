//! The configuration: file → raw model → checked model.
//!
//! [`read`] either gives a [`Config`] in which everything has been checked, or
//! an [`Error`] that names file, line, key and what was expected; an
//! unreadable file never means defaults. Defaults stand in `file.rs` alone.

mod bans;
mod error;
mod example;
mod file;
mod gate;
mod installed;
mod lists;
mod metrics;
mod model;
mod notes;
mod toml_error;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::dnsbl::{Thresholds, Zone};

pub use bans::{Ban, Firewall, Packet, Rate};
pub use error::{Error, Problem};
pub use gate::Gate;
pub use installed::{check_installed, read_installed};
pub use metrics::{Listen, Metrics};
pub use model::{Config, KillPolicy, MAX_LIMIT, Mode, NeverBan, Resolver, Watch, WatchBy};
pub use notes::{Note, notes};

/// Reads and checks the configuration file at `path`, and the one that it
/// includes.
///
/// # Errors
/// Where a file cannot be read or anything in it is wrong.
pub fn read(path: &Path) -> Result<Config, Error> {
    let text = fs::read_to_string(path).map_err(|error| Error::Read(path.into(), error))?;
    let wrong = |problem| Error::Wrong(path.into(), problem);
    let file = raw(&text).map_err(wrong)?;
    let include_key = &file.include;
    if !include_key.get_ref().is_empty() && !include_key.get_ref().starts_with('/') {
        // The filter runs in a folder of courierfilter's choice.
        let message = format!(
            "include: {:?} is no absolute path, expected for example \"/etc/courier/filters/rblfilter.keys\"",
            include_key.get_ref()
        );
        return Err(wrong(Problem::at(&text, include_key.span(), message)));
    }
    let zones = if file.include.get_ref().is_empty() {
        Vec::new()
    } else {
        let thresholds = model::thresholds(&text, &file.score, file.never_ban.dnswl);
        include(
            Path::new(file.include.get_ref()),
            &thresholds.map_err(wrong)?,
            file.reply.contact.get_ref(),
        )?
    };
    model::check(&text, file, zones).map_err(wrong)
}

/// Checks the configuration in `text`, without what it includes.
///
/// # Errors
/// The first thing that is wrong, with its line.
pub fn parse(text: &str) -> Result<Config, Problem> {
    model::check(text, raw(text)?, Vec::new())
}

/// The file that `path` includes, where it names one and is in order itself.
#[must_use]
pub fn included(path: &Path) -> Option<PathBuf> {
    let file = raw(&fs::read_to_string(path).ok()?).ok()?;
    let name = file.include.into_inner();
    (!name.is_empty()).then(|| name.into())
}

fn raw(text: &str) -> Result<file::File, Problem> {
    toml::from_str(text).map_err(|error| toml_error::problem(text, &error))
}

/// The lists in the included file, whose zones may hold keys.
fn include(path: &Path, thresholds: &Thresholds, contact: &str) -> Result<Vec<Zone>, Error> {
    let failed = |error| Error::Read(path.into(), error);
    if fs::metadata(path).map_err(failed)?.mode() & 0o007 != 0 {
        return Err(Error::Open(path.into()));
    }
    let text = fs::read_to_string(path).map_err(failed)?;
    let wrong = |problem| Error::Wrong(path.into(), problem);
    let file: file::Included =
        toml::from_str(&text).map_err(|error| wrong(toml_error::problem(&text, &error)))?;
    lists::check(&text, file.dnsbl, file.dnswl, thresholds, contact).map_err(wrong)
}

#[cfg(test)]
mod error_tests;

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = include_str!("../../courierfilter/rblfilter.toml");

    #[test]
    fn the_sample_configuration_is_right() {
        let config = parse(SAMPLE).unwrap();
        assert_eq!(config.mode, Mode::Enforce);
        let codes = [
            "127.0.0.2",
            "127.0.0.4",
            "127.0.0.9",
            "127.0.0.3",
            "127.0.0.10",
        ];
        let scores = codes.map(|code| {
            let code = code.parse().unwrap();
            let met = crate::dnsbl::Met::of(&[code], config.zones[0].rules());
            met.score(config.zones[0].rules()).points()
        });
        assert!((scores[0] - 10.0).abs() < 1e-9, "{scores:?}");
        assert_eq!(scores[..3], [scores[0]; 3]);
        assert_eq!(scores[3..], [5.0, 5.0]);
        assert!(config.zones[1].allows());
        assert_eq!(config.zones.len(), 2);
    }

    #[test]
    fn a_network_may_be_written_as_courier_writes_its_clients() {
        let text = "never-ban.relays = [\"::ffff:203.0.113.9\"]\nallow.networks = [\"::ffff:10.0.0.0/104\"]";
        let config = parse(text).unwrap();
        assert_eq!(config.never_ban.relays, ["203.0.113.9/32".parse().unwrap()]);
        assert_eq!(config.allow, ["10.0.0.0/8".parse().unwrap()]);
    }

    /// The sample shows each key with its default: without the tables that
    /// have no default, it is the same as an empty file.
    #[test]
    fn the_sample_configuration_shows_every_key_with_its_default() {
        let lists = SAMPLE.find("[[dnsbl]]").unwrap();
        let scalars = &SAMPLE[..lists];
        assert_eq!(
            format!("{:?}", parse(scalars).unwrap()),
            format!("{:?}", parse("").unwrap())
        );
        let shown: toml::Table = toml::from_str(SAMPLE).unwrap();
        let mut keys: Vec<String> = Vec::new();
        for (key, value) in &shown {
            match value {
                toml::Value::Table(table) => {
                    keys.extend(table.keys().map(|k| format!("{key}.{k}")));
                }
                toml::Value::Array(list) if list.first().is_some_and(toml::Value::is_table) => {
                    keys.extend(
                        list.iter()
                            .filter_map(toml::Value::as_table)
                            .flatten()
                            .map(|(k, _)| format!("{key}.{k}")),
                    );
                }
                _ => keys.push(key.clone()),
            }
        }
        keys.sort();
        keys.dedup();
        assert_eq!(keys, known_keys());
    }

    /// Every key that the model has, as `table.key`. (`[[dnswl]]` has those of
    /// `[[dnsbl]]`, which stand there, but for the two without which it is none.)
    pub(super) fn known_keys() -> Vec<String> {
        // What serde expects in the place of a key that is none.
        let expected = |text: &str| -> Vec<String> {
            let error = toml::from_str::<file::File>(text).err();
            let message = error.map_or_else(String::new, |error| error.message().to_owned());
            let names = message
                .split_once(", expected ")
                .map_or("", |(_, names)| names);
            names
                .split('`')
                .skip(1)
                .step_by(2)
                .map(String::from)
                .collect()
        };
        let mut keys = Vec::new();
        for name in expected("no-key = 1") {
            let within = match &*name {
                "dnsbl" => expected("[[dnsbl]]\nno-key = 1"),
                "dnswl" => vec!["zone".into(), "name".into(), "trust".into()],
                _ => expected(&format!("{name} = {{ no-key = 1 }}")),
            };
            if within.is_empty() {
                keys.push(name.clone());
            }
            keys.extend(within.iter().map(|key| format!("{name}.{key}")));
        }
        keys.sort();
        keys
    }

    #[test]
    fn no_key_of_a_wrong_file_steers_a_terminal() {
        for text in ["\"\\u001b[31m\" = 1", "mode = \"\\u009b31m\""] {
            let problem = parse(text).unwrap_err();
            assert!(!problem.message.chars().any(char::is_control));
            assert!(problem.message.contains("\\u{"), "{}", problem.message);
        }
    }

    #[test]
    fn a_list_has_so_many_rules() {
        let rules = |count: usize| {
            let rule = |n: usize| format!("{{ codes = [\"127.0.0.{}\"], score = {n}.0 }}", n + 1);
            let rules: Vec<String> = (1..=count).map(rule).collect();
            format!(
                "[[dnsbl]]\nzone = \"bl.test\"\ncodes = [{}]",
                rules.join(", ")
            )
        };
        assert!(parse(&rules(32)).is_ok());
        let problem = parse(&rules(33)).unwrap_err();
        assert_eq!(problem.message, "dnsbl.codes: expected at most 32 rules");
    }

    /// `retention` is above all that says how long something is kept.
    #[test]
    fn nothing_is_kept_for_longer_than_retention() {
        let day = 86_400;
        for (text, window, answers) in [
            ("", 7 * day, 12 * 3600),
            ("retention = \"3d\"", 3 * day, 12 * 3600),
            ("ban.window = \"90d\"", 30 * day, 12 * 3600),
            (
                "retention = \"1d\"\n[cache]\nmax-ttl = \"5d\"\nstale = \"5d\"",
                day,
                day,
            ),
            (
                "retention = \"2d\"\n[cache]\nmax-ttl = \"1d\"\nstale = \"5d\"",
                2 * day,
                2 * day,
            ),
            (
                "retention = \"2d\"\ncache.min-ttl = \"5d\"\ncache.max-ttl = \"5d\"\ncache.max-negative-ttl = \"5d\"",
                2 * day,
                2 * day,
            ),
        ] {
            let config = parse(text).unwrap();
            assert_eq!(config.ban.durations.window, window, "{text}");
            let cache = config.cache;
            let longest = cache.max_ttl.max(cache.max_negative_ttl) + cache.stale;
            assert_eq!(longest.as_secs(), u64::from(answers), "{text}");
            assert!(cache.min_ttl <= cache.max_ttl.min(cache.max_negative_ttl));
        }
    }

    #[test]
    fn problems_name_line_key_and_what_was_expected() {
        for (text, line, expected) in [
            (
                "mode = \"enforce\"\nmod = 1",
                2,
                "unknown key \"mod\", did you mean \"mode\"?",
            ),
            (
                "mode = \"on\"",
                1,
                "mode: unknown value \"on\", expected \"enforce\" or \"observe\"",
            ),
            (
                "ports = [25, 0]",
                1,
                "ports: 0 is no TCP port, expected 1 to 65535",
            ),
            (
                "retention = \"1h\"",
                1,
                "retention: 1h is out of range, expected 1day to 1year",
            ),
            (
                "ports = []",
                1,
                "ports: expected at least one TCP port, for example [25]",
            ),
            (
                "[gate]\nlimit = \"1s\"",
                2,
                "gate.limit: 1s is out of range, expected 50ms to 900ms",
            ),
            (
                "kill = \"pressure\"\n[gate]\nenabled = true\n[[dnsbl]]\nzone = \"bl.test\"",
                3,
                "gate.enabled: with kill = \"pressure\" listed clients are to read their 554, which at the gate they cannot; expected kill = \"always\"",
            ),
            (
                "[gate]\nenabled = true\n[[dnswl]]\nzone = \"wl.test\"",
                2,
                "gate.enabled: the gate asks the lists of [[dnsbl]], and there are none",
            ),
            (
                "[ban]\nset4 = \"rblfilter-deny4\"",
                2,
                "ban.set4: \"rblfilter-deny4\" is a name of the gate's sets (rblfilter-deny...), expected another",
            ),
            (
                "ports = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]",
                1,
                "ports: expected at most 15 TCP ports",
            ),
            (
                "[log]\nlines-per-second = 0",
                2,
                "log.lines-per-second: 0 is out of range, expected 1 to 100000",
            ),
            (
                "ports = [\"25\"]",
                1,
                "ports: expected a list in [ ] of whole numbers, for example ports = [25, 2525]",
            ),
            (
                "\n[ban]\ntime = \"soon\"",
                3,
                "ban.time: \"soon\" is no duration, expected numbers with units (ms, s, m, h, days or weeks), for example \"90s\", \"1h 30m\" or \"7days\"",
            ),
            (
                "[ban]\ntime = \"0s\"",
                2,
                "ban.time: 0s is out of range, expected 1s to 24days 20h 31m 23s",
            ),
            (
                "[ban]\ntime = \"2h\"\nmax-time = \"1h\"",
                3,
                "ban.max-time: 1h is out of range, expected 2h to 24days 20h 31m 23s",
            ),
            (
                "[ban]\nfactor = 0.5",
                2,
                "ban.factor: 0.5 is out of range, expected 1 to 1000",
            ),
            (
                "[ban]\nlook-again = \"0s\"",
                2,
                "ban.look-again: 0s is out of range, expected 1s to 7days",
            ),
            (
                "[guard]\nhigh-water = 95",
                2,
                "guard.high-water: 95 is out of range, expected 20 to 94 (percent)",
            ),
            (
                "[guard]\nlow-water = 80",
                2,
                "guard.low-water: 80 is out of range, expected 10 to 79 (percent, below guard.high-water)",
            ),
            (
                "[ban]\nset4 = \"a b\"",
                2,
                "ban.set4: \"a b\" is no name of a set, expected 1 to 31 letters, digits, '-', '_' or '.'",
            ),
            (
                "[ban]\nset4 = \"x\"\nset6 = \"x\"",
                3,
                "ban.set6: \"x\" is the name of the IPv4 set already, expected another",
            ),
            (
                "[ban]\nprefix6 = 32",
                2,
                "ban.prefix6: 32 is out of range, expected 48 to 128",
            ),
            (
                "[allow]\nnetworks = [\n\"10.0.0.0/8\",\n\"10.0.0.1/8\"]",
                4,
                "allow.networks: \"10.0.0.1/8\" has host bits set, expected \"10.0.0.0/8\"",
            ),
            (
                "[allow]\nnetworks = [\"ten\"]",
                2,
                "allow.networks: \"ten\" is no network, expected for example \"10.0.0.0/8\" or \"2001:db8::1\"",
            ),
            (
                "[[dnsbl]]\nzone = \"-\"",
                2,
                "dnsbl.zone: \"-\" is no domain name, expected for example \"zen.spamhaus.org\"",
            ),
            (
                "[[dnsbl]]\nzone = \"bl.test\"\nscore = 0",
                3,
                "dnsbl.score: no answer of the list is worth anything, expected more than 0 (or remove the list)",
            ),
            (
                "[[dnsbl]]\nzone = \"bl.test\"\nipv4 = false\nipv6 = false",
                2,
                "dnsbl: bl.test is asked for nobody with ipv4 = false and ipv6 = false (remove the list)",
            ),
            (
                "[[dnsbl]]\nzone = \"bl.test\"\ncodes = [\"127.0.0.9-127.0.0.2\"]",
                3,
                "dnsbl.codes: \"127.0.0.9-127.0.0.2\" is no range of addresses in 127.0.0.0/8, expected for example \"127.0.0.2\" or \"127.0.0.4-127.0.0.7\"",
            ),
            (
                "[[dnsbl]]\nzone = \"bl.test\"\ncodes = [\"127.255.255.254\"]",
                3,
                "dnsbl.codes: \"127.255.255.254\" reaches into 127.255.255.0/24, which are errors and never listings, expected for example \"127.0.0.2\"",
            ),
            (
                "[[dnsbl]]\nzone = \"bl.test\"\n[[dnsbl]]\nzone = \"BL.test.\"",
                4,
                "dnsbl.zone: \"BL.test.\" stands here twice",
            ),
            (
                "[lookup]\nnameservers = [\"localhost\"]",
                2,
                "lookup.nameservers: \"localhost\" is no address, expected for example \"127.0.0.1\" or \"[::1]:5353\"",
            ),
            (
                "[reply]\ntext = \"see {url}\"",
                2,
                "reply.text: unknown placeholder {url}, expected {ip}, {zone}, {lookup_url}, {txt} or {contact}",
            ),
            (
                "[reply]\ntext = \"a\\nb\"",
                2,
                "reply.text: expected 1 to 400 printable ASCII characters (RFC 5321 §4.5.3.1.5)",
            ),
            (
                "[[dnsbl]]\nzone = \"bl.test\"\nname = \"a,b\"",
                3,
                "dnsbl.name: expected 1 to 64 printable ASCII characters without space, comma or bracket",
            ),
            (
                "block-variables = [\"\"]",
                1,
                "block-variables: \"\" is no name of an environment variable, expected for example \"BLOCK\"",
            ),
            (
                "block-variables = \"BLOCK\"",
                1,
                "block-variables: expected a list of names, [\"BLOCK\"], or a table of scores, { BLOCK = 10, BLOCK2 = 5 }",
            ),
            (
                "block-variables = { BLOCK = -1 }",
                1,
                "block-variables: BLOCK: expected a number, 0 to 100000, for example { BLOCK = 10 }",
            ),
            (
                "[score]\nreject = 11",
                2,
                "score.ban: 10 is less than score.reject, expected 11 or more",
            ),
            (
                "[score]\nban = \"x\"",
                2,
                "score.ban: expected a number, for example ban = 8.0",
            ),
            (
                "[score]\nban-needs = 3\n[[dnsbl]]\nzone = \"bl.test\"",
                2,
                "score.ban-needs: 3 lists must agree, but there are 2 (couriertcpd's are one): nobody would ever be banned",
            ),
            (
                "[[dnsbl]]\nzone = \"bl.test\"\ncodes = [{ codes = \"127.0.0.2\" }]",
                3,
                "dnsbl.codes: expected { codes = \"127.0.0.2\", score = 2.0 }",
            ),
            (
                "[[dnsbl]]\nzone = \"bl.test\"\nscore = -1",
                3,
                "dnsbl.score: expected 0 or more (what speaks for a client is a [[dnswl]])",
            ),
            (
                "[[dnswl]]\nzone = \"wl.test\"\ntrust = { high = 1 }",
                3,
                "dnswl: expected scores of 0 or less (what speaks against a client is a [[dnsbl]])",
            ),
            (
                "[[dnsbl]]\nzone = \"bl.test\"\n[[dnswl]]\nzone = \"bl.test\"",
                4,
                "dnswl.zone: \"bl.test\" stands here twice",
            ),
            (
                "[never-ban]\nspf = [\"x\"]",
                2,
                "never-ban.spf: \"x\" is no domain name, expected for example \"example.org\"",
            ),
            (
                "[cache]\nmax-ttl = \"1s\"",
                2,
                "cache.max-ttl: 1s is out of range, expected 1m to 7days",
            ),
            (
                "[sandbox]\nlandlock = \"on\"",
                2,
                "sandbox.landlock: unknown value \"on\", expected \"auto\" or \"off\"",
            ),
            (
                "[log]\nlevel = \"all\"",
                2,
                "log.level: unknown value \"all\", expected \"error\", \"warn\", \"info\" or \"debug\"",
            ),
        ] {
            let problem = parse(text).unwrap_err();
            assert_eq!(
                (problem.line, problem.message.as_str()),
                (Some(line), expected),
                "{text}"
            );
        }
    }

    #[test]
    fn the_longest_ban_is_never_shorter_than_the_first() {
        for (text, time, most) in [
            ("", 3600, 86_400),
            ("[ban]\ntime = \"48h\"", 172_800, 172_800),
            ("[ban]\ntime = \"1m\"\nmax-time = \"1m\"", 60, 60),
        ] {
            let rule = parse(text).unwrap().ban.durations;
            assert_eq!((rule.time, rule.max_time), (time, most), "{text}");
        }
    }

    #[test]
    fn a_key_in_a_zone_is_never_shown() {
        let text = "[[dnsbl]]\nzone = \"abcdefghijklmnopqrstuvwxyz.zen.dq.spamhaus.net\"";
        let config = parse(text).unwrap();
        assert_eq!(config.zones[0].name(), "*.zen.dq.spamhaus.net");
        assert!(!format!("{config:?}").contains("abcdefg"));
        let twice = format!("{text}\n{text}");
        assert!(!parse(&twice).unwrap_err().message.contains("abcdefg"));
    }

    #[test]
    fn codes_and_scores_of_a_list() {
        let config = parse(
            "[[dnsbl]]\nzone = \"bl.test\"\nscore = 3\ncodes = [\"127.0.0.2\", { codes = \"127.0.0.2-127.0.0.4\", score = 2.5 }]\n\
             [[dnswl]]\nzone = \"wl.test\"\n",
        )
        .unwrap();
        let score = |list: usize, code: &str| {
            let rules = config.zones[list].rules();
            crate::dnsbl::Met::of(&[code.parse().unwrap()], rules)
                .score(rules)
                .points()
        };
        assert_eq!([score(0, "127.0.0.2"), score(0, "127.0.0.3")], [5.5, 2.5]);
        assert_eq!([score(1, "127.0.0.2"), score(1, "127.0.0.1")], [-10.0, 0.0]);
    }

    #[test]
    fn an_included_file_is_merged_and_its_errors_name_it() {
        use std::os::unix::fs::PermissionsExt;
        let folder = std::env::temp_dir().join(format!("rblfilter-include-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (main, keys) = (folder.join("main.toml"), folder.join("keys.toml"));
        let text = format!("include = {keys:?}\n[score]\nban = 7\n[[dnsbl]]\nzone = \"bl.test\"\n");
        fs::write(&main, text).unwrap();
        let key = "abcdefghijklmnopqrstuvwxyz";
        for (text, mode, expected) in [
            (
                format!("[[dnsbl]]\nzone = \"{key}.zen.test\"\n"),
                0o600,
                Ok(2),
            ),
            (
                format!("[[dnsbl]]\nzone = \"{key}.zen.test\"\n"),
                0o644,
                Err("keys.toml: everybody may read it"),
            ),
            (
                format!("\n[[dnsbl]]\nzone = \"{key}..test\"\n"),
                0o600,
                Err("keys.toml: line 3: dnsbl.zone: \"*..test\""),
            ),
            (
                "mode = \"observe\"".into(),
                0o600,
                Err("keys.toml: line 1: unknown key \"mode\""),
            ),
            (
                "[[dnsbl]]\nzone = \"bl.test\"".into(),
                0o640,
                Err("main.toml: line 1: include: bl.test stands in both files"),
            ),
        ] {
            fs::write(&keys, text).unwrap();
            fs::set_permissions(&keys, fs::Permissions::from_mode(mode)).unwrap();
            match (read(&main), expected) {
                (Ok(config), Ok(zones)) => {
                    assert_eq!(config.zones.len(), zones);
                    let rules = config.zones[1].rules();
                    assert_eq!(rules[0].score, config.thresholds.ban, "7, of the main file");
                }
                (Err(error), Err(expected)) => {
                    let error = error.to_string();
                    assert!(error.contains(expected) && !error.contains(key), "{error}");
                }
                (read, _) => panic!("{expected:?}: {read:?}"),
            }
        }
        fs::write(&main, "include = \"keys.toml\"").unwrap();
        let error = read(&main).unwrap_err().to_string();
        assert!(
            error.contains("line 1: include: \"keys.toml\" is no absolute path"),
            "{error}"
        );
        fs::remove_dir_all(&folder).unwrap();
    }
}
