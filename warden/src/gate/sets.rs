//! The gate's sets in the kernel, who is passed and who is denied without a
//! question: filled by a thread of their own, so that no packet waits for them.
//! They only save questions: what cannot be put in is let go.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use rblfilter_warden::bucket::Bucket;
use rblfilter_warden::netfilter::{
    self, FAMILY_INET, FAMILY_NONE, IPSET, IPSET_ATTR_PROTOCOL, IPSET_PROTOCOL, Message, NFTABLES,
    Netfilter,
};
use rblfilter_warden::policy::{Backend, DENY, NFT_TABLE, PASS, Sandbox, gate_set};

use super::pending::Entry;
use crate::ipset::Ipset;
use crate::nftables::Nftables;
use crate::sets::{Change, Kernel, Problem};
use crate::{sandbox, say};

/// Batches that may wait; what comes beyond is let go.
const WAITING: usize = 1024;
/// How long the thread gathers before it writes.
const GATHER: Duration = Duration::from_millis(40);
/// The most that it gathers.
const MOST: usize = 4096;
/// Entries of the deny set in a second. The pass set needs no bound of its own:
/// whom it lets in the watch sees.
const DENIES_PER_SECOND: u32 = 10_000;
/// The longest that anybody is denied without a question: a SYN's sender is
/// not proven.
const LONGEST_DENIAL: u32 = 600;
/// The longest that anybody is passed.
const LONGEST_PASS: u32 = 24 * 3600;
/// How often the same trouble is told.
const SAY_EVERY: Duration = Duration::from_secs(60);
/// `IPSET_CMD_FLUSH`, `IPSET_ATTR_SETNAME`.
const IPSET_FLUSH: u16 = 4;
const IPSET_NAME: u16 = 2;
/// `NFT_MSG_DELSETELEM`; `NFTA_SET_ELEM_LIST_TABLE`, `_SET`.
const NFT_DELETE_ELEMENTS: u16 = 14;
const NFT_ELEMENTS_TABLE: u16 = 1;
const NFT_ELEMENTS_SET: u16 = 2;
/// `NLM_F_ACK`-less deletion needs no flag.
const NO_FLAGS: u16 = 0;

/// What the thread is told.
#[derive(Debug)]
enum Word {
    Put(Vec<Entry>),
    Forget(IpNetwork),
}

/// The way to the thread.
pub struct Sets {
    thread: SyncSender<Word>,
    denies: Bucket,
}

impl Sets {
    /// Starts the thread.
    pub fn start(backend: Backend, walls: Sandbox) -> io::Result<Self> {
        let (thread, words) = sync_channel(WAITING);
        thread::Builder::new().name("sets".into()).spawn(move || {
            // Each thread builds its own.
            sandbox::enter(walls);
            Writer::new(backend).run(&words);
        })?;
        Ok(Self {
            thread,
            denies: Bucket::new(DENIES_PER_SECOND),
        })
    }

    /// Puts these in, or lets them go.
    pub fn put(&mut self, mut entries: Vec<Entry>, now: Instant) {
        entries.retain_mut(|entry| {
            let longest = if entry.denied {
                LONGEST_DENIAL
            } else {
                LONGEST_PASS
            };
            entry.seconds = entry.seconds.min(longest);
            !entry.denied || self.denies.take(now)
        });
        if !entries.is_empty() {
            // Full: they are asked for again.
            let _ = self.thread.try_send(Word::Put(entries));
        }
    }

    /// Lets those in `network` in again. It may wait: it is rare, and must not
    /// be lost.
    pub fn forget(&mut self, network: IpNetwork) {
        if let Err(TrySendError::Full(word)) = self.thread.try_send(Word::Forget(network)) {
            let _ = self.thread.send(word);
        }
    }
}

struct Writer {
    /// The pass sets and the deny sets, of IPv4 and IPv6.
    sets: [[Box<dyn Kernel>; 2]; 2],
    is_ipset: bool,
    said: Option<Instant>,
}

impl Writer {
    fn new(backend: Backend) -> Self {
        let is_ipset = match backend {
            Backend::Ipset | Backend::DryRun => true,
            Backend::Nftables => false,
            // Without the capability neither works.
            Backend::Auto => netfilter::has_ipset().unwrap_or(true),
        };
        let set = |name: &str, ipv6: bool| -> Box<dyn Kernel> {
            let name = gate_set(name, ipv6);
            if is_ipset {
                Box::new(Ipset::new(name, ipv6))
            } else {
                Box::new(Nftables::new(&name, ipv6))
            }
        };
        Self {
            sets: [PASS, DENY].map(|name| [false, true].map(|ipv6| set(name, ipv6))),
            is_ipset,
            said: None,
        }
    }

