//! The sets' tests, on a set in memory; `sets.rs` is long enough.

use super::*;
use std::collections::HashMap;

/// A set in memory, as full, missing or overlapping as a test wants it.
#[derive(Default)]
struct Memory {
    held: HashMap<IpNetwork, u32>,
    most: u32,
    missing: bool,
    /// Another than at the last look.
    another: bool,
    unused: bool,
    nft: bool,
    applied: usize,
}

impl Kernel for Memory {
    fn read(&mut self, now: Instant) -> Result<Ends, Problem> {
        if self.missing {
            return Err(Problem::NoSet);
        }
        let held = self.held.iter();
        Ok(held.map(|(n, s)| (*n, Some(end(now, *s)))).collect())
    }
    fn create(&mut self, most: u32) -> Result<(), Problem> {
        (self.missing, self.most) = (false, most);
        self.held.clear();
        Ok(())
    }
    fn apply(&mut self, changes: &[Change]) -> Vec<Result<Applied, Problem>> {
        self.applied += 1;
        changes.iter().map(|change| self.one(*change)).collect()
    }
    fn grow(&mut self, _: &Ends, most: u32, _: Instant) -> Result<(), Problem> {
        self.most = most;
        Ok(())
    }
    fn look(&mut self) -> Result<bool, Problem> {
        if self.missing {
            return Err(Problem::NoSet);
        }
        Ok(!std::mem::take(&mut self.another))
    }
    fn holds(&mut self, networks: &[IpNetwork]) -> Result<Vec<bool>, Problem> {
        let held = |network| self.held.contains_key(network);
        Ok(networks.iter().map(held).collect())
    }
    fn flush(&mut self) -> Result<(), Problem> {
        if self.missing {
            return Err(Problem::NoSet);
        }
        self.held.clear();
        Ok(())
    }
    fn is_used(&mut self) -> Result<bool, Problem> {
        Ok(!self.unused)
    }
    fn is_ipset(&self) -> bool {
        !self.nft
    }
}

impl Memory {
    fn one(&mut self, change: Change) -> Result<Applied, Problem> {
        if self.missing {
            return Err(Problem::NoSet);
        }
        match change {
            Change::Add(network, seconds) => {
                let overlaps = |other: &IpNetwork| {
                    !is_single(network)
                        && !is_single(*other)
                        && (other.contains(network.ip()) || network.contains(other.ip()))
                };
                if self.held.contains_key(&network) || self.nft && self.held.keys().any(overlaps) {
                    return Ok(Applied::Exists);
                }
                if !self.nft && self.held.len() >= self.most as usize {
                    return Err(Problem::Full);
                }
                self.held.insert(network, seconds);
                Ok(Applied::Done)
            }
            Change::Replace(network, seconds) => {
                self.held.insert(network, seconds);
                Ok(Applied::Done)
            }
            Change::Remove(network) => Ok(match self.held.remove(&network) {
                Some(_) => Applied::Done,
                None => Applied::Missing,
            }),
        }
    }
}

fn set(nft: bool, most: u32, when_full: WhenFull) -> Set<Memory> {
    let kernel = Memory {
        most,
        nft,
        ..Memory::default()
    };
    Set::new(kernel, "s".into(), most, when_full)
}

fn ban(host: u8, seconds: u32) -> Wish {
    Wish::Ban(format!("10.0.0.{host}/32").parse().unwrap(), seconds)
}

fn seconds(set: &Set<Memory>, host: u8) -> Option<u32> {
    let network = format!("10.0.0.{host}/32").parse().unwrap();
    set.kernel.held.get(&network).copied()
}

#[test]
fn the_larger_time_stands_and_order_is_kept_within_a_batch() {
    for nft in [false, true] {
        let (mut set, now) = (set(nft, 100, WhenFull::Replace), Instant::now());
        let unban = Wish::Unban("10.0.0.1/32".parse().unwrap());
        let wishes = [
            ban(1, 60),
            ban(1, 600),
            ban(1, 60),
            unban,
            ban(1, 30),
            ban(2, 9),
        ];
        use Outcome::{Done, Extended, Kept};
        assert_eq!(
            set.apply(&wishes, now),
            [Done, Extended, Kept, Done, Done, Done]
        );
        assert_eq!((seconds(&set, 1), seconds(&set, 2)), (Some(30), Some(9)));
    }
}

#[test]
fn different_networks_are_one_batch() {
    let (mut set, now) = (set(true, 1000, WhenFull::Replace), Instant::now());
    let wishes: Vec<Wish> = (0..200).map(|host| ban(host, 60)).collect();
    set.apply(&wishes, now);
    assert_eq!(set.kernel.applied, 1);
}

