//! Two sets of nft(8) for one family, in a table of our own: one of single
//! addresses, which is a hash table, and one of networks, whose intervals
//! cannot overlap. Many changes are one transaction.
//!
//! It speaks netlink itself (include/uapi/linux/netfilter/nf_tables.h): nft(8)
//! would have to be started for each batch, with the capability, and reads a
//! whole set before it changes it.

use std::io;
use std::time::Instant;

use ipnetwork::IpNetwork;
use nix::errno::Errno;
use rblfilter_warden::elements;
use rblfilter_warden::netfilter::{
    self, CREATE, EXCLUSIVE, FAMILY_INET, Message, NFTABLES, Netfilter,
};
use rblfilter_warden::policy::{NFT_CHAIN, NFT_NETWORKS, NFT_TABLE};

use crate::sets::{Applied, Change, Ends, Kernel, Problem, is_single};

/// `NFT_MSG_…`.
const NEW_TABLE: u16 = 0;
const GET_TABLE: u16 = 1;
const GET_RULES: u16 = 7;
const NEW_SET: u16 = 9;
const GET_SET: u16 = 10;
const NEW_ELEMENTS: u16 = 12;
const GET_ELEMENTS: u16 = 13;
const DELETE_ELEMENTS: u16 = 14;
/// `NFTA_TABLE_NAME`; `NFTA_SET_TABLE`, `NFTA_SET_ELEM_LIST_TABLE`.
const TABLE: u16 = 1;
/// `NFTA_TABLE_HANDLE`; `NFTA_RULE_CHAIN`, `_EXPRESSIONS`; `NFTA_EXPR_NAME`,
/// `_DATA`; `NFTA_LOOKUP_SET`.
const TABLE_HANDLE: u16 = 4;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const LOOKUP_SET: u16 = 1;
/// `NFTA_SET_NAME`, `NFTA_SET_ELEM_LIST_SET`.
const SET: u16 = 2;
/// `NFTA_SET_FLAGS`, `_KEY_TYPE`, `_KEY_LEN`, `_ID`, `_TIMEOUT`.
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LENGTH: u16 = 5;
const SET_ID: u16 = 10;
const SET_HANDLE: u16 = 16;
/// `NFTA_SET_ELEM_LIST_ELEMENTS`.
const ELEMENTS: u16 = 3;
/// `NFT_SET_INTERVAL`, `NFT_SET_TIMEOUT`.
const INTERVAL: u32 = 4;
const TIMEOUTS: u32 = 0x10;
/// What nft(8) calls `ipv4_addr` and `ipv6_addr` (nft's `enum datatypes`).
const IPV4_ADDR: u32 = 7;
const IPV6_ADDR: u32 = 8;
/// Changes in one transaction: the errors of all of them must fit into the
/// socket's buffer.
const AT_ONCE: usize = 512;
/// How often a transaction is tried again without what kept it from being done.
const TRIES: usize = 4;

/// The sets of one family.
pub struct Nftables {
    /// Single addresses, and networks.
    names: [String; 2],
    ipv6: bool,
    netfilter: Option<Netfilter>,
    /// The kernel's numbers of the table and the two sets at the last look; it
    /// gives each to one alone.
    handles: Option<[u64; 3]>,
}

impl Nftables {
    /// The sets `name` and its sister, which need not exist.
    pub fn new(name: &str, ipv6: bool) -> Self {
        Self {
            names: [name.to_owned(), format!("{name}{NFT_NETWORKS}")],
            ipv6,
            netfilter: None,
            handles: None,
        }
    }

    fn netfilter(&mut self) -> io::Result<&mut Netfilter> {
        match &mut self.netfilter {
            Some(netfilter) => Ok(netfilter),
            none => Ok(none.insert(Netfilter::open()?)),
        }
    }

    fn flags(networks: bool) -> u32 {
        TIMEOUTS | if networks { INTERVAL } else { 0 }
    }

    fn length(&self) -> u32 {
        if self.ipv6 { 16 } else { 4 }
    }

