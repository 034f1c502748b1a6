//! What `rblfilter status` tells, as the worker says it over the control socket.
//! Durations are in seconds.

use rblfilter_warden::layers::Layers;
use serde::{Deserialize, Serialize};

/// What becomes of bans that were made before `observe`, and what ends them.
pub const STANDING: &str =
    "made before observe, and shut out until they end (rblfilter firewall remove ends them now)";

/// How the running filter is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// The program's version.
    pub version: String,
    /// `enforce` or `observe`.
    pub mode: String,
    /// The worker's process.
    pub pid: u32,
    /// How long the worker has been running.
    pub uptime: u64,
    /// By what sessions are seen: `events`, `poll`, `off`, or `starting`.
    pub watch: String,
    /// The sessions that are followed now.
    pub sessions: usize,
    /// Each couriertcpd, and how many of its connection slots are in use.
    pub listeners: Vec<Listener>,
    /// The bans that run now, and the networks that are let in by hand.
    pub bans: usize,
    /// In `observe`, the bans from before it that the kernel may still hold.
    #[serde(default)]
    pub standing: usize,
    /// Whether nobody is shut out: `ban.backend` is `dry-run`.
    #[serde(default)]
    pub dry_run: bool,
    /// The networks that are let in by hand.
    pub allowed: usize,
    /// What was counted since the worker's start.
    pub counted: Counted,
    /// The lists' answers that are kept.
    pub cache: Cache,
    /// The DNS lists.
    pub lists: Vec<List>,
    /// What does not work.
    pub degraded: Vec<Degraded>,
    /// What the processes are bound by.
    pub sandbox: Sandbox,
}

/// A couriertcpd.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Listener {
    /// Its pid file's name without its end, `esmtpd`; else its number.
    pub name: String,
    /// Its process.
    pub pid: i32,
    /// Slots in use.
    pub used: usize,
    /// Slots that there are, where it says.
    pub slots: Option<usize>,
}

/// What was counted since the worker's start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Counted {
    /// Sessions that were seen when they connected.
    pub sessions: u64,
    /// Messages that reached the filter socket.
    pub messages: u64,
    /// Sentences against a listed client.
    pub listed: u64,
    /// Bans that were set.
    pub bans: u64,
    /// Sessions that the slot guard ended.
    pub shed: u64,
    /// Lists' answers from the cache.
    pub hits: u64,
    /// Lists' answers that had to be asked for.
    pub misses: u64,
    /// Of those, how many no list gave.
    pub unknown: u64,
}

/// The lists' answers that are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Cache {
    /// How many there are.
    pub entries: usize,
    /// How many there can be.
    pub most: usize,
}

/// A DNS list, for one family of clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct List {
    /// How it is shown: no key is in it.
    pub name: String,
    /// Whether it speaks for clients.
    pub allows: bool,
    /// `ipv4` or `ipv6`: the clients that it is asked for.
    pub family: String,
    /// Whether it is believed.
    pub health: Health,
    /// How long ago it passed its last test.
    pub passed: Option<u64>,
}

/// Whether a list is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// It is.
    Believed,
    /// It is, but it was silent, and nobody waits for it.
    Silent,
    /// It is being tested.
    Testing,
    /// It is not.
    Down,
}

/// A part that does not work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Degraded {
    /// Which, as the log names it: `dnsbl`, `warden`, ….
    pub what: String,
    /// Which of several.
    pub name: String,
    /// Since when.
    pub age: u64,
    /// Why.
    pub reason: String,
    /// What to do about it.
    pub advice: String,
}

/// What the processes are bound by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Sandbox {
    /// The worker.
    pub worker: Walls,
    /// The warden, where one has answered.
    pub warden: Option<Walls>,
}

/// The layers of one process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Walls {
    /// It holds no capability but what it is for.
    pub capabilities: bool,
    /// No exec gives it privileges.
    pub no_new_privs: bool,
    /// Its system calls are filtered.
    pub seccomp: bool,
    /// The version of Landlock that binds it; 0: none.
    pub landlock: u8,
}

impl From<Layers> for Walls {
    fn from(layers: Layers) -> Self {
        Self {
            capabilities: layers.capabilities,
            no_new_privs: layers.no_new_privs,
            seccomp: layers.seccomp,
            landlock: layers.landlock,
        }
    }
}
