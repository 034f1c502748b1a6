//! The two sets of banned networks, whatever holds them.
//!
//! Kernels replace the timeout of an entry that exists, also by a shorter one,
//! so this module remembers when each entry ends and lets the larger of old
//! and new stand. It makes a set that is missing, and room in one that is full.
//! By a few entries that should be there it sees whether somebody else emptied
//! a set.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use rblfilter_warden::netfilter;
use rblfilter_warden::policy::{Backend, Sets as Policy, WhenFull};
use rblfilter_warden::request::{GateSet, Outcome};

use crate::dry::Dry;
use crate::ipset::Ipset;
use crate::nftables::Nftables;
use crate::say;

/// How often a set is read anew into which somebody else has put something. A
/// million entries take a second or two, so the pause is at least so many
/// times longer than that took.
const READ_EVERY: Duration = Duration::from_secs(10);
const READ_SHARE: u32 = 100;
/// How many times larger than configured a set may become.
const MOST_GROWTH: u32 = 4;
/// The share of a full set that makes room at once, so that it need not be
/// sorted for each ban.
const ROOM_SHARE: usize = 128;
/// How often room is made for one ban: the kernel counts by regions.
const ROOM_TRIES: u32 = 3;
/// Fewer entries than this are not looked through for those that have ended.
const PRUNE_AT_LEAST: usize = 1024;
/// How many entries a look asks for: where more than half of these, or of
/// those that the look before found, are gone, the set was emptied. One alone
/// that is gone was taken out.
const SAMPLE: usize = 64;
/// A look asks for none that ends within this time: the kernel counts in its
/// own way.
const SLACK: Duration = Duration::from_secs(3);

pub use crate::kernel::{Applied, Change, Kernel, Problem};
pub use rblfilter_warden::listed::Ends;

/// What is wanted of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// That a network be banned for so many seconds.
    Ban(IpNetwork, u32),
    /// That a ban of before be there again, for what is left of it: no other is
    /// to make room that ends later.
    Restore(IpNetwork, u32),
    /// That it be banned no longer.
    Unban(IpNetwork),
}

impl Wish {
    fn network(self) -> IpNetwork {
        match self {
            Self::Ban(network, _) | Self::Restore(network, _) | Self::Unban(network) => network,
        }
    }
}

/// The IPv4 and the IPv6 set; and the gate's, as far as their rules go.
pub struct Sets {
    v4: Set<Box<dyn Kernel>>,
    v6: Set<Box<dyn Kernel>>,
    gate: [[Box<dyn Kernel>; 2]; 2],
}

impl Sets {
    /// The sets of this policy; neither need exist.
    pub fn new(policy: &Policy) -> Self {
        let ipset = match policy.backend {
            Backend::Ipset | Backend::DryRun => true,
            Backend::Nftables => false,
            // Without the capability neither works.
            Backend::Auto => netfilter::has_ipset().unwrap_or(true),
        };
        let kernel = |name: &str, ipv6, but: Option<String>| -> Box<dyn Kernel> {
            if policy.backend == Backend::DryRun {
                Box::new(Dry)
            } else if ipset {
                Box::new(Ipset::new(name.to_owned(), ipv6).but_for_rules_of(but))
            } else {
                Box::new(Nftables::new(name, ipv6))
            }
        };
        let set = |name: &str, ipv6| {
            // The gate's rule for the queue, which passes by who is banned.
            let but = Some(GateSet::Pass.name(ipv6));
            Set::new(
                kernel(name, ipv6, but),
                name.to_owned(),
                policy.max_entries,
                policy.when_full,
            )
        };
        Self {
            v4: set(&policy.set4, false),
            v6: set(&policy.set6, true),
            gate: GateSet::BOTH
                .map(|of| [false, true].map(|ipv6| kernel(&of.name(ipv6), ipv6, None))),
        }
    }

