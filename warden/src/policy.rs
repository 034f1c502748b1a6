//! The part of `rblfilter.toml` that the warden reads for itself: which sets
//! are ours and whom they may never hold. The filter checks the whole file;
//! the warden takes these keys from the same file, so that nobody between the
//! two can widen what it may do.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{error, fmt};

use ipnetwork::IpNetwork;
use serde::Deserialize;

/// Name of the set of banned IPv4 addresses where the configuration names none.
pub const DEFAULT_SET4: &str = "rblfilter4";
/// Name of the set of banned IPv6 networks where the configuration names none.
pub const DEFAULT_SET6: &str = "rblfilter6";
/// The most entries of a set where the configuration does not say. The
/// kernel's own default, 65,536, is too few for the waves we are made for.
pub const DEFAULT_MAX_ENTRIES: u32 = 1_000_000;
/// The most bans of verdicts in a second where the configuration does not say.
pub const DEFAULT_NEW_PER_SECOND: u32 = 5000;
/// The table of nftables that is ours, in the family inet.
pub const NFT_TABLE: &str = "rblfilter";
/// The chain of our rules in it.
pub const NFT_CHAIN: &str = "input";
/// What the name of the nftables set of networks has more than that of the set
/// of single addresses: intervals cannot overlap there, so each has its own.
pub const NFT_NETWORKS: &str = "-nets";
/// The longest name the kernel takes for a set: `IPSET_MAXNAMELEN` less its
/// end (include/uapi/linux/netfilter/ipset/ip_set.h).
pub const MAX_SET_NAME: usize = 31;
/// The longest time, in seconds, that an ipset entry can have: `IPSET_MAX_TIMEOUT`
/// (include/linux/netfilter/ipset/ip_set_timeout.h).
pub const MAX_BAN_SECONDS: u32 = (u32::MAX >> 1) / 1000;

/// What the names of the gate's sets begin with: who is passed and who is denied
/// without a question, and whom the rule itself lets through.
pub const PASS: &str = "rblfilter-pass";
/// See there.
pub const DENY: &str = "rblfilter-deny";
/// See there.
pub const THROUGH: &str = "rblfilter-through";
/// The longest that the gate holds a packet where the configuration does not
/// say: a client sends its SYN again after one second (RFC 6298 §2).
pub const DEFAULT_GATE_LIMIT: &str = "900ms";
/// The queue of packets where the configuration names none.
pub const DEFAULT_GATE_QUEUE: u16 = 25;
/// The most clients that the gate asks for in a second, where the configuration
/// does not say.
pub const DEFAULT_GATE_ASKS: u32 = 10_000;

/// The name of one of the gate's sets.
#[must_use]
pub fn gate_set(name: &str, ipv6: bool) -> String {
    format!("{name}{}", if ipv6 { 6 } else { 4 })
}

/// The widest networks of verdicts, IPv4's and IPv6's: one address, and what one
/// customer gets.
pub const VERDICT_PREFIX: [u8; 2] = [32, 48];
/// The widest networks of an admin's bans, IPv4's and IPv6's.
pub const BY_HAND_PREFIX: [u8; 2] = [8, 32];
/// What an admin, or his script, asks for in a second, and how many of his bans
/// are put in again; and a worker that was taken over.
pub const BY_HAND_PER_SECOND: u32 = 200;

/// Whether a network is no wider than these, IPv4's and IPv6's.
#[must_use]
pub fn is_narrow(network: IpNetwork, [least4, least6]: [u8; 2]) -> bool {
    network.prefix() >= if network.is_ipv4() { least4 } else { least6 }
}

/// What the warden may do.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Policy {
    /// "observe": nothing is done.
    pub mode: String,
    /// Whom no set may hold.
    pub allow: Allow,
    /// Whom the gate does not keep out either.
    pub never_ban: NeverBan,
    /// The sets that are ours.
    pub ban: Sets,
    /// The gate.
    pub gate: Gate,
    /// Through whom names are looked up.
    pub lookup: Lookup,
    /// What it may not do even where it wanted to.
    pub sandbox: Sandbox,
}

/// The `[sandbox]` table.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Sandbox {
    /// The filter of system calls, of worker and warden.
    pub seccomp: Layer,
    /// The warden's, of files and of what else Landlock knows.
    pub landlock: Layer,
}

/// A layer of the sandbox.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// It is there where the kernel has it.
    #[default]
    Auto,
    /// It is not.
    Off,
}

/// The `[never-ban]` table.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct NeverBan {
    /// Networks that pass on others' mail.
    pub relays: Vec<IpNetwork>,
}

/// The `[gate]` table.
#[derive(Debug, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Gate {
    /// Whether there is one.
    pub enabled: bool,
    /// The longest that a packet is held.
    pub limit: String,
    /// The number of the kernel's queue.
    pub queue: u16,
    /// The most clients that are asked for in a second.
    pub asks_per_second: u32,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            enabled: false,
            limit: DEFAULT_GATE_LIMIT.into(),
            queue: DEFAULT_GATE_QUEUE,
            asks_per_second: DEFAULT_GATE_ASKS,
        }
    }
}

