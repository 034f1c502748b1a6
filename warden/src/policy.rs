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
/// The longest name the kernel takes for a set: `IPSET_MAXNAMELEN` less its
/// end (include/uapi/linux/netfilter/ipset/ip_set.h).
pub const MAX_SET_NAME: usize = 31;
/// The longest time, in seconds, that an ipset entry can have: `IPSET_MAX_TIMEOUT`
/// (include/linux/netfilter/ipset/ip_set_timeout.h).
pub const MAX_BAN_SECONDS: u32 = (u32::MAX >> 1) / 1000;

/// What the warden may do.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// Whom no set may hold.
    pub allow: Allow,
    /// The sets that are ours.
    pub ban: Sets,
}

/// The `[allow]` table.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Allow {
    /// Networks that are never banned.
    pub networks: Vec<IpNetwork>,
}

/// The names in the `[ban]` table.
#[derive(Debug, Deserialize)]
#[serde(default)]
pub struct Sets {
    /// The set of IPv4 addresses.
    pub set4: String,
    /// The set of IPv6 networks.
    pub set6: String,
}

impl Default for Sets {
    fn default() -> Self {
        Self {
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
                let message = without_keys(error.message());
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
