//! Whether something grows: judged by the second half of what was seen, when what is learned once has been learned.

use serde::{Deserialize, Serialize};

/// How a quantity went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Trend {
    /// The first value.
    pub first: f64,
    /// The mean of the tenth in the middle.
    pub middle: f64,
    /// The mean of the last tenth.
    pub last: f64,
    /// The greatest.
    pub most: f64,
    /// By how much the straight line through the second half rises within it (least squares).
    pub growth: f64,
    /// The same in an hour.
    pub per_hour: f64,
}

impl Trend {
    /// That of values at moments in seconds; `None` of too few.
    #[must_use]
    pub fn of(points: &[(f64, f64)]) -> Option<Self> {
        let half = &points[points.len() / 2..];
        let slope = slope(half)?;
        let time = half.last()?.0 - half.first()?.0;
        let tenth = points.len().div_ceil(10);
        let mean = |part: &[(f64, f64)]| sum(part.iter().map(|point| point.1)) / count(part.len());
        let middle = points.len() / 2;
        Some(Self {
            first: points.first()?.1,
            middle: mean(&points[middle..(middle + tenth).min(points.len())]),
            last: mean(&points[points.len() - tenth..]),
            most: points.iter().map(|point| point.1).fold(0.0, f64::max),
            growth: slope * time,
            per_hour: slope * 3600.0,
        })
    }

    /// Whether both the line and the means rise by no more than `allowed`.
    #[must_use]
    pub fn is_flat(&self, allowed: f64) -> bool {
        self.growth <= allowed && self.last - self.middle <= allowed
    }
}

fn sum(values: impl Iterator<Item = f64>) -> f64 {
    values.sum()
}

#[expect(clippy::cast_precision_loss, reason = "some hundred samples")]
fn count(number: usize) -> f64 {
    number as f64
}

/// That of the line with the least squares.
fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let number = count(points.len());
    let (x, y) = (
        sum(points.iter().map(|point| point.0)) / number,
        sum(points.iter().map(|point| point.1)) / number,
    );
    let spread = sum(points.iter().map(|point| (point.0 - x).powi(2)));
    let both = sum(points.iter().map(|point| (point.0 - x) * (point.1 - y)));
    (points.len() > 2 && spread > 0.0).then(|| both / spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(of: impl Fn(f64) -> f64) -> Vec<(f64, f64)> {
        (0..=100)
            .map(|n| f64::from(n) * 36.0)
            .map(|at| (at, of(at)))
            .collect()
    }

    #[test]
    fn what_is_learned_in_the_first_half_does_not_count() {
        let trend = Trend::of(&points(|at| at.min(1800.0))).unwrap();
        assert_eq!((trend.first, trend.last, trend.most), (0.0, 1800.0, 1800.0));
        assert!(trend.is_flat(1.0), "{trend:?}");
    }

    #[test]
    fn what_grows_is_seen_with_its_rate() {
        let trend = Trend::of(&points(|at| 5000.0 + at)).unwrap();
        assert!((trend.per_hour - 3600.0).abs() < 0.001, "{trend:?}");
        assert!((trend.growth - 1800.0).abs() < 0.001, "{trend:?}");
        assert!(!trend.is_flat(1000.0));
        assert_eq!(Trend::of(&[(0.0, 1.0), (1.0, 1.0)]), None);
    }
}
