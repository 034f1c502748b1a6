//! What holds the networks of a set, as `sets.rs` needs it: changes, what became of
//! them, and why not.

use std::time::Instant;

use ipnetwork::IpNetwork;
use rblfilter_warden::listed::Ends;
use rblfilter_warden::request::Outcome;

use crate::say;

/// What is to become of one network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It comes in.
    Add(IpNetwork, u32),
    /// It is in, and is to run so many seconds from now.
    Replace(IpNetwork, u32),
    /// It goes.
    Remove(IpNetwork),
}

impl Change {
    /// The network that this is about.
    pub fn network(self) -> IpNetwork {
        match self {
            Self::Add(network, _) | Self::Replace(network, _) | Self::Remove(network) => network,
        }
    }
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It was made.
    Done,
    /// It was to come in, and is in, or overlaps with one that is.
    Exists,
    /// It was to go, and was not in.
    Missing,
}

/// Why the kernel did not do something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// There is no such set.
    NoSet,
    /// It is not one that we can use.
    WrongSet,
    /// We may not.
    NotPermitted,
    /// It is full.
    Full,
    /// Something else.
    Failed(String),
}

impl Problem {
    /// What a request that met it has come to.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::NoSet => Outcome::NoSet,
            Self::WrongSet => Outcome::WrongSet,
            Self::NotPermitted => Outcome::NotPermitted,
            Self::Full => Outcome::Full,
            Self::Failed(text) => {
                say::line(format_args!("{text}"));
                Outcome::Failed
            }
        }
    }
}

/// What holds the networks of one family.
pub trait Kernel {
    /// All its entries, if it is of the kind that we need.
    fn read(&mut self, now: Instant) -> Result<Ends, Problem>;
    /// Makes it, for so many entries.
    fn create(&mut self, most: u32) -> Result<(), Problem>;
    /// Makes these changes to different networks; what became of each.
    fn apply(&mut self, changes: &[Change]) -> Vec<Result<Applied, Problem>>;
    /// Enlarges it to so many entries; `ends` is what it holds.
    fn grow(&mut self, ends: &Ends, most: u32, now: Instant) -> Result<(), Problem>;
    /// Whether it is there, of the kind that we need, and not another one than
    /// at the last look, as far as can be told.
    fn look(&mut self) -> Result<bool, Problem>;
    /// Which of these networks it holds, by themselves or within others.
    fn holds(&mut self, networks: &[IpNetwork]) -> Result<Vec<bool>, Problem>;
    /// Takes all entries out.
    fn flush(&mut self) -> Result<(), Problem>;
    /// Whether the rule uses it that it is there for.
    fn is_used(&mut self) -> Result<bool, Problem>;
    /// Whether it says itself when it is full, and takes a network within
    /// another one.
    fn is_ipset(&self) -> bool;
}

impl<K: Kernel + ?Sized> Kernel for Box<K> {
    fn read(&mut self, now: Instant) -> Result<Ends, Problem> {
        (**self).read(now)
    }
    fn create(&mut self, most: u32) -> Result<(), Problem> {
        (**self).create(most)
    }
    fn apply(&mut self, changes: &[Change]) -> Vec<Result<Applied, Problem>> {
        (**self).apply(changes)
    }
    fn grow(&mut self, ends: &Ends, most: u32, now: Instant) -> Result<(), Problem> {
        (**self).grow(ends, most, now)
    }
    fn look(&mut self) -> Result<bool, Problem> {
        (**self).look()
    }
    fn holds(&mut self, networks: &[IpNetwork]) -> Result<Vec<bool>, Problem> {
        (**self).holds(networks)
    }
    fn flush(&mut self) -> Result<(), Problem> {
        (**self).flush()
    }
    fn is_used(&mut self) -> Result<bool, Problem> {
        (**self).is_used()
    }
    fn is_ipset(&self) -> bool {
        (**self).is_ipset()
    }
}