/// What holds the banned networks.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// ipset where the kernel has it, else nftables.
    #[default]
    Auto,
    /// Two sets of ipset(8).
    Ipset,
    /// Sets in a table of our own, nft(8).
    Nftables,
    /// None: all is decided and told, and nobody is kept out.
    #[serde(rename = "dry-run")]
    DryRun,
}

/// What is done when a set is full.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum WhenFull {
    /// The bans that end soonest make room.
    #[default]
    Replace,
    /// The set is enlarged, up to four times; then the former.
    Grow,
}

/// The `[lookup]` table.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Lookup {
    /// Nameservers that are never banned.
    pub nameservers: Vec<String>,
}

/// The `[allow]` table.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Allow {
    /// Networks that are never banned.
    pub networks: Vec<IpNetwork>,
}

/// The sets in the `[ban]` table.
#[derive(Debug, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Sets {
    /// What holds them.
    pub backend: Backend,
    /// The most entries of each.
    pub max_entries: u32,
    /// What is done when one is full.
    pub when_full: WhenFull,
    /// The most bans of verdicts in a second.
    pub new_per_second: u32,
    /// The set of IPv4 addresses.
    pub set4: String,
    /// The set of IPv6 networks.
    pub set6: String,
}

impl Default for Sets {
    fn default() -> Self {
        Self {
            backend: Backend::default(),
            max_entries: DEFAULT_MAX_ENTRIES,
            when_full: WhenFull::default(),
            new_per_second: DEFAULT_NEW_PER_SECOND,
            set4: DEFAULT_SET4.into(),
            set6: DEFAULT_SET6.into(),
        }
    }
}

/// Why there is no policy.
#[derive(Debug)]
pub enum Error {
    /// The file cannot be read.
    Read(PathBuf, io::Error),
    /// Somebody other than root can change the file.
    Writable(PathBuf),
    /// The file is not what it should be.
    Parse(PathBuf, toml::de::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(path, _) => write!(f, "cannot read {}", path.display()),
            Self::Writable(path) => write!(
                f,
                "cannot trust {}: it must belong to root and be writable by root alone (chown root:courier, chmod 0640)",
                path.display()
            ),
            // Not the error's own text: it quotes the line, which may hold a key.
            Self::Parse(path, error) => {
                let message = without_controls(&without_keys(error.message()));
                write!(f, "cannot read {}: {message}", path.display())
            }
        }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Read(_, source) => Some(source),
            Self::Writable(_) | Self::Parse(..) => None,
        }
    }
}

/// The shortest run of letters and digits that is taken for a key; Spamhaus
/// DQS has 26.
pub const KEY_LEN: usize = 20;

/// A text in which each run of letters and digits that may be a key is `*`.
#[must_use]
pub fn without_keys(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for part in text.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let run = part.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        if run.len() >= KEY_LEN {
            shown.push('*');
            shown.push_str(&part[run.len()..]);
        } else {
            shown.push_str(part);
        }
    }
    shown
}

/// A text in which control characters are escaped: a key or value of the file,
/// quoted in an error message, must not steer a terminal.
#[must_use]
pub fn without_controls(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

impl Policy {
    /// Reads the policy from the configuration file at `path`.
    ///
    /// # Errors
    /// Where the file cannot be read, is not TOML, or can be changed by
    /// anybody but root: the filter runs as Courier's user, and must not be
    /// able to rewrite what binds the warden.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let failed = |error| Error::Read(path.into(), error);
        let mut file = File::open(path).map_err(failed)?;
        let meta = file.metadata().map_err(failed)?;
        if meta.uid() != 0 || meta.mode() & 0o022 != 0 {
            return Err(Error::Writable(path.into()));
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(failed)?;
        toml::from_str(&text).map_err(|error| Error::Parse(path.into(), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_shown_nowhere() {
        for (text, shown) in [
            (
                "abcdefghijklmnopqrstuvwxyz.zen.dq.spamhaus.net",
                "*.zen.dq.spamhaus.net",
            ),
            (
                "invalid type: \"abcdefghij0123456789\", expected",
                "invalid type: \"*\", expected",
            ),
            ("zen.spamhaus.org, twice", "zen.spamhaus.org, twice"),
            ("", ""),
        ] {
            assert_eq!(without_keys(text), shown);
        }
    }

    #[test]
    fn no_character_of_a_message_steers_a_terminal() {
        assert_eq!(
            without_controls("key \"\u{1b}[31m\u{9b}é\"\n"),
            "key \"\\u{1b}[31m\\u{9b}é\"\\n"
        );
    }

    #[test]
    fn a_mistake_in_the_file_does_not_show_its_key() {
        let error =
            toml::from_str::<Policy>("allow = \"abcdefghijklmnopqrstuvwxyz.dq\"").unwrap_err();
        let error = Error::Parse("f".into(), error).to_string();
        assert!(
            error.contains("invalid type") && !error.contains("abcdef"),
            "{error}"
        );
    }
}