    /// Whether the rule is there that this set of the gate's is for.
    pub fn look_at_rule(&mut self, of: GateSet, ipv6: bool) -> Outcome {
        match self.gate[of as usize][usize::from(ipv6)].is_used() {
            Ok(true) => Outcome::Done,
            // A set that is not there is in no rule.
            Ok(false) | Err(Problem::NoSet) => Outcome::Unused,
            Err(problem) => problem.outcome(),
        }
    }

    /// Whether both sets are usable now; the second value says which one it is
    /// about.
    pub fn check(&mut self) -> (Outcome, bool) {
        let first = self.v4.check(Instant::now());
        if !matches!(first, Outcome::Done | Outcome::Remade) {
            return (first, false);
        }
        match self.v6.check(Instant::now()) {
            Outcome::Done => (first, false),
            second => (second, true),
        }
    }

    /// Whether the set of this family is what it was, and holds what it should.
    pub fn look(&mut self, ipv6: bool, now: Instant) -> Outcome {
        let set = if ipv6 { &mut self.v6 } else { &mut self.v4 };
        set.look(now)
    }

    /// Takes everything out of the set of this family.
    pub fn flush(&mut self, ipv6: bool) -> Outcome {
        let set = if ipv6 { &mut self.v6 } else { &mut self.v4 };
        set.flush()
    }

    /// Does what is wished, in this order where it is about the same network.
    pub fn apply(&mut self, wishes: &[Wish], now: Instant) -> Vec<Outcome> {
        let mut outcomes = vec![Outcome::Failed; wishes.len()];
        for (set, ipv6) in [(&mut self.v4, false), (&mut self.v6, true)] {
            let (places, wishes): (Vec<usize>, Vec<Wish>) = wishes
                .iter()
                .copied()
                .enumerate()
                .filter(|(_, wish)| wish.network().is_ipv6() == ipv6)
                .unzip();
            for (at, outcome) in places.into_iter().zip(set.apply(&wishes, now)) {
                outcomes[at] = outcome;
            }
        }
        outcomes
    }
}

struct Set<K> {
    kernel: K,
    name: String,
    ends: Ends,
    /// Entries that the last look found. In a wave the new ones soon outnumber
    /// those of a set that was emptied.
    witnesses: [Vec<IpNetwork>; 2],
    /// With so many, those that have ended are taken out.
    prune_at: usize,
    /// Whether that is what the set holds; if not, it is read before the next
    /// change.
    known: bool,
    /// Whether somebody else put something in, and from when on it may be read
    /// for that.
    stale: bool,
    read_from: Option<Instant>,
    /// Whether it was made anew, and nobody was told yet.
    remade: bool,
    /// Which of those that are done now are bans of before; and when the first
    /// of all that are in ends, once that was looked for.
    restored: HashSet<IpNetwork>,
    soonest: Option<Instant>,
    configured: u32,
    /// The most entries that it has room for now, as far as we know.
    most: u32,
    when_full: WhenFull,
}

impl<K: Kernel> Set<K> {
    fn new(kernel: K, name: String, most: u32, when_full: WhenFull) -> Self {
        Self {
            kernel,
            name,
            ends: Ends::new(),
            witnesses: Default::default(),
            prune_at: 0,
            known: false,
            stale: false,
            read_from: None,
            remade: false,
            restored: HashSet::new(),
            soonest: None,
            configured: most,
            most,
            when_full,
        }
    }

    fn check(&mut self, now: Instant) -> Outcome {
        self.known = false;
        match self.ready(now, true) {
            Ok(()) if std::mem::take(&mut self.remade) => Outcome::Remade,
            Ok(()) => Outcome::Done,
            Err(problem) => problem.outcome(),
        }
    }

