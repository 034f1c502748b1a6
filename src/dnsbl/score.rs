//! From what the lists say to how far a client is judged: sums and thresholds.
//! Whole numbers, so that the order in which answers come in cannot matter.

use std::fmt;

/// Points, exact to a thousandth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Score(i64);

/// The most points that can be written.
const MOST: f64 = 100_000.0;

impl Score {
    /// No points.
    pub const ZERO: Self = Self(0);

    /// So many points; `None` where that is no number, or beyond ±100,000.
    #[must_use]
    pub fn from_points(points: f64) -> Option<Self> {
        #[expect(clippy::cast_possible_truncation, reason = "within ±100,000,000")]
        (-MOST..=MOST)
            .contains(&points)
            .then(|| Self((points * 1000.0).round() as i64))
    }

    /// Whether it speaks for the client.
    #[must_use]
    pub fn is_negative(self) -> bool {
        self.0 < 0
    }

    /// Whether it speaks against the client.
    #[must_use]
    pub fn is_positive(self) -> bool {
        self.0 > 0
    }

    /// The points as a number.
    #[must_use]
    pub fn points(self) -> f64 {
        // Exact: at most some 2^40 thousandths.
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let thousandths = self.0 as f64;
        thousandths / 1000.0
    }
}

impl std::ops::Add for Score {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl std::ops::Sub for Score {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl std::iter::Sum for Score {
    fn sum<I: Iterator<Item = Self>>(scores: I) -> Self {
        scores.fold(Self::ZERO, |sum, score| sum + score)
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.points())
    }
}

/// How far a client is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Its mail is accepted.
    Pass,
    /// Its mail is refused with a text at the end of data.
    Reject,
    /// It is refused, ended and banned.
    Ban,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "pass",
            Self::Reject => "reject",
            Self::Ban => "ban",
        })
    }
}

/// From how many points on a client is refused and banned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Refused from here on.
    pub reject: Score,
    /// Banned from here on.
    pub ban: Score,
    /// How many lists must name a client that is to be banned.
    pub ban_needs: usize,
    /// Whether one that an allow list vouches for is never banned.
    pub vouched_never_ban: bool,
}

/// What has been found of a client so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// All points together.
    pub score: Score,
    /// How many lists speak against it.
    pub against: usize,
    /// Whether an allow list speaks for it.
    pub vouched: bool,
}

/// How much a list that has not answered yet could add.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// The most for the client: not above zero.
    pub least: Score,
    /// The most against it: not below zero.
    pub most: Score,
}

impl Tally {
    /// The tally with one list's word.
    #[must_use]
    pub fn with(self, score: Score) -> Self {
        Self {
            score: self.score + score,
            against: self.against + usize::from(score.is_positive()),
            vouched: self.vouched || score.is_negative(),
        }
    }

    /// The tally without the word of one list, `score`, that it has.
    #[must_use]
    pub fn without(self, score: Score) -> Self {
        Self {
            score: self.score - score,
            against: self.against - usize::from(score.is_positive()),
            vouched: self.vouched,
        }
    }
}

impl Thresholds {
    /// How far a client with this tally is judged.
    #[must_use]
    pub fn level(&self, tally: Tally) -> Level {
        if tally.score >= self.ban
            && tally.against >= self.ban_needs
            && !(tally.vouched && self.vouched_never_ban)
        {
            Level::Ban
        } else if tally.score >= self.reject {
            Level::Reject
        } else {
            Level::Pass
        }
    }

    /// The level that stands whatever the outstanding lists say; `None` where
    /// they could change it. (A higher score, more lists and no voucher never
    /// lower it, so the two ends tell.)
    #[must_use]
    pub fn decided(&self, tally: Tally, outstanding: impl Iterator<Item = Reach>) -> Option<Level> {
        let (mut best, mut worst) = (tally, tally);
        for reach in outstanding {
            best = best.with(reach.least);
            worst.score = worst.score + reach.most;
            worst.against += usize::from(reach.most.is_positive());
        }
        let level = self.level(best);
        (level == self.level(worst)).then_some(level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(points: f64) -> Score {
        Score::from_points(points).unwrap()
    }

    fn thresholds(ban_needs: usize) -> Thresholds {
        Thresholds {
            reject: points(5.0),
            ban: points(10.0),
            ban_needs,
            vouched_never_ban: true,
        }
    }

    fn tally(scores: &[f64]) -> Tally {
        scores
            .iter()
            .fold(Tally::default(), |tally, score| tally.with(points(*score)))
    }

    #[test]
    fn levels_by_score_agreement_and_vouchers() {
        for (scores, needs, expected) in [
            (&[][..], 1, Level::Pass),
            (&[4.999], 1, Level::Pass),
            (&[5.0], 1, Level::Reject),
            (&[2.5, 2.5], 1, Level::Reject),
            (&[9.999], 1, Level::Reject),
            (&[10.0], 1, Level::Ban),
            (&[10.0], 2, Level::Reject),
            (&[9.0, 1.0], 2, Level::Ban),
            (&[20.0, -1.0], 1, Level::Reject),
            (&[20.0, -16.0], 1, Level::Pass),
            (&[0.0, 0.0, 10.0], 2, Level::Reject),
        ] {
            assert_eq!(
                thresholds(needs).level(tally(scores)),
                expected,
                "{scores:?}, {needs}"
            );
        }
    }

    #[test]
    fn it_is_decided_once_no_outstanding_list_can_change_it() {
        let reach = |least: f64, most: f64| Reach {
            least: points(least),
            most: points(most),
        };
        for (scores, outstanding, expected) in [
            (&[10.0][..], vec![reach(0.0, 10.0)], Some(Level::Ban)),
            (&[10.0], vec![reach(-1.0, 0.0)], None),
            (&[], vec![reach(0.0, 4.0)], Some(Level::Pass)),
            (&[], vec![reach(0.0, 3.0), reach(0.0, 3.0)], None),
            (&[5.0], vec![reach(0.0, 4.0)], Some(Level::Reject)),
            (&[5.0], vec![reach(0.0, 5.0)], None),
            (&[5.0], vec![], Some(Level::Reject)),
        ] {
            let decided = thresholds(1).decided(tally(scores), outstanding.iter().copied());
            assert_eq!(decided, expected, "{scores:?}, {outstanding:?}");
        }
        let agreement = thresholds(2).decided(tally(&[10.0]), [reach(0.0, 0.1)].into_iter());
        assert_eq!(agreement, None, "a second list may agree");
    }

    #[test]
    fn points_are_exact_to_a_thousandth_and_bounded() {
        assert_eq!(points(0.1) + points(0.2), points(0.3));
        assert_eq!(points(2.5).to_string(), "2.5");
        for wrong in [f64::NAN, f64::INFINITY, 1e6, -1e6] {
            assert_eq!(Score::from_points(wrong), None);
        }
    }
}
