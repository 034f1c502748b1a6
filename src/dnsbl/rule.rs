//! What each of a list's answers is worth.

use std::net::Ipv4Addr;

use super::Codes;
use super::score::{Reach, Score};

/// The most rules of one list: the cache keeps which of them matched in the
/// bits of a number.
pub const MOST_RULES: usize = 32;

/// Which of a list's answers a rule is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// Those in these ranges.
    Codes(Codes),
    /// DNSWL's level of trust, the last octet of 127.0.CATEGORY.LEVEL
    /// (<https://www.dnswl.org/?page_id=15>).
    Trust(u8),
}

/// Some of a list's answers, and the score of a client that gets one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Which answers.
    pub of: Match,
    /// Their score.
    pub score: Score,
}

impl Rule {
    /// Whether `code` is one of its answers.
    #[must_use]
    pub fn matches(&self, code: Ipv4Addr) -> bool {
        match &self.of {
            Match::Codes(codes) => codes.contains(code),
            Match::Trust(level) => {
                let [a, b, category, last] = code.octets();
                [a, b] == [127, 0] && category > 0 && last == *level
            }
        }
    }
}

/// Which of a list's rules an answer met, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Met(pub u32);

impl Met {
    /// The rules that any of `codes` meets: each counts once, however many do.
    #[must_use]
    pub fn of(codes: &[Ipv4Addr], rules: &[Rule]) -> Self {
        let bits = rules.iter().take(MOST_RULES).enumerate();
        Self(
            bits.filter(|(_, rule)| codes.iter().any(|code| rule.matches(*code)))
                .fold(0, |met, (bit, _)| met | 1 << bit),
        )
    }

    /// Whether it met none.
    #[must_use]
    pub fn is_none(self) -> bool {
        self.0 == 0
    }

    /// The score of all that it met.
    #[must_use]
    pub fn score(self, rules: &[Rule]) -> Score {
        rules
            .iter()
            .take(MOST_RULES)
            .enumerate()
            .filter(|(bit, _)| self.0 & 1 << bit != 0)
            .map(|(_, rule)| rule.score)
            .sum()
    }
}

/// The most and the least that these rules could add up to.
#[must_use]
pub fn reach(rules: &[Rule]) -> Reach {
    let sum = |wanted: fn(Score) -> bool| {
        rules
            .iter()
            .map(|rule| rule.score)
            .filter(|score| wanted(*score))
            .sum()
    };
    Reach {
        least: sum(Score::is_negative),
        most: sum(Score::is_positive),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(codes: &str, points: f64) -> Rule {
        let mut range = Codes::default();
        range.add(codes).unwrap();
        Rule {
            of: Match::Codes(range),
            score: Score::from_points(points).unwrap(),
        }
    }

    fn score(answers: &[&str], rules: &[Rule]) -> f64 {
        let codes: Vec<Ipv4Addr> = answers.iter().map(|a| a.parse().unwrap()).collect();
        Met::of(&codes, rules).score(rules).points()
    }

    #[test]
    fn each_rule_that_matches_counts_once() {
        let rules = [
            rule("127.0.0.2", 10.0),
            rule("127.0.0.3-127.0.0.4", 2.5),
            rule("127.0.0.4", 1.0),
        ];
        for (answers, expected) in [
            (&["127.0.0.2"][..], 10.0),
            (&["127.0.0.3", "127.0.0.4"], 3.5),
            (&["127.0.0.4", "127.0.0.2", "127.0.0.2"], 13.5),
            (&["127.0.0.9"], 0.0),
            (&[], 0.0),
        ] {
            assert!(
                (score(answers, &rules) - expected).abs() < 1e-9,
                "{answers:?}"
            );
        }
        assert!((reach(&rules).most.points() - 13.5).abs() < 1e-9);
    }

    #[test]
    fn dnswls_last_octet_is_the_trust() {
        let rules: Vec<Rule> = [0.0, -1.0, -5.0, -10.0]
            .iter()
            .zip(0..)
            .map(|(points, level)| Rule {
                of: Match::Trust(level),
                score: Score::from_points(*points).unwrap(),
            })
            .collect();
        for (answer, expected) in [
            ("127.0.5.0", 0.0),
            ("127.0.5.1", -1.0),
            ("127.0.15.2", -5.0),
            ("127.0.2.3", -10.0),
            ("127.0.0.255", 0.0),
            ("127.0.0.3", 0.0),
            ("127.1.5.3", 0.0),
        ] {
            assert!(
                (score(&[answer], &rules) - expected).abs() < 1e-9,
                "{answer}"
            );
        }
    }
}