    /// Reads the set where that is due; makes it where it is missing, if asked to.
    fn ready(&mut self, now: Instant, make: bool) -> Result<(), Problem> {
        let outdated = self.stale && self.read_from.is_none_or(|from| now >= from);
        if self.known && !outdated {
            return Ok(());
        }
        self.known = false;
        match self.kernel.read(now) {
            Ok(ends) => {
                self.ends = ends;
                (self.known, self.stale) = (true, false);
                let took = now.elapsed();
                self.read_from = Some(Instant::now() + READ_EVERY.max(took * READ_SHARE));
                Ok(())
            }
            Err(Problem::NoSet) if make => self.make(),
            Err(problem) => Err(problem),
        }
    }

    fn make(&mut self) -> Result<(), Problem> {
        self.most = self.configured;
        self.kernel.create(self.most)?;
        say::line(format_args!(
            "the set {} was missing, and has been made",
            self.name
        ));
        self.ends.clear();
        (self.known, self.remade) = (true, true);
        Ok(())
    }

    /// Looks whether it is still what it was, by a few of its entries. What
    /// somebody else took out one by one is let be.
    fn look(&mut self, now: Instant) -> Outcome {
        self.try_look(now).unwrap_or_else(|problem| {
            self.known = false;
            problem.outcome()
        })
    }

    fn try_look(&mut self, now: Instant) -> Result<Outcome, Problem> {
        let same = match self.kernel.look() {
            Err(Problem::NoSet) => {
                self.make()?;
                false
            }
            same => same?,
        };
        if std::mem::take(&mut self.remade) {
            return Ok(Outcome::Remade);
        }
        if !same && self.known {
            self.known = false;
            if !self.ends.is_empty() {
                return Ok(Outcome::Emptied);
            }
        }
        // What it should hold the filter knows: it puts all in again when a
        // warden is new to it, and after an error.
        self.ready(now, true)?;
        if std::mem::take(&mut self.remade) {
            return Ok(Outcome::Remade);
        }
        self.forget_ended(now);
        for (part, mut sample) in std::mem::take(&mut self.witnesses).into_iter().enumerate() {
            let runs = |end: &Option<Instant>| end.is_none_or(|end| end > now + SLACK);
            sample.retain(|network| self.ends.get(network).is_some_and(runs));
            let seen = sample.len();
            let others: Vec<IpNetwork> = self
                .ends
                .iter()
                .filter(|(network, end)| self.part_of(**network) == part && runs(end))
                .map(|(network, _)| *network)
                .filter(|network| !sample.contains(network))
                .take(SAMPLE.saturating_sub(seen))
                .collect();
            sample.extend(others);
            let held = self.kernel.holds(&sample)?;
            let emptied = |held: &[bool]| {
                let gone = held.iter().filter(|held| !**held).count();
                gone > 1 && gone * 2 > held.len()
            };
            if emptied(&held) || held.get(..seen).is_some_and(emptied) {
                self.known = false;
                return Ok(Outcome::Emptied);
            }
            for (network, held) in sample.into_iter().zip(held) {
                if held {
                    self.witnesses[part].push(network);
                } else {
                    self.ends.remove(&network);
                }
            }
        }
        Ok(match self.kernel.is_used()? {
            true => Outcome::Done,
            false => Outcome::Unused,
        })
    }

    /// Which of the kernel's sets holds it, where networks have one of their own.
    fn part_of(&self, network: IpNetwork) -> usize {
        usize::from(!self.kernel.is_ipset() && !is_single(network))
    }

    /// Takes all out.
    fn flush(&mut self) -> Outcome {
        match self.kernel.flush() {
            Ok(()) => {
                self.ends.clear();
                Outcome::Done
            }
            Err(problem) => {
                self.known = false;
                problem.outcome()
            }
        }
    }

