//! What bans rest on. Thousands of bans have the same grounds, so each is kept
//! once and known by its number.

use std::collections::HashMap;
use std::sync::Arc;

/// What the lists said when a client was banned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Grounds {
    /// The lists that named the client, as they may be shown.
    pub zones: Vec<String>,
    /// The lists, by their place in the configuration, without any of which it
    /// would not be banned.
    pub rests_on: Vec<usize>,
    /// Whether the configuration's own lists alone spoke: those can be asked
    /// again, couriertcpd's cannot.
    pub own: bool,
}

/// Those that are known. Number 0 is "not known", with which a ban neither is
/// lifted with a list nor looked up again; it also stands for what comes once
/// the numbers are used up.
#[derive(Debug)]
pub struct Known {
    all: Vec<Arc<Grounds>>,
    numbers: HashMap<Arc<Grounds>, u16>,
}

impl Default for Known {
    fn default() -> Self {
        let unknown = Arc::new(Grounds::default());
        Self {
            numbers: HashMap::from([(Arc::clone(&unknown), 0)]),
            all: vec![unknown],
        }
    }
}

impl Known {
    /// The number of these grounds.
    pub fn number(&mut self, grounds: &Arc<Grounds>) -> u16 {
        if let Some(number) = self.numbers.get(grounds) {
            return *number;
        }
        let Ok(number) = u16::try_from(self.all.len()) else {
            return 0;
        };
        self.all.push(Arc::clone(grounds));
        self.numbers.insert(Arc::clone(grounds), number);
        number
    }

    /// The grounds of this number.
    #[must_use]
    pub fn grounds(&self, number: u16) -> Arc<Grounds> {
        Arc::clone(self.all.get(usize::from(number)).unwrap_or(&self.all[0]))
    }

    /// Whether those of this number rest on `list`.
    #[must_use]
    pub fn rests_on(&self, number: u16, list: usize) -> bool {
        self.all
            .get(usize::from(number))
            .is_some_and(|grounds| grounds.rests_on.contains(&list))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grounds(list: usize) -> Arc<Grounds> {
        Arc::new(Grounds {
            rests_on: vec![list],
            ..Grounds::default()
        })
    }

    #[test]
    fn the_same_grounds_are_kept_once() {
        let mut known = Known::default();
        let one = known.number(&grounds(1));
        assert_eq!(known.number(&grounds(1)), one);
        assert_ne!(known.number(&grounds(2)), one);
        assert!(known.rests_on(one, 1) && !known.rests_on(one, 2));
        assert_eq!(known.number(&Arc::default()), 0);
    }

    #[test]
    fn what_comes_once_the_numbers_are_used_up_rests_on_nothing() {
        let mut known = Known::default();
        for list in 0..70_000 {
            known.number(&grounds(list));
        }
        assert_eq!(known.all.len(), 65_536);
        assert_eq!(known.number(&grounds(69_999)), 0);
        assert_eq!(known.number(&grounds(5)), 6);
    }
}
