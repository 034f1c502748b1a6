//! What the running filter knows of a client, as the worker says it over the
//! control socket, and what its file tells where it does not run. Times are in
//! seconds; no key of a list is in it.

use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::control::Entry;

/// What the running filter knows of a client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Known {
    /// The client.
    pub client: IpAddr,
    /// What would be banned with it: an IPv6 client's network.
    pub network: IpNetwork,
    /// `enforce` or `observe`.
    pub mode: String,
    /// Whether nobody is shut out: `ban.backend` is `dry-run`.
    pub dry_run: bool,
    /// What also stands in its file.
    pub held: Held,
    /// How long a ban would last that a verdict brought now.
    pub next: u32,
    /// `own-address` or `allowlisted`: it is never judged.
    pub protection: Option<String>,
    /// It is refused, but never ended or banned: `never-ban`.
    pub never_ban: bool,
    /// What the lists said of it, as far as that is kept.
    pub said: Vec<Recalled>,
    /// What that adds up to; `None`: nothing is kept.
    pub score: Option<f64>,
    /// What follows of it alone: `pass`, `reject` or `ban`.
    pub sentence: Option<String>,
    /// Its sessions that are open now.
    pub sessions: Vec<OpenSession>,
}

/// What outlives a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Held {
    /// The bans that keep it out.
    pub bans: Vec<Entry>,
    /// By what it is let in by hand.
    pub allowed: Vec<Entry>,
    /// The bans that it had, where they still count.
    pub former: Option<Former>,
    /// How long ago the last message of it was accepted; known for a day.
    pub delivered: Option<u32>,
}

/// Bans that are over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Former {
    /// How many.
    pub count: u16,
    /// When the last one ended, in seconds since 1970.
    pub ended: u32,
}

/// A list's answer that is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Recalled {
    /// The list's name.
    pub name: String,
    /// Whether it names the client.
    pub listed: bool,
    /// The address that it answered.
    pub code: Option<Ipv4Addr>,
    /// What that is worth.
    pub score: f64,
    /// How long ago it was asked.
    pub age: u32,
    /// For how long that holds; 0: no longer.
    pub left: u32,
    /// Whether it counts: the list is believed.
    pub believed: bool,
    /// Where a person can look the client up; may hold `{ip}`.
    pub lookup_url: String,
}

/// A session that is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct OpenSession {
    /// The client's port.
    pub port: u16,
    /// Ours.
    pub local_port: u16,
    /// How long it has been followed.
    pub age: u64,
    /// A message of it has reached the filter.
    pub at_filter: bool,
    /// It is being ended.
    pub ending: bool,
    /// `RELAYCLIENT` is set: it is trusted.
    pub relay_client: bool,
    /// It comes through a proxy.
    pub proxied: bool,
    /// Courier's own lists that name it.
    pub courier: Vec<String>,
}
