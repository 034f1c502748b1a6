//! A set of ipset(8), through libipset: `hash:net` with timeouts.

use std::io;
use std::time::Instant;

use ipnetwork::IpNetwork;
use ipset::Session;
use ipset::types::{AddOption, EnvOption, Error, HashNet, NetDataType};
use rblfilter_warden::listed::{Listed, entry};
use rblfilter_warden::netfilter::{
    self, EXCLUSIVE, FAMILY_IPV4, FAMILY_IPV6, FAMILY_NONE, IPSET, IPSET_ATTR_PROTOCOL,
    IPSET_PROTOCOL, Message, NETWORK_ORDER, Netfilter,
};

use crate::sets::{Applied, Change, Ends, Kernel, Problem};

/// The commands that the crate does not have, not for many entries, or (`LIST`)
/// not for sets with timeouts, and
/// their attributes (include/uapi/linux/netfilter/ipset/ip_set.h).
const CMD_FLUSH: u16 = 4;
const CMD_SWAP: u16 = 6;
const CMD_LIST: u16 = 7;
const CMD_ADD: u16 = 9;
const CMD_DEL: u16 = 10;
const CMD_TEST: u16 = 11;
const CMD_HEADER: u16 = 12;
const ATTR_TYPENAME: u16 = 3;
const ATTR_FAMILY: u16 = 5;
const ATTR_FLAGS: u16 = 6;
const ATTR_SETNAME: u16 = 2;
const ATTR_SETNAME2: u16 = 3;
const ATTR_DATA: u16 = 7;
const ATTR_ADT: u16 = 8;
const ATTR_LINENO: u16 = 9;
const ATTR_REFERENCES: u16 = 25;
/// `IPSET_FLAG_LIST_HEADER`: no entries.
const LIST_HEADER: u32 = 1 << 2;
/// `IPSET_ERR_EXIST`, `IPSET_ERR_TIMEOUT`, `IPSET_ERR_HASH_FULL`
/// (include/uapi/linux/netfilter/ipset/ip_set.h, ip_set_hash.h).
const ERR_EXIST: i32 = 4103;
const ERR_TIMEOUT: i32 = 4107;
const ERR_FULL: i32 = 4352;
/// Entries in one message, which holds 64 KiB; messages in one datagram.
const AT_ONCE: usize = 500;
/// What an entry has that does not say how long it stays; each of ours does.
const DEFAULT_TIMEOUT: u32 = 3600;
/// The name under which a larger set is made, before the two are swapped.
const LARGER: &str = "rblfilter-new";

/// One set.
pub struct Ipset {
    name: String,
    session: Session<HashNet>,
    ipv6: bool,
    /// A set whose rules, which refer to this one too, do not count.
    but: Option<String>,
    netfilter: Option<Netfilter>,
}

impl Ipset {
    /// The set of this name, which need not exist.
    pub fn new(name: String, ipv6: bool) -> Self {
        Self {
            session: Session::new(name.clone()),
            name,
            ipv6,
            but: None,
            netfilter: None,
        }
    }

    /// The same; a rule that refers to the set `but`, too, is not the one that
    /// this set is there for.
    pub fn but_for_rules_of(self, but: Option<String>) -> Self {
        Self { but, ..self }
    }

    /// How often the kernel says that the set of this name is referred to, where it
    /// says so.
    fn references(&mut self, name: &str) -> Result<Option<u32>, Problem> {
        let message = Message::new(IPSET, CMD_LIST, FAMILY_NONE, 0)
            .with(IPSET_ATTR_PROTOCOL, &[IPSET_PROTOCOL])
            .with_text(ATTR_SETNAME, name)
            .with_be32(ATTR_FLAGS | NETWORK_ORDER, LIST_HEADER);
        let take = |references: &mut Option<u32>, answer: &[u8]| {
            let data = netfilter::attribute(answer, ATTR_DATA);
            *references = data
                .and_then(|data| netfilter::be32(data, ATTR_REFERENCES))
                .or(*references);
        };
        self.asked(|netfilter| netfilter.dump(&message, take))
    }

    fn family(&self) -> u8 {
        if self.ipv6 { FAMILY_IPV6 } else { FAMILY_IPV4 }
    }

    /// Whether the set is there and of the right type and family: a session
    /// adds to one of type hash:ip without a word.
    fn look(&mut self) -> Result<(), Problem> {
        let message = Message::new(IPSET, CMD_HEADER, FAMILY_NONE, 0)
            .with(IPSET_ATTR_PROTOCOL, &[IPSET_PROTOCOL])
            .with_text(ATTR_SETNAME, &self.name);
        let answers = self.asked(|netfilter| netfilter.ask(message))?;
        let fits = answers.first().is_some_and(|set| {
            netfilter::attribute(set, ATTR_TYPENAME) == Some(b"hash:net\0")
                && netfilter::attribute(set, ATTR_FAMILY) == Some(&[self.family()])
        });
        if fits { Ok(()) } else { Err(Problem::WrongSet) }
    }

