//! How long something takes: counted by fixed bounds, so that it takes little
//! room however much is counted, and two looks tell what was between them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// The upper bounds, in microseconds; what is beyond the last is counted too.
pub const BOUNDS: [u64; 16] = [
    100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];
const BUCKETS: usize = BOUNDS.len() + 1;

/// A histogram that is counted in, and only ever grows. Its clones are the same
/// one, as with [`prometheus_client::metrics::counter::Counter`].
#[derive(Clone, Debug, Default)]
pub struct Latency(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    counts: [AtomicU64; BUCKETS],
    /// In microseconds.
    sum: AtomicU64,
}

/// What a [`Latency`] had counted at a moment, or between two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    /// How many there were up to each of [`BOUNDS`] and above the one before, and
    /// beyond the last.
    pub counts: [u64; BUCKETS],
    /// All together, in microseconds.
    pub sum: u64,
}

impl Latency {
    /// Counts one that took so long.
    pub fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|bound| *bound < micros);
        self.0.counts[bucket].fetch_add(1, Relaxed);
        self.0.sum.fetch_add(micros, Relaxed);
    }

    /// What has been counted so far.
    #[must_use]
    pub fn spread(&self) -> Spread {
        let mut spread = Spread {
            sum: self.0.sum.load(Relaxed),
            ..Spread::default()
        };
        for (count, counted) in spread.counts.iter_mut().zip(&self.0.counts) {
            *count = counted.load(Relaxed);
        }
        spread
    }
}

impl Spread {
    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// What came after `earlier`, a look at the same histogram.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut since = *self;
        since.sum = since.sum.wrapping_sub(earlier.sum);
        for (count, before) in since.counts.iter_mut().zip(&earlier.counts) {
            *count = count.saturating_sub(*before);
        }
        since
    }

    /// How long it took at most in this share (0 to 1) of all cases: 0.5 is the
    /// median. Within two bounds all are taken as evenly spread; beyond the last
    /// bound it is that one. `None` where nothing was counted.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        // The rank is at most the count.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let rank = ((count as f64 * share.clamp(0.0, 1.0)).ceil() as u64).clamp(1, count);
        let (mut below, mut lower) = (0, 0);
        for (count, bound) in self.counts.iter().zip(BOUNDS) {
            if below + count >= rank {
                let part = (bound - lower) as f64 * (rank - below) as f64 / *count as f64;
                return Some(Duration::from_secs_f64((lower as f64 + part) / 1e6));
            }
            below += count;
            lower = bound;
        }
        Some(Duration::from_micros(lower))
    }
}

impl TypedMetric for Latency {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Latency {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let spread = self.spread();
        let bounds = BOUNDS.map(|bound| bound as f64 / 1e6);
        let buckets: Vec<(f64, u64)> = bounds
            .into_iter()
            .chain([f64::INFINITY])
            .zip(spread.counts)
            .collect();
        let sum = spread.sum as f64 / 1e6;
        encoder.encode_histogram::<NoLabelSet>(sum, spread.count(), &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::registry::{Registry, Unit};

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn quantiles_lie_within_the_bounds_of_what_was_counted() {
        let latency = Latency::default();
        assert_eq!(latency.spread().quantile(0.5), None);
        for _ in 0..98 {
            latency.observe(millis(2));
        }
        latency.observe(millis(700));
        latency.observe(Duration::MAX);
        let spread = latency.spread();
        assert_eq!(spread.count(), 100);
        for (share, from, to) in [
            (0.0, 1, 3),
            (0.5, 1, 3),
            (0.98, 1, 3),
            (0.99, 500, 1000),
            (1.0, 10_000, 10_000),
        ] {
            let at = spread.quantile(share).unwrap();
            assert!(at >= millis(from) && at <= millis(to), "{share}: {at:?}");
        }
    }

    #[test]
    fn one_alone_is_within_its_bounds() {
        let latency = Latency::default();
        latency.observe(Duration::ZERO);
        let spread = latency.spread();
        for share in [0.0, 0.5, 1.0] {
            assert!(spread.quantile(share).unwrap() <= Duration::from_micros(100));
        }
    }

    #[test]
    fn two_looks_tell_what_was_between_them() {
        let latency = Latency::default();
        latency.observe(millis(600));
        let before = latency.spread();
        latency.clone().observe(millis(2));
        let between = latency.spread().since(&before);
        assert_eq!((between.count(), between.sum), (1, 2000));
        assert!(between.quantile(0.99).unwrap() < millis(3));
    }

    #[test]
    fn it_is_a_histogram_of_seconds_for_prometheus() {
        let mut registry = Registry::default();
        let latency = Latency::default();
        latency.observe(millis(2));
        latency.observe(Duration::from_secs(60));
        registry.register_with_unit("took", "It took", Unit::Seconds, latency);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "# TYPE took_seconds histogram",
            "took_seconds_count 2",
            "took_seconds_bucket{le=\"0.001\"} 0",
            "took_seconds_bucket{le=\"0.0025\"} 1",
            "took_seconds_bucket{le=\"10.0\"} 1",
            "took_seconds_bucket{le=\"+Inf\"} 2",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }
}