    fn ask(&mut self, message: Message) -> Result<Vec<Vec<u8>>, Problem> {
        let answers = self.netfilter().and_then(|n| n.ask(message));
        answers.map_err(|error| self.failed(&error))
    }

    /// Whether the set is there and of the kind that we need; its handle.
    fn check(&mut self, networks: bool) -> Result<u64, Problem> {
        let name = self.names[usize::from(networks)].clone();
        let message = Message::new(NFTABLES, GET_SET, FAMILY_INET, 0)
            .with_text(TABLE, NFT_TABLE)
            .with_text(SET, &name);
        let answers = self.ask(message)?;
        let set = answers.first().map_or(&[][..], Vec::as_slice);
        let fits = netfilter::be32(set, SET_FLAGS) == Some(Self::flags(networks))
            && netfilter::be32(set, SET_KEY_LENGTH) == Some(self.length());
        if fits {
            Ok(handle(set, SET_HANDLE))
        } else {
            Err(Problem::WrongSet)
        }
    }

    fn elements(&mut self, networks: bool, now: Instant, ends: &mut Ends) -> Result<(), Problem> {
        let message = Message::new(NFTABLES, GET_ELEMENTS, FAMILY_INET, 0)
            .with_text(TABLE, NFT_TABLE)
            .with_text(SET, &self.names[usize::from(networks)]);
        let take = |marks: &mut Vec<elements::Mark>, answer: &[u8]| {
            let list = netfilter::attribute(answer, ELEMENTS).unwrap_or(&[]);
            marks.extend(elements::marks(list, now));
        };
        let read = self.netfilter().and_then(|n| n.dump(&message, take));
        let marks = read.map_err(|error| self.failed(&error))?;
        if networks {
            ends.extend(elements::intervals(marks, self.ipv6));
        } else {
            ends.extend(elements::addresses(&marks, self.ipv6));
        }
        Ok(())
    }

    fn message(&self, kind: u16, network: IpNetwork, seconds: u32) -> Message {
        let alone = is_single(network);
        let seconds = (kind == NEW_ELEMENTS).then_some(seconds);
        let elements = elements::encode(network, !alone, seconds);
        let flags = if kind == NEW_ELEMENTS {
            CREATE | EXCLUSIVE
        } else {
            0
        };
        Message::new(NFTABLES, kind, FAMILY_INET, flags)
            .with_text(TABLE, NFT_TABLE)
            .with_text(SET, &self.names[usize::from(!alone)])
            .with_nested(ELEMENTS, &elements)
    }

    fn messages(&self, change: Change) -> Vec<Message> {
        match change {
            Change::Add(network, seconds) => vec![self.message(NEW_ELEMENTS, network, seconds)],
            Change::Remove(network) => vec![self.message(DELETE_ELEMENTS, network, 0)],
            Change::Replace(network, seconds) => vec![
                self.message(DELETE_ELEMENTS, network, 0),
                self.message(NEW_ELEMENTS, network, seconds),
            ],
        }
    }

