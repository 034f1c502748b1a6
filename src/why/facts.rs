//! All that was found out, and what could not be looked at.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;
use serde::Serialize;

use super::known::{Held, Known};
use super::subject::Subject;
use super::trace::Traced;

/// The facts. An `Err` says why something could not be looked at.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Of whom or what.
    pub subject: Subject,
    /// The client: that of a message, where it is known.
    pub client: Option<IpAddr>,
    /// Now, in seconds since 1970.
    pub now: i64,
    /// What the running filter says of the client; `None`: there is none to ask for.
    pub filter: Option<Result<Known, String>>,
    /// What its file says, where it does not run.
    pub file: Option<Result<Held, String>>,
    /// Whether the kernel's set holds the client; `None`: not asked for.
    pub kernel: Option<Result<bool, String>>,
    /// What the configuration says of the client.
    pub configured: Option<Result<Configured, String>>,
    /// The configuration file.
    pub path: PathBuf,
    /// What the log tells.
    pub log: Result<Logs, String>,
    /// What would follow if the client connected now.
    pub forecast: Option<Result<Forecast, String>>,
}

/// What the configuration, and Courier's, say of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Configured {
    /// Whether `mode` is `observe`.
    pub observe: bool,
    /// What of `allow.networks` holds it.
    pub allow: Option<IpNetwork>,
    /// Whether it is one of this host's own addresses.
    pub own: bool,
    /// What of `never-ban.relays` holds it.
    pub relay: Option<IpNetwork>,
    /// What of Courier's smtpaccess gives it RELAYCLIENT, or empties a variable of
    /// its lists.
    pub trusted: Option<IpNetwork>,
}

/// What was found in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Logs {
    /// What was read, by name.
    pub sources: Vec<String>,
    /// Of the message.
    pub message: Option<Traced>,
    /// Of the client.
    pub client: Option<Traced>,
}

/// What the lists say now, and what follows.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Forecast {
    /// `pass`, `reject` or `ban`.
    pub sentence: String,
    /// All points.
    pub score: String,
    /// Why it is not what the points say.
    pub note: Option<String>,
    /// Each list.
    pub lists: Vec<Opinion>,
}

/// What one list says.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Opinion {
    /// Its name.
    pub name: String,
    /// In words: `listed 127.0.0.2, score 10`.
    pub answer: String,
    /// Whether it speaks against the client, and is believed.
    pub against: bool,
    /// Whether it did not say.
    pub unknown: bool,
    /// What its TXT record says.
    pub text: String,
    /// Where a person can look the client up; may hold `{ip}`.
    pub lookup_url: String,
}

impl Facts {
    /// What outlives a restart, whoever told it.
    #[must_use]
    pub fn held(&self) -> Option<&Held> {
        let filter = self.filter.as_ref().and_then(|filter| filter.as_ref().ok());
        let file = || self.file.as_ref().and_then(|file| file.as_ref().ok());
        filter.map(|known| &known.held).or_else(file)
    }

    /// What the running filter knows.
    #[must_use]
    pub fn known(&self) -> Option<&Known> {
        self.filter.as_ref()?.as_ref().ok()
    }

    /// What the log tells of the client.
    #[must_use]
    pub fn traced(&self) -> Option<&Traced> {
        self.log.as_ref().ok()?.client.as_ref()
    }

    /// What the log tells of the message.
    #[must_use]
    pub fn message(&self) -> Option<&Traced> {
        self.log.as_ref().ok()?.message.as_ref()
    }

    /// What the configuration says.
    #[must_use]
    pub fn settings(&self) -> Option<&Configured> {
        self.configured.as_ref()?.as_ref().ok()
    }

    /// What would follow now.
    #[must_use]
    pub fn expected(&self) -> Option<&Forecast> {
        self.forecast.as_ref()?.as_ref().ok()
    }

    /// Whether anything is known of the client or the message.
    #[must_use]
    pub fn is_anything_known(&self) -> bool {
        let held = self.held().is_some_and(|held| *held != Held::default());
        let filter = self.known().is_some_and(|known| {
            known.protection.is_some()
                || known.never_ban
                || !known.said.is_empty()
                || !known.sessions.is_empty()
        });
        let kernel = matches!(self.kernel, Some(Ok(true)));
        let configured = self.settings().is_some_and(|settings| {
            let Configured {
                allow,
                own,
                relay,
                trusted,
                ..
            } = settings;
            *own || allow.or(*relay).or(*trusted).is_some()
        });
        let log = [self.traced(), self.message()];
        let logged = log.iter().flatten().any(|traced| !traced.is_empty());
        held || filter || kernel || configured || logged
    }

    /// What could not be looked at, and why, a sentence each.
    #[must_use]
    pub fn not_looked_at(&self) -> Vec<String> {
        fn error<T>(result: &Option<Result<T, String>>) -> Option<&String> {
            result.as_ref()?.as_ref().err()
        }
        let mut all = Vec::new();
        for (what, error) in [
            ("the running filter", error(&self.filter)),
            ("its file of bans", error(&self.file)),
            ("the kernel's set", error(&self.kernel)),
            ("the configuration", error(&self.configured)),
            ("the log", self.log.as_ref().err()),
            ("the lists", error(&self.forecast)),
        ] {
            if let Some(error) = error {
                all.push(format!("{what}: {error}"));
            }
        }
        all
    }
}