    fn apply(&mut self, wishes: &[Wish], now: Instant) -> Vec<Outcome> {
        if wishes.is_empty() {
            return Vec::new();
        }
        let bans = wishes.iter().any(|wish| !matches!(wish, Wish::Unban(_)));
        if let Err(problem) = self.ready(now, bans) {
            return vec![problem.outcome(); wishes.len()];
        }
        self.soonest = None;
        self.restored.clear();
        for wish in wishes {
            match wish {
                Wish::Restore(network, _) => self.restored.insert(*network),
                other => self.restored.remove(&other.network()),
            };
        }
        let mut outcomes = Vec::with_capacity(wishes.len());
        let (mut changes, mut touched) = (Vec::new(), HashSet::new());
        for wish in wishes {
            if !touched.insert(wish.network()) {
                outcomes.extend(self.commit(&changes, now));
                changes.clear();
                touched.clear();
                touched.insert(wish.network());
            }
            changes.push(self.change(*wish, now));
        }
        outcomes.extend(self.commit(&changes, now));
        if self.remade
            && let Some(first) = outcomes.iter_mut().find(|o| o.is_banned())
        {
            *first = Outcome::Remade;
            self.remade = false;
        }
        outcomes
    }

    fn change(&self, wish: Wish, now: Instant) -> Change {
        match wish {
            Wish::Unban(network) => Change::Remove(network),
            Wish::Ban(network, seconds) | Wish::Restore(network, seconds) => {
                match self.ends.get(&network) {
                    Some(Some(old)) if *old > now && *old < end(now, seconds) => {
                        Change::Replace(network, seconds)
                    }
                    // Where it runs longer, the kernel must say that it is still in.
                    _ => Change::Add(network, seconds),
                }
            }
        }
    }

    fn commit(&mut self, changes: &[Change], now: Instant) -> Vec<Outcome> {
        if changes.is_empty() {
            return Vec::new();
        }
        let refused = self.refused(changes, now);
        if !refused.is_empty() {
            let is_kept = |change: &&Change| !refused.contains(&change.network());
            let kept: Vec<Change> = changes.iter().filter(is_kept).copied().collect();
            let mut outcomes = self.commit_all(&kept, now).into_iter();
            let all = changes.iter();
            return all
                .map(|change| match refused.contains(&change.network()) {
                    true => Outcome::Full,
                    false => outcomes.next().unwrap_or(Outcome::Failed),
                })
                .collect();
        }
        self.commit_all(changes, now)
    }

    fn commit_all(&mut self, changes: &[Change], now: Instant) -> Vec<Outcome> {
        if changes.is_empty() {
            return Vec::new();
        }
        let made_room = self.room_for(changes, now);
        let mut results = self.kernel.apply(changes);
        let bans = changes.iter().any(|c| !matches!(c, Change::Remove(_)));
        if bans && results.contains(&Err(Problem::NoSet)) {
            results = match self.make() {
                Ok(()) => self.kernel.apply(changes),
                Err(problem) => vec![Err(problem); changes.len()],
            };
        }
        let mut outcomes: Vec<Outcome> = changes
            .iter()
            .zip(results)
            .map(|(change, result)| self.settle(*change, result, now))
            .collect();
        if let Some((outcome, beyond)) = made_room {
            let new = outcomes.iter_mut().rev().filter(|o| **o == Outcome::Done);
            new.take(beyond).for_each(|o| *o = outcome);
        }
        outcomes
    }

    /// Takes note of what became of a change, and does what is left of it.
    fn settle(
        &mut self,
        change: Change,
        result: Result<Applied, Problem>,
        now: Instant,
    ) -> Outcome {
        match (change, result) {
            (Change::Add(network, seconds), Ok(Applied::Done)) => {
                self.note(network, seconds, now);
                Outcome::Done
            }
            (Change::Replace(network, seconds), Ok(_)) => {
                self.note(network, seconds, now);
                Outcome::Extended
            }
            (Change::Add(network, seconds), Ok(_)) => self.meet(network, seconds, now),
            (Change::Remove(network), Ok(_)) => {
                self.ends.remove(&network);
                // It may have ended by itself.
                Outcome::Done
            }
            (Change::Add(..) | Change::Replace(..), Err(Problem::Full)) => {
                self.make_room(change, now)
            }
            (_, Err(problem)) => {
                // Whatever it is, look at the set anew before the next change.
                self.known = false;
                problem.outcome()
            }
        }
    }