    /// Asks over the socket that is open; over another one after an error, as
    /// this one may hold an old answer.
    fn asked<T>(
        &mut self,
        ask: impl FnOnce(&mut Netfilter) -> io::Result<T>,
    ) -> Result<T, Problem> {
        let told = match &mut self.netfilter {
            Some(netfilter) => ask(netfilter),
            none => Netfilter::open().and_then(|netfilter| ask(none.insert(netfilter))),
        };
        told.map_err(|error| {
            self.netfilter = None;
            problem_of(&error)
        })
    }

    fn add(&mut self, network: IpNetwork, seconds: u32) -> Result<bool, Error> {
        self.session.add(
            NetDataType::new(network.network(), network.prefix()),
            &[AddOption::Timeout(seconds)],
        )
    }

    fn change(&mut self, change: Change) -> Result<Applied, Problem> {
        let result = match change {
            Change::Add(network, seconds) => self
                .add(network, seconds)
                .map(|new| if new { Applied::Done } else { Applied::Exists }),
            Change::Replace(network, seconds) => {
                self.session.set_option(EnvOption::Exist);
                let added = self.add(network, seconds);
                self.session.unset_option(EnvOption::Exist);
                added.map(|_| Applied::Done)
            }
            Change::Remove(network) => {
                let entry = NetDataType::new(network.network(), network.prefix());
                self.session.del(entry).map(|there| {
                    if there {
                        Applied::Done
                    } else {
                        Applied::Missing
                    }
                })
            }
        };
        result.map_err(|error| self.failed(&error))
    }

    /// The same for many, in one datagram: with the crate each is a round trip
    /// to the kernel.
    fn batch(&mut self, changes: &[Change]) -> Vec<Result<Applied, Problem>> {
        let mut messages: Vec<Message> = changes.iter().map(|c| self.message(*c)).collect();
        match self.asked(|netfilter| netfilter.each(&mut messages)) {
            Ok(errors) => changes
                .iter()
                .zip(errors)
                .map(|(change, error)| applied(*change, error))
                .collect(),
            Err(problem) => vec![Err(problem); changes.len()],
        }
    }

    fn message(&self, change: Change) -> Message {
        let (command, flags, data) = match change {
            Change::Add(network, seconds) => (CMD_ADD, EXCLUSIVE, entry(network, Some(seconds))),
            Change::Replace(network, seconds) => (CMD_ADD, 0, entry(network, Some(seconds))),
            Change::Remove(network) => (CMD_DEL, EXCLUSIVE, entry(network, None)),
        };
        self.about(command, flags, &data)
    }

    /// A message about one entry.
    fn about(&self, command: u16, flags: u16, data: &[u8]) -> Message {
        Message::new(IPSET, command, FAMILY_NONE, flags)
            .with(IPSET_ATTR_PROTOCOL, &[IPSET_PROTOCOL])
            .with_text(ATTR_SETNAME, &self.name)
            .with_nested(ATTR_DATA, data)
    }

    fn failed(&mut self, error: &Error) -> Problem {
        // libipset's session answers "internal protocol error" after some errors.
        self.session = Session::new(self.name.clone());
        problem(error)
    }

    /// Puts all of `ends` into the set `name`, many in one message.
    fn fill(&self, name: &str, ends: &Ends, now: Instant) -> io::Result<()> {
        let mut netfilter = Netfilter::open()?;
        let entries: Vec<(IpNetwork, u32)> = ends
            .iter()
            .map(|(network, end)| {
                let left = end.map_or(0, |end| seconds_left(end, now));
                (*network, left)
            })
            .collect();
        for some in entries.chunks(AT_ONCE) {
            let mut all = Vec::new();
            for (network, seconds) in some {
                netfilter::put_nested(&mut all, ATTR_DATA, &entry(*network, Some(*seconds)));
            }
            let message = Message::new(IPSET, CMD_ADD, FAMILY_NONE, 0)
                .with(IPSET_ATTR_PROTOCOL, &[IPSET_PROTOCOL])
                .with_text(ATTR_SETNAME, name)
                .with(ATTR_LINENO, &0_u32.to_ne_bytes())
                .with_nested(ATTR_ADT, &all);
            netfilter.ask(message)?;
        }
        Ok(())
    }
}

/// At least one: none would be for ever.
fn seconds_left(end: Instant, now: Instant) -> u32 {
    let left = end.saturating_duration_since(now).as_secs();
    u32::try_from(left).unwrap_or(u32::MAX).max(1)
}

/// What an error number says of a change.
fn applied(change: Change, error: Option<i32>) -> Result<Applied, Problem> {
    match (change, error) {
        (_, None) => Ok(Applied::Done),
        (Change::Remove(_), Some(ERR_EXIST)) => Ok(Applied::Missing),
        (_, Some(ERR_EXIST)) => Ok(Applied::Exists),
        (_, Some(ERR_FULL)) => Err(Problem::Full),
        (_, Some(ERR_TIMEOUT)) => Err(Problem::WrongSet),
        (_, Some(error)) => Err(problem_of(&io::Error::from_raw_os_error(error))),
    }
}