    fn run(mut self, words: &Receiver<Word>) {
        while let Ok(word) = words.recv() {
            let mut entries = Vec::new();
            let mut word = Some(word);
            if matches!(word, Some(Word::Put(_))) {
                thread::sleep(GATHER);
            }
            while let Some(next) = word {
                match next {
                    Word::Put(more) => entries.extend(more),
                    Word::Forget(network) => {
                        // In their order.
                        self.put(&std::mem::take(&mut entries));
                        self.forget(network);
                    }
                }
                word = if entries.len() < MOST {
                    words.try_recv().ok()
                } else {
                    None
                };
            }
            self.put(&entries);
        }
    }

    fn put(&mut self, entries: &[Entry]) {
        for denied in [false, true] {
            for ipv6 in [false, true] {
                let wanted =
                    |entry: &&Entry| entry.denied == denied && entry.address.is_ipv6() == ipv6;
                let add = |entry: &Entry| Change::Add(entry.address.into(), entry.seconds.max(1));
                let mut changes: Vec<Change> = entries.iter().filter(wanted).map(add).collect();
                // The same twice would keep the whole batch from being done.
                changes.sort_by_key(|change| change.network());
                changes.dedup_by_key(|change| change.network());
                if changes.is_empty() {
                    continue;
                }
                let results = self.sets[usize::from(denied)][usize::from(ipv6)].apply(&changes);
                if let Some(problem) = results.into_iter().find_map(Result::err) {
                    self.say(&problem, &gate_set(if denied { DENY } else { PASS }, ipv6));
                }
            }
        }
    }

    /// One address is taken out; of a network, all of its family are: the sets
    /// only save questions. Who is passed goes too, save where all are meant, of
    /// whom nobody is to be denied any longer.
    fn forget(&mut self, network: IpNetwork) {
        let ipv6 = network.is_ipv6();
        let full = if ipv6 { 128 } else { 32 };
        for (number, name) in [PASS, DENY].into_iter().enumerate() {
            if name == PASS && network.prefix() == 0 {
                continue;
            }
            let name = gate_set(name, ipv6);
            let problem = if network.prefix() == full {
                let set = &mut self.sets[number][usize::from(ipv6)];
                let results = set.apply(&[Change::Remove(network)]);
                results.into_iter().find_map(Result::err)
            } else {
                self.flush(&name).err()
            };
            match problem {
                // Nobody is in it.
                None | Some(Problem::NoSet) => {}
                Some(problem) => self.say(&problem, &name),
            }
        }
    }

    fn flush(&self, set: &str) -> Result<(), Problem> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => Problem::NoSet,
            io::ErrorKind::PermissionDenied => Problem::NotPermitted,
            _ => Problem::Failed(error.to_string()),
        };
        let mut netfilter = Netfilter::open().map_err(failed)?;
        if self.is_ipset {
            let message = Message::new(IPSET, IPSET_FLUSH, FAMILY_NONE, NO_FLAGS)
                .with(IPSET_ATTR_PROTOCOL, &[IPSET_PROTOCOL])
                .with_text(IPSET_NAME, set);
            return netfilter.ask(message).map(drop).map_err(failed);
        }
        let message = Message::new(NFTABLES, NFT_DELETE_ELEMENTS, FAMILY_INET, NO_FLAGS)
            .with_text(NFT_ELEMENTS_TABLE, NFT_TABLE)
            .with_text(NFT_ELEMENTS_SET, set);
        let errors = netfilter.transact(&mut [message]).map_err(failed)?;
        match errors.into_iter().flatten().next() {
            None => Ok(()),
            Some(error) => Err(failed(io::Error::from_raw_os_error(error))),
        }
    }

    fn say(&mut self, problem: &Problem, set: &str) {
        let now = Instant::now();
        if self
            .said
            .is_some_and(|said| now.duration_since(said) < SAY_EVERY)
        {
            return;
        }
        self.said = Some(now);
        let why = match problem {
            Problem::NoSet => "does not exist (create it with: rblfilter firewall apply)".into(),
            Problem::WrongSet => "is not of the type that it must be".into(),
            Problem::NotPermitted => "cannot be changed: operation not permitted".into(),
            Problem::Full => "is full".into(),
            Problem::Failed(text) => format!("cannot be changed: {text}"),
        };
        say::line(format_args!(
            "gate: the set {set} {why}; each new client is asked for"
        ));
    }
}