    /// What was to be added is there already, or overlaps with something.
    fn meet(&mut self, network: IpNetwork, seconds: u32, now: Instant) -> Outcome {
        let wanted = end(now, seconds);
        match self.ends.get(&network) {
            Some(Some(old)) if *old < wanted => {
                let result = self.one(Change::Replace(network, seconds));
                self.settle(Change::Replace(network, seconds), result, now)
            }
            Some(_) => Outcome::Kept,
            None if self.kernel.is_ipset() || is_single(network) => {
                self.stale = true;
                Outcome::Kept
            }
            None => self.swallow(network, seconds, now),
        }
    }

    /// In an nftables set networks cannot overlap (single addresses have a set
    /// of their own): one within another is banned with that; the wider one
    /// takes the place of those within.
    fn swallow(&mut self, network: IpNetwork, seconds: u32, now: Instant) -> Outcome {
        let within: Vec<Change> = self
            .ends
            .keys()
            .filter(|other| other.prefix() > network.prefix() && network.contains(other.ip()))
            .filter(|other| !is_single(**other))
            .map(|other| Change::Remove(*other))
            .collect();
        if within.is_empty() {
            // Within a wider one, or somebody else made it since we last looked.
            return Outcome::Kept;
        }
        for (change, result) in within.iter().zip(self.kernel.apply(&within)) {
            self.settle(*change, result, now);
        }
        match self.one(Change::Add(network, seconds)) {
            Ok(Applied::Done) => {
                self.note(network, seconds, now);
                Outcome::Done
            }
            Ok(_) => Outcome::Kept,
            Err(problem) => problem.outcome(),
        }
    }

    fn one(&mut self, change: Change) -> Result<Applied, Problem> {
        let results = self.kernel.apply(&[change]);
        results
            .into_iter()
            .next()
            .unwrap_or(Err(Problem::Failed("no answer".into())))
    }

    fn note(&mut self, network: IpNetwork, seconds: u32, now: Instant) {
        self.ends.insert(network, Some(end(now, seconds)));
        if self.ends.len() > self.prune_at {
            self.forget_ended(now);
        }
    }

    fn forget_ended(&mut self, now: Instant) {
        self.ends.retain(|_, end| end.is_none_or(|end| end > now));
        self.prune_at = (self.ends.len() * 2).max(PRUNE_AT_LEAST);
    }

    /// Where the set does not say itself that it is full: makes room for these
    /// changes; how, and for how many.
    fn room_for(&mut self, changes: &[Change], now: Instant) -> Option<(Outcome, usize)> {
        if self.kernel.is_ipset() {
            return None;
        }
        let new = changes.iter().filter(
            |change| matches!(change, Change::Add(network, _) if !self.ends.contains_key(network)),
        );
        let wanted = self.ends.len() + new.count();
        if wanted <= self.most as usize {
            return None;
        }
        let before = self.ends.len();
        self.forget_ended(now);
        let wanted = wanted - (before - self.ends.len());
        let beyond = wanted.checked_sub(self.most as usize).filter(|n| *n > 0)?;
        if self.may_grow() {
            self.enlarge(now).ok()?;
            return Some((Outcome::Grown, beyond));
        }
        self.evict(beyond);
        Some((Outcome::Replaced, beyond))
    }