    /// Tries all in one transaction; again without those that are done
    /// already, until nothing is against it.
    fn batch(&mut self, changes: &[Change]) -> Vec<Result<Applied, Problem>> {
        let mut results: Vec<Option<Result<Applied, Problem>>> = vec![None; changes.len()];
        let mut left: Vec<(usize, Change)> = changes.iter().copied().enumerate().collect();
        for _ in 0..TRIES {
            if left.is_empty() {
                break;
            }
            let mut messages = Vec::new();
            let mut of = Vec::new();
            for (place, (_, change)) in left.iter().enumerate() {
                let some = self.messages(*change);
                of.resize(of.len() + some.len(), place);
                messages.extend(some);
            }
            let errors = match self.netfilter().and_then(|n| n.transact(&mut messages)) {
                Ok(errors) => errors,
                Err(error) => {
                    let problem = self.failed(&error);
                    for (at, _) in &left {
                        results[*at] = Some(Err(problem.clone()));
                    }
                    break;
                }
            };
            let mut against = vec![None; left.len()];
            for (place, error) in of.into_iter().zip(errors) {
                // The first: what follows it in a replacement is no news.
                against[place] = against[place].or(error.map(Errno::from_raw));
            }
            if against.iter().all(Option::is_none) {
                for (at, _) in left.drain(..) {
                    results[at] = Some(Ok(Applied::Done));
                }
                break;
            }
            let mut next = Vec::new();
            for ((at, change), error) in left.into_iter().zip(against) {
                match (change, error) {
                    (_, None) => next.push((at, change)),
                    (Change::Add(..), Some(Errno::EEXIST)) => {
                        results[at] = Some(Ok(Applied::Exists));
                    }
                    // It has ended meanwhile, unless the set is gone.
                    (Change::Replace(network, seconds), Some(Errno::ENOENT))
                        if self.check(false).is_ok() =>
                    {
                        next.push((at, Change::Add(network, seconds)));
                    }
                    (Change::Remove(_), Some(Errno::ENOENT)) if self.check(false).is_ok() => {
                        results[at] = Some(Ok(Applied::Missing));
                    }
                    (_, Some(error)) => results[at] = Some(Err(problem(&error.into()))),
                }
            }
            left = next;
        }
        results
            .into_iter()
            .map(|result| {
                let gave_up = || Problem::Failed("nftables: the set changes all the time".into());
                result.unwrap_or_else(|| Err(gave_up()))
            })
            .collect()
    }

    /// A new socket next time: this one may hold an old answer.
    fn failed(&mut self, error: &io::Error) -> Problem {
        self.netfilter = None;
        problem(error)
    }
}

impl Kernel for Nftables {
    fn read(&mut self, now: Instant) -> Result<Ends, Problem> {
        let mut ends = Ends::new();
        for networks in [false, true] {
            self.check(networks)?;
            self.elements(networks, now, &mut ends)?;
        }
        Ok(ends)
    }

    fn create(&mut self, _most: u32) -> Result<(), Problem> {
        let table = Message::new(NFTABLES, NEW_TABLE, FAMILY_INET, CREATE);
        let mut messages = vec![table.with_text(TABLE, NFT_TABLE)];
        let kind = if self.ipv6 { IPV6_ADDR } else { IPV4_ADDR };
        for (id, networks) in [(1, false), (2, true)] {
            let set = Message::new(NFTABLES, NEW_SET, FAMILY_INET, CREATE)
                .with_text(TABLE, NFT_TABLE)
                .with_text(SET, &self.names[usize::from(networks)])
                .with_be32(SET_FLAGS, Self::flags(networks))
                .with_be32(SET_KEY_TYPE, kind)
                .with_be32(SET_KEY_LENGTH, self.length())
                .with_be32(SET_ID, id);
            messages.push(set);
        }
        let errors = self.netfilter().and_then(|n| n.transact(&mut messages));
        let errors = errors.map_err(|error| self.failed(&error))?;
        match errors.into_iter().flatten().next().map(Errno::from_raw) {
            None => {
                self.handles = None;
                Ok(())
            }
            // One of the two is there, and another.
            Some(Errno::EEXIST) => Err(Problem::WrongSet),
            Some(error) => Err(problem(&error.into())),
        }
    }

    fn apply(&mut self, changes: &[Change]) -> Vec<Result<Applied, Problem>> {
        let some = changes.chunks(AT_ONCE);
        some.flat_map(|some| self.batch(some)).collect()
    }

    fn look(&mut self) -> Result<bool, Problem> {
        let message = Message::new(NFTABLES, GET_TABLE, FAMILY_INET, 0).with_text(TABLE, NFT_TABLE);
        let answers = self.ask(message)?;
        let table = answers.first().map_or(&[][..], Vec::as_slice);
        let handles = [
            handle(table, TABLE_HANDLE),
            self.check(false)?,
            self.check(true)?,
        ];
        let last = self.handles.replace(handles);
        Ok(last.is_none_or(|last| last == handles))
    }

