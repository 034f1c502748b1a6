//! What `rblfilter status` tells, as the worker says it over the control socket,
//! and `--json` prints it; docs/status.md has the names. Durations are in
//! seconds, but for those whose names end in `-us`: microseconds.

use rblfilter_warden::layers::Layers;
use rblfilter_warden::question::Count;
use serde::{Deserialize, Serialize};

use crate::dnsbl::Saying;
use crate::latency::Spread;
use crate::{gate, metrics};

/// What becomes of bans that were made before `observe`, and what ends them.
pub const STANDING: &str =
    "made before observe, and shut out until they end (rblfilter unban --all ends them now)";

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
    /// What becomes of first packets.
    #[serde(default)]
    pub gate: Gate,
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
    /// What of it in the last minute.
    #[serde(default)]
    pub minute: Counted,
    /// The lists' answers that are kept.
    pub cache: Cache,
    /// The DNS lists.
    pub lists: Vec<List>,
    /// What each of them says.
    #[serde(default)]
    pub zones: Vec<Zone>,
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
    /// Slots in use, a second each, the oldest first; of ten minutes at most.
    #[serde(default)]
    pub each_second: Vec<u32>,
}

/// The gate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Gate {
    /// `off`: there is none; `on`; `down`: it is wanted, and does not run.
    pub state: String,
    /// Whether it drops packets, or (in `observe`) tells what it would drop.
    pub drops: bool,
}

/// What was counted, since the worker's start or in the last minute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
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
    /// First packets, as the gate's questions were judged.
    pub at_gate: Sentences,
    /// Sessions, when they connected.
    pub at_connect: Sentences,
    /// Messages, at the end of data.
    pub at_message: Sentences,
    /// Sessions that were ended, by what for.
    pub ended: Ended,
    /// What the gate did with packets.
    pub packets: Packets,
    /// From the sight of a session to its sentence.
    pub to_sentence: Took,
    /// How long messages waited for their answer at the filter socket.
    pub waited: Took,
}

/// What was decided, in `observe` too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Sentences {
    /// The lists do not matter: an own address, an allowlisted network, a client
    /// that logged in, ….
    pub exempt: u64,
    /// The lists have nothing against the client, or not enough.
    pub pass: u64,
    /// It is to be refused with a text.
    pub reject: u64,
    /// It is to be ended, and banned.
    pub ban: u64,
}

/// Sessions that were ended, by what for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Ended {
    /// Lists named the client when it connected.
    pub connect: u64,
    /// A message of it was refused.
    pub message: u64,
    /// The client was silent while slots were short.
    pub silence: u64,
    /// The admin did.
    pub hand: u64,
}

/// What the gate did with packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Packets {
    /// Let in by a verdict.
    pub passed: u64,
    /// Dropped.
    pub dropped: u64,
    /// Let in without a verdict: the lists could not be asked, or not in time, or
    /// there were too many.
    pub undecided: u64,
}

/// How long something takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Took {
    /// How often it was measured.
    pub count: u64,
    /// The median, in microseconds; none where nothing was measured.
    pub median_us: Option<u64>,
    /// What 99 of 100 take at most, in microseconds.
    pub p99_us: Option<u64>,
}

/// A DNS list, and what it says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Zone {
    /// How it is shown: no key is in it.
    pub name: String,
    /// Whether it speaks for clients.
    pub allows: bool,
    /// Since the worker's start.
    pub counted: Said,
    /// In the last minute.
    pub minute: Said,
}

/// What a list said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Said {
    /// Questions that were sent to it.
    pub asked: u64,
    /// Answers from the cache.
    pub hits: u64,
    /// Answers that say whether it names the client, from the cache too.
    pub answers: u64,
    /// Of those, the ones that name the client.
    pub listed: u64,
    /// Questions that were not answered in time.
    pub timeouts: u64,
    /// Answers that are errors.
    pub errors: u64,
    /// How long it took to answer.
    pub took: Took,
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

impl Counted {
    /// What came after `earlier`, a look at the same counters; how long things
    /// took is not told.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let (mut since, mut earlier) = (self.clone(), earlier.clone());
        for (count, before) in since.numbers().into_iter().zip(earlier.numbers()) {
            *count = count.saturating_sub(*before);
        }
        since
    }

    fn numbers(&mut self) -> [&mut u64; 27] {
        let [gate, connect, message] = [
            &mut self.at_gate,
            &mut self.at_connect,
            &mut self.at_message,
        ];
        let (ended, packets) = (&mut self.ended, &mut self.packets);
        [
            &mut self.sessions,
            &mut self.messages,
            &mut self.listed,
            &mut self.bans,
            &mut self.shed,
            &mut self.hits,
            &mut self.misses,
            &mut self.unknown,
            &mut gate.exempt,
            &mut gate.pass,
            &mut gate.reject,
            &mut gate.ban,
            &mut connect.exempt,
            &mut connect.pass,
            &mut connect.reject,
            &mut connect.ban,
            &mut message.exempt,
            &mut message.pass,
            &mut message.reject,
            &mut message.ban,
            &mut ended.connect,
            &mut ended.message,
            &mut ended.silence,
            &mut ended.hand,
            &mut packets.passed,
            &mut packets.dropped,
            &mut packets.undecided,
        ]
    }
}

impl From<&metrics::Sentences> for Sentences {
    fn from(counters: &metrics::Sentences) -> Self {
        Self {
            exempt: counters.exempt.get(),
            pass: counters.pass.get(),
            reject: counters.reject.get(),
            ban: counters.ban.get(),
        }
    }
}

impl From<&metrics::Ended> for Ended {
    fn from(counters: &metrics::Ended) -> Self {
        Self {
            connect: counters.connect.get(),
            message: counters.message.get(),
            silence: counters.silence.get(),
            hand: counters.hand.get(),
        }
    }
}

impl From<&gate::Counted> for Packets {
    fn from(counters: &gate::Counted) -> Self {
        let get = |count| counters.of(count).get();
        let undecided = [Count::Unknown, Count::Late, Count::Overflow];
        Self {
            passed: get(Count::Passed),
            dropped: get(Count::Dropped),
            undecided: undecided.into_iter().map(get).sum(),
        }
    }
}

impl From<&Spread> for Took {
    fn from(spread: &Spread) -> Self {
        let at = |share| {
            let micros = spread.quantile(share)?.as_micros();
            Some(u64::try_from(micros).unwrap_or(u64::MAX))
        };
        Self {
            count: spread.count(),
            median_us: at(0.5),
            p99_us: at(0.99),
        }
    }
}

impl From<&Saying> for Said {
    fn from(saying: &Saying) -> Self {
        Self {
            asked: saying.asked,
            hits: saying.hits(),
            answers: saying.answers(),
            listed: saying.listings(),
            timeouts: saying.timeouts,
            errors: saying.errors,
            took: (&saying.latency).into(),
        }
    }
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