#[test]
fn in_a_full_set_those_that_end_soonest_make_room() {
    for nft in [false, true] {
        let (mut set, now) = (set(nft, 3, WhenFull::Replace), Instant::now());
        let first = set.apply(&[ban(1, 90), ban(2, 30), ban(3, 60)], now);
        assert_eq!(first, [Outcome::Done; 3]);
        assert_eq!(set.apply(&[ban(4, 50)], now), [Outcome::Replaced]);
        assert_eq!(seconds(&set, 2), None, "it ended soonest");
        assert_eq!(set.apply(&[ban(5, 99)], now), [Outcome::Replaced]);
        assert_eq!(seconds(&set, 4), None);
        assert_eq!(set.kernel.held.len(), 3);
        assert_eq!(set.apply(&[ban(1, 100)], now), [Outcome::Extended]);
    }
}

/// Else a filter that puts all in again, more than fit, would go on for ever.
#[test]
fn in_a_full_set_a_ban_of_before_takes_the_place_of_none_that_ends_later() {
    let again = |host, seconds| match ban(host, seconds) {
        Wish::Ban(network, seconds) => Wish::Restore(network, seconds),
        other => other,
    };
    for nft in [false, true] {
        let (mut set, now) = (set(nft, 3, WhenFull::Replace), Instant::now());
        let some = [again(1, 90), again(2, 30), again(3, 60), again(4, 20)];
        use Outcome::{Done, Full, Replaced};
        let outcomes = set.apply(&some, now);
        assert_eq!(outcomes, [Done, Done, Done, Full], "nft {nft}");
        assert_eq!(set.apply(&[again(5, 30)], now), [Full]);
        let both = [again(6, 25), ban(7, 20)];
        assert_eq!(set.apply(&both, now), [Full, Replaced]);
        assert_eq!(seconds(&set, 2), None, "it ended soonest");
        assert_eq!(set.apply(&[again(8, 50)], now), [Replaced]);
        assert_eq!(seconds(&set, 7), None);
        assert_eq!(set.apply(&[again(8, 55)], now), [Outcome::Extended]);
        assert_eq!(set.kernel.held.len(), 3);
        // What has ended has made room.
        let later = now + Duration::from_secs(70);
        set.kernel.held.retain(|_, seconds| *seconds > 70);
        assert_eq!(set.apply(&[again(2, 5)], later), [Done]);
    }
}

#[test]
fn or_it_grows_up_to_four_times() {
    for nft in [false, true] {
        let (mut set, now) = (set(nft, 2, WhenFull::Grow), Instant::now());
        let outcomes: Vec<Outcome> = (0..9)
            .flat_map(|host| set.apply(&[ban(host, 60 + u32::from(host))], now))
            .collect();
        use Outcome::{Done, Grown, Replaced};
        let expected = [Done, Done, Grown, Done, Grown, Done, Done, Done, Replaced];
        assert_eq!(outcomes, expected, "nft {nft}");
        assert_eq!(set.kernel.held.len(), 8);
    }
}

#[test]
fn a_set_that_goes_is_made_anew_and_told_once() {
    let (mut set, now) = (set(false, 9, WhenFull::Replace), Instant::now());
    assert_eq!(set.apply(&[ban(1, 60)], now), [Outcome::Done]);
    set.kernel.missing = true;
    let outcomes = set.apply(&[ban(2, 60), ban(3, 60)], now);
    assert_eq!(outcomes, [Outcome::Remade, Outcome::Done]);
    assert_eq!((seconds(&set, 1), seconds(&set, 2)), (None, Some(60)));
    set.kernel.missing = true;
    assert_eq!(set.apply(&[ban(2, 90)], now), [Outcome::Remade]);
    set.kernel.missing = true;
    assert_eq!(set.check(now), Outcome::Remade);
    assert_eq!(set.check(now), Outcome::Done);
    set.kernel.missing = true;
    let unban = Wish::Unban("10.0.0.1/32".parse().unwrap());
    assert_eq!(set.apply(&[unban], now), [Outcome::NoSet]);
}

#[test]
fn where_networks_cannot_overlap_the_wider_one_holds_the_others() {
    let (mut set, now) = (set(true, 99, WhenFull::Replace), Instant::now());
    let ban = |network: &str, seconds| Wish::Ban(network.parse().unwrap(), seconds);
    set.apply(
        &[
            ban("10.0.0.0/24", 600),
            ban("10.0.1.0/24", 30),
            ban("10.0.0.1/32", 9),
        ],
        now,
    );
    let wide = ban("10.0.0.0/16", 60);
    assert_eq!(set.apply(&[wide], now), [Outcome::Done]);
    assert_eq!(set.kernel.held.len(), 2, "single addresses are elsewhere");
    assert_eq!(set.apply(&[ban("10.0.2.0/24", 600)], now), [Outcome::Kept]);
    assert_eq!(set.apply(&[ban("10.0.2.1/32", 600)], now), [Outcome::Done]);
    assert_eq!(set.apply(&[wide], now), [Outcome::Kept]);
}

