//! The configuration: file → raw model → checked model.
//!
//! [`read`] either gives a [`Config`] in which everything has been checked, or
//! an [`Error`] that names file, line, key and what was expected; an
//! unreadable file never means defaults. Defaults stand in `file.rs` alone.

mod error;
mod file;
mod model;

use std::fs;
use std::path::Path;

pub use error::{Error, Problem};
pub use model::{Ban, Config, KillPolicy, Mode, Resolver, Watch, WatchBy};

/// Reads and checks the configuration file at `path`.
///
/// # Errors
/// Where the file cannot be read or anything in it is wrong.
pub fn read(path: &Path) -> Result<Config, Error> {
    let text = fs::read_to_string(path).map_err(|error| Error::Read(path.into(), error))?;
    parse(&text).map_err(|problem| Error::Wrong(path.into(), problem))
}

/// Checks the configuration in `text`.
///
/// # Errors
/// The first thing that is wrong, with its line.
pub fn parse(text: &str) -> Result<Config, Problem> {
    let file: file::File =
        toml::from_str(text).map_err(|error| Problem::from_toml(text, &error))?;
    model::check(text, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = include_str!("../../courierfilter/rblfilter.toml");

    #[test]
    fn the_sample_configuration_is_right() {
        let config = parse(SAMPLE).unwrap();
        assert_eq!(config.mode, Mode::Enforce);
        assert_eq!(config.zones.len(), 1);
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
        let mut known = file::KEYS.map(String::from).to_vec();
        keys.sort();
        keys.dedup();
        known.sort();
        assert_eq!(keys, known);
        let manual = include_str!("../../courierfilter/rblfilter.toml.5");
        for key in known {
            let name = key.rsplit('.').next().unwrap();
            assert!(
                manual.contains(&format!(".B {}\n", name.replace('-', "\\-"))),
                "rblfilter.toml(5) lacks {name}"
            );
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
            ("ports = []", 1, "ports: expected at least one TCP port"),
            (
                "ports = [\"25\"]",
                1,
                "ports: expected a number, 0 to 65535",
            ),
            (
                "\n[ban]\ntime = \"soon\"",
                3,
                "ban.time: \"soon\" is no duration, expected for example \"1h\", \"90s\" or \"1h 30m\"",
            ),
            (
                "[ban]\ntime = \"0s\"",
                2,
                "ban.time: 0s is out of range, expected 1s to 24days 20h 31m 23s",
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
                "dnsbl.zone: \"-\" is no domain name",
            ),
            ("[[dnsbl]]\nname = \"x\"", 1, "missing field `zone`"),
            (
                "[[dnsbl]]\nzone = \"bl.test\"\ncodes = [\"127.0.0.9-127.0.0.2\"]",
                3,
                "dnsbl.codes: \"127.0.0.9-127.0.0.2\" is no range of addresses in 127.0.0.0/8, expected for example \"127.0.0.2\" or \"127.0.0.4-127.0.0.7\"",
            ),
            (
                "[[dnsbl]]\nzone = \"bl.test\"\ncodes = [\"127.255.255.254\"]",
                3,
                "dnsbl.codes: \"127.255.255.254\" reaches into 127.255.255.0/24, which are errors and never listings",
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
                "reply.text: unknown placeholder {url}, expected {ip}, {zone}, {lookup_url} or {contact}",
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
                "block-variables: \"\" is no name of an environment variable",
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
    fn a_key_in_a_zone_is_never_shown() {
        let text = "[[dnsbl]]\nzone = \"abcdefghijklmnopqrstuvwxyz.zen.dq.spamhaus.net\"";
        let config = parse(text).unwrap();
        assert_eq!(config.zones[0].name(), "*.zen.dq.spamhaus.net");
        assert!(!format!("{config:?}").contains("abcdefg"));
        let twice = format!("{text}\n{text}");
        assert!(!parse(&twice).unwrap_err().message.contains("abcdefg"));
    }
}