    /// Where the set does not say itself that it is full: the bans of before for
    /// which it has no room.
    fn refused(&mut self, changes: &[Change], now: Instant) -> HashSet<IpNetwork> {
        let mut refused = HashSet::new();
        if self.kernel.is_ipset() || self.restored.is_empty() {
            return refused;
        }
        let is_new = |set: &Self, change: &Change| matches!(change, Change::Add(network, _) if !set.ends.contains_key(network));
        let new = changes.iter().filter(|change| is_new(self, change)).count();
        if self.ends.len() + new <= self.most as usize {
            return refused;
        }
        self.forget_ended(now);
        let mut room = (self.most as usize).saturating_sub(self.ends.len());
        // Those before it in the batch are as good as in.
        let mut first: Option<Instant> = None;
        for change in changes {
            let Change::Add(network, seconds) = *change else {
                continue;
            };
            if !is_new(self, change) {
                continue;
            }
            if room == 0 && self.has_no_room_for(*change, first, now) {
                refused.insert(network);
                continue;
            }
            room = room.saturating_sub(1);
            let ends = end(now, seconds);
            first = Some(first.map_or(ends, |first| first.min(ends)));
        }
        refused
    }

    /// Whether this is a ban of before, and would take the place in a full set of
    /// one that ends later; `first`: so does the first of those that come with it.
    fn has_no_room_for(&mut self, change: Change, first: Option<Instant>, now: Instant) -> bool {
        let Change::Add(network, seconds) = change else {
            return false;
        };
        if !self.restored.contains(&network) || self.may_grow() {
            return false;
        }
        if self.soonest.is_none() {
            self.forget_ended(now);
            self.soonest = self.ends.values().flatten().min().copied();
        }
        let soonest = self.soonest.iter().chain(&first).min();
        soonest.is_some_and(|soonest| end(now, seconds) <= *soonest)
    }

    /// The kernel says that the set is full.
    fn make_room(&mut self, change: Change, now: Instant) -> Outcome {
        if self.has_no_room_for(change, None, now) {
            return Outcome::Full;
        }
        // Others of the same batch made room already.
        let mut outcome = Outcome::Replaced;
        for _ in 0..=ROOM_TRIES {
            match self.one(change) {
                Ok(Applied::Done) => {
                    if let Change::Add(network, seconds) | Change::Replace(network, seconds) =
                        change
                    {
                        self.note(network, seconds, now);
                    }
                    return outcome;
                }
                Err(Problem::Full) => {}
                result => return self.settle(change, result, now),
            }
            if self.may_grow() {
                if let Err(problem) = self.enlarge(now) {
                    return problem.outcome();
                }
                outcome = Outcome::Grown;
            } else {
                self.evict(1);
                outcome = Outcome::Replaced;
            }
        }
        Outcome::Full
    }

    fn may_grow(&self) -> bool {
        let largest = self.configured.saturating_mul(MOST_GROWTH);
        self.when_full == WhenFull::Grow && self.most < largest
    }

    fn enlarge(&mut self, now: Instant) -> Result<(), Problem> {
        self.forget_ended(now);
        let held = u32::try_from(self.ends.len()).unwrap_or(u32::MAX);
        let most = self.most.max(held).saturating_mul(2);
        self.kernel.grow(&self.ends, most, now)?;
        self.most = most;
        Ok(())
    }

    /// Takes out the bans that end soonest, at least so many.
    fn evict(&mut self, least: usize) {
        self.soonest = None;
        let mut ending: Vec<(Instant, IpNetwork)> = self
            .ends
            .iter()
            .filter_map(|(network, end)| Some(((*end)?, *network)))
            .collect();
        let count = least.max(ending.len() / ROOM_SHARE).min(ending.len());
        if count == 0 {
            return;
        }
        ending.select_nth_unstable(count - 1);
        let changes: Vec<Change> = ending[..count]
            .iter()
            .map(|(_, network)| Change::Remove(*network))
            .collect();
        for (change, result) in changes.iter().zip(self.kernel.apply(&changes)) {
            if result.is_ok() {
                self.ends.remove(&change.network());
            }
        }
    }
}

/// Whether it is one address.
pub fn is_single(network: IpNetwork) -> bool {
    network.prefix() == if network.is_ipv4() { 32 } else { 128 }
}

fn end(now: Instant, seconds: u32) -> Instant {
    now + Duration::from_secs(seconds.into())
}

#[cfg(test)]
#[path = "sets_tests.rs"]
mod tests;