#[test]
fn a_set_that_somebody_else_emptied_is_seen_and_one_entry_that_he_took_is_let_be() {
    let (mut set, now) = (set(false, 999, WhenFull::Replace), Instant::now());
    assert_eq!(set.look(now), Outcome::Done, "nothing need be there");
    let wishes: Vec<Wish> = (0..200).map(|host| ban(host, 60)).collect();
    set.apply(&wishes, now);
    assert_eq!(set.look(now), Outcome::Done);
    // One by one, until none is left.
    for host in 0..200 {
        let network: IpNetwork = format!("10.0.0.{host}/32").parse().unwrap();
        set.kernel.held.remove(&network);
        assert_eq!(set.look(now), Outcome::Done, "{host}");
    }
    set.apply(&wishes[..3], now);
    set.kernel.held.clear();
    assert_eq!(set.look(now), Outcome::Emptied);
    // Told once; what is put in again is known.
    assert_eq!(set.look(now), Outcome::Done);
    assert_eq!(set.apply(&wishes[..2], now), [Outcome::Done; 2]);
    assert_eq!(set.look(now), Outcome::Done);
    // What has ended by itself is not missed.
    set.kernel.held.clear();
    assert_eq!(set.look(now + Duration::from_secs(58)), Outcome::Done);
}

#[test]
fn one_of_the_two_sets_of_a_family_that_was_emptied_alone_is_seen() {
    for networks in [false, true] {
        let (mut set, now) = (set(true, 999, WhenFull::Replace), Instant::now());
        let mut wishes: Vec<Wish> = (0..100).map(|host| ban(host, 60)).collect();
        wishes.truncate(if networks { 100 } else { 2 });
        let wide = (0..if networks { 2_u8 } else { 100 })
            .map(|net| Wish::Ban(format!("10.9.{net}.0/24").parse().unwrap(), 60));
        wishes.extend(wide);
        set.apply(&wishes, now);
        assert_eq!(set.look(now), Outcome::Done);
        set.kernel.held.retain(|net, _| is_single(*net) == networks);
        assert_eq!(set.look(now), Outcome::Emptied);
    }
}

#[test]
fn a_set_that_we_emptied_ourselves_is_as_it_should_be() {
    let (mut set, now) = (set(false, 9, WhenFull::Replace), Instant::now());
    set.apply(&[ban(1, 60), ban(2, 60), ban(3, 60)], now);
    assert_eq!(set.flush(), Outcome::Done);
    assert!(set.kernel.held.is_empty());
    assert_eq!(set.look(now), Outcome::Done);
    assert_eq!(set.apply(&[ban(1, 60)], now), [Outcome::Done]);
    set.kernel.missing = true;
    assert_eq!(set.flush(), Outcome::NoSet);
}

#[test]
fn a_set_that_was_emptied_in_a_wave_is_seen_although_it_has_filled_again() {
    let (mut set, now) = (set(false, 999, WhenFull::Replace), Instant::now());
    set.look(now);
    set.apply(&(0..80).map(|host| ban(host, 60)).collect::<Vec<_>>(), now);
    assert_eq!(set.look(now), Outcome::Done);
    set.kernel.held.clear();
    let wave: Vec<Wish> = (0..400)
        .map(|host| format!("10.1.{}.{}/32", host / 200, host % 200))
        .map(|network| Wish::Ban(network.parse().unwrap(), 60))
        .collect();
    set.apply(&wave, now);
    assert_eq!(set.look(now), Outcome::Emptied);
}

#[test]
fn one_that_was_made_again_or_is_missing_or_unused_is_seen() {
    let (mut set, now) = (set(true, 9, WhenFull::Replace), Instant::now());
    set.apply(&[ban(1, 60)], now);
    set.kernel.another = true;
    assert_eq!(set.look(now), Outcome::Emptied);
    set.apply(&[ban(2, 60)], now);
    set.kernel.missing = true;
    assert_eq!(set.look(now), Outcome::Remade);
    assert!(set.kernel.held.is_empty());
    assert_eq!(set.look(now), Outcome::Done);
    set.kernel.unused = true;
    assert_eq!(set.look(now), Outcome::Unused);
}