fn problem_of(error: &io::Error) -> Problem {
    match error.kind() {
        io::ErrorKind::NotFound => Problem::NoSet,
        io::ErrorKind::PermissionDenied => Problem::NotPermitted,
        _ => Problem::Failed(format!("ipset: {error}")),
    }
}

fn problem(error: &Error) -> Problem {
    let text = error
        .to_string()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    if text.contains("is full") {
        Problem::Full
    } else if text.contains("does not exist") {
        Problem::NoSet
    } else if text.contains("not permitted") {
        Problem::NotPermitted
    } else if text.contains("Timeout cannot be used") {
        Problem::WrongSet
    } else {
        Problem::Failed(format!("ipset: {text}"))
    }
}

impl Kernel for Ipset {
    fn read(&mut self, now: Instant) -> Result<Ends, Problem> {
        let message = Message::new(IPSET, CMD_LIST, FAMILY_NONE, 0)
            .with(IPSET_ATTR_PROTOCOL, &[IPSET_PROTOCOL])
            .with_text(ATTR_SETNAME, &self.name);
        let take = |listed: &mut Listed, answer: &[u8]| listed.take(answer, now);
        let listed = self.asked(|netfilter| netfilter.dump(&message, take))?;
        if listed.fits(self.family()) {
            Ok(listed.ends)
        } else {
            Err(Problem::WrongSet)
        }
    }

    fn create(&mut self, most: u32) -> Result<(), Problem> {
        create(&self.name, self.ipv6, most)
    }

    fn apply(&mut self, changes: &[Change]) -> Vec<Result<Applied, Problem>> {
        if let Err(problem) = self.look() {
            return vec![Err(problem); changes.len()];
        }
        match changes {
            [change] => vec![self.change(*change)],
            _ => changes
                .chunks(AT_ONCE)
                .flat_map(|some| self.batch(some))
                .collect(),
        }
    }

    fn grow(&mut self, ends: &Ends, most: u32, now: Instant) -> Result<(), Problem> {
        let failed = |error: io::Error| Problem::Failed(format!("ipset: cannot enlarge: {error}"));
        let mut larger = Session::<HashNet>::new(LARGER.to_owned());
        // One of an attempt that did not come to its end.
        let _ = larger.destroy();
        create(LARGER, self.ipv6, most)?;
        let swap = Message::new(IPSET, CMD_SWAP, FAMILY_NONE, 0)
            .with(IPSET_ATTR_PROTOCOL, &[IPSET_PROTOCOL])
            .with_text(ATTR_SETNAME, LARGER)
            .with_text(ATTR_SETNAME2, &self.name);
        let swapped = self
            .fill(LARGER, ends, now)
            .and_then(|()| Netfilter::open()?.ask(swap));
        // A session anew, as the last may remember an error.
        let _ = Session::<HashNet>::new(LARGER.to_owned()).destroy();
        swapped.map(drop).map_err(failed)
    }

    /// Whether it is another one of the same kind cannot be told.
    fn look(&mut self) -> Result<bool, Problem> {
        Self::look(self).map(|()| true)
    }

    fn holds(&mut self, networks: &[IpNetwork]) -> Result<Vec<bool>, Problem> {
        if networks.is_empty() {
            return Ok(Vec::new());
        }
        let test = |network: &IpNetwork| self.about(CMD_TEST, EXCLUSIVE, &entry(*network, None));
        let mut messages: Vec<Message> = networks.iter().map(test).collect();
        let told = self.asked(|netfilter| netfilter.each(&mut messages))?;
        told.into_iter()
            .map(|error| match error {
                None => Ok(true),
                Some(ERR_EXIST) => Ok(false),
                Some(error) => Err(problem_of(&io::Error::from_raw_os_error(error))),
            })
            .collect()
    }

    fn flush(&mut self) -> Result<(), Problem> {
        // Without a name it would be all sets there are.
        let message = Message::new(IPSET, CMD_FLUSH, FAMILY_NONE, 0)
            .with(IPSET_ATTR_PROTOCOL, &[IPSET_PROTOCOL])
            .with_text(ATTR_SETNAME, &self.name);
        Self::look(self)?;
        self.asked(|netfilter| netfilter.ask(message)).map(drop)
    }

    /// By how often the kernel says that it is referred to.
    fn is_used(&mut self) -> Result<bool, Problem> {
        // The two are not read in the same moment: rules may come and go between.
        for _ in 0..2 {
            let Some(references) = self.references(&self.name.clone())? else {
                return Ok(true);
            };
            let others = match self.but.clone().map(|but| self.references(&but)) {
                None | Some(Err(Problem::NoSet)) => 0,
                Some(told) => told?.unwrap_or(0),
            };
            if references > others {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn is_ipset(&self) -> bool {
        true
    }
}

fn create(name: &str, ipv6: bool, most: u32) -> Result<(), Problem> {
    Session::<HashNet>::new(name.to_owned())
        .create(|builder| {
            builder
                .with_ipv6(ipv6)?
                .with_timeout(DEFAULT_TIMEOUT)?
                .with_max_elem(most)?
                .build()
        })
        .map(drop)
        .map_err(|error| problem(&error))
}