    fn holds(&mut self, networks: &[IpNetwork]) -> Result<Vec<bool>, Problem> {
        if networks.is_empty() {
            return Ok(Vec::new());
        }
        let get = |network: &IpNetwork| {
            let elements = elements::encode(*network, false, None);
            Message::new(NFTABLES, GET_ELEMENTS, FAMILY_INET, 0)
                .with_text(TABLE, NFT_TABLE)
                .with_text(SET, &self.names[usize::from(!is_single(*network))])
                .with_nested(ELEMENTS, &elements)
        };
        let mut messages: Vec<Message> = networks.iter().map(get).collect();
        let told = self.netfilter().and_then(|n| n.each(&mut messages));
        let told = told.map_err(|error| self.failed(&error))?;
        told.into_iter()
            .map(|error| match error.map(Errno::from_raw) {
                None => Ok(true),
                Some(Errno::ENOENT) => Ok(false),
                Some(error) => Err(problem(&error.into())),
            })
            .collect()
    }

    fn flush(&mut self) -> Result<(), Problem> {
        // Without elements: all of them (nf_tables_delsetelem).
        let flush = |name: &String| {
            Message::new(NFTABLES, DELETE_ELEMENTS, FAMILY_INET, 0)
                .with_text(TABLE, NFT_TABLE)
                .with_text(SET, name)
        };
        let mut messages: Vec<Message> = self.names.iter().map(flush).collect();
        let errors = self.netfilter().and_then(|n| n.transact(&mut messages));
        let errors = errors.map_err(|error| self.failed(&error))?;
        match errors.into_iter().flatten().next().map(Errno::from_raw) {
            None => Ok(()),
            Some(error) => Err(problem(&error.into())),
        }
    }

    /// Whether a rule of our chain looks into each of the two, where there are two.
    fn is_used(&mut self) -> Result<bool, Problem> {
        let message = Message::new(NFTABLES, GET_RULES, FAMILY_INET, 0)
            .with_text(TABLE, NFT_TABLE)
            .with_text(RULE_CHAIN, NFT_CHAIN);
        let take = |sets: &mut Vec<String>, rule: &[u8]| sets.extend(looked_into(rule));
        let read = self.netfilter().and_then(|n| n.dump(&message, take));
        let sets = match read.map_err(|error| self.failed(&error)) {
            Err(Problem::NoSet) => return Ok(false),
            sets => sets?,
        };
        let [addresses, networks] = &self.names;
        if !sets.contains(addresses) {
            return Ok(false);
        }
        // The gate's sets are of addresses alone.
        Ok(sets.contains(networks) || self.check(true) == Err(Problem::NoSet))
    }

    /// Its sets have no bound of their own.
    fn grow(&mut self, _: &Ends, _: u32, _: Instant) -> Result<(), Problem> {
        Ok(())
    }

    fn is_ipset(&self) -> bool {
        false
    }
}

/// The sets that a rule looks into.
fn looked_into(rule: &[u8]) -> Vec<String> {
    let expressions = netfilter::attribute(rule, RULE_EXPRESSIONS).unwrap_or(&[]);
    let lookup = |expression: &[u8]| {
        let name = netfilter::attribute(expression, EXPRESSION_NAME)?;
        let data = netfilter::attribute(expression, EXPRESSION_DATA)?;
        let set = netfilter::attribute(data, LOOKUP_SET).filter(|_| name == b"lookup\0")?;
        let set = set.strip_suffix(&[0]).unwrap_or(set);
        Some(String::from_utf8_lossy(set).into_owned())
    };
    netfilter::attributes(expressions)
        .filter_map(|(_, expression)| lookup(expression))
        .collect()
}

/// A handle; 0 where the kernel is too old to tell it.
fn handle(object: &[u8], kind: u16) -> u64 {
    let bytes = netfilter::attribute(object, kind).and_then(|value| value.try_into().ok());
    bytes.map_or(0, u64::from_be_bytes)
}

fn problem(error: &io::Error) -> Problem {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT) => Problem::NoSet,
        Some(Errno::EPERM | Errno::EACCES) => Problem::NotPermitted,
        Some(Errno::ENFILE) => Problem::Full,
        _ => Problem::Failed(format!("nftables: {error}")),
    }
}
