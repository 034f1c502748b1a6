//! When a child that has ended is started again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Children of a role that may end within [`WINDOW`] before the next one has to
/// wait.
const AT_ONCE: usize = 2;
const WINDOW: Duration = Duration::from_secs(60);
/// The wait after those, doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// When the children of a role have ended, and when the next one is due.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Restarts {
    ends: VecDeque<Instant>,
    /// When the next one is to be started.
    pub due: Option<Instant>,
    /// Whether the latest pause was the longest already.
    settled: bool,
}

impl Restarts {
    /// The first one is due then.
    #[must_use]
    pub fn due(then: Instant) -> Self {
        Self {
            due: Some(then),
            ..Self::default()
        }
    }

    /// One has ended, or could not be started: the next one is due after this
    /// pause. `None`: the same as the last time, which need not be told again.
    pub fn ended(&mut self, now: Instant) -> Option<Duration> {
        self.ends.push_back(now);
        // As many as the longest pause lets end in this time, and more.
        let window = |end: &Instant| now.saturating_duration_since(*end) < WINDOW;
        self.ends.retain(window);
        let mut pause = pause(self.ends.len());
        if self.settled && self.ends.len() > 1 {
            // It is a pause of its own that lets so few end in a minute.
            pause = LONGEST_PAUSE;
        }
        self.due = Some(now + pause);
        let told = self.settled;
        self.settled = pause == LONGEST_PAUSE;
        (!(told && self.settled)).then_some(pause)
    }
}

impl Restarts {
    /// What the next supervisor needs to know, in milliseconds from `now`: whether the
    /// longest pause was told, when the next one is due (`-`: none is), and how long
    /// ago each has ended.
    #[must_use]
    pub fn to_words(&self, now: Instant) -> String {
        let due = self.due.map(|due| due.saturating_duration_since(now));
        let due = due.map_or("-".into(), |due| due.as_millis().to_string());
        let mut words = format!("{},{due}", u8::from(self.settled));
        for end in &self.ends {
            let ago = now.saturating_duration_since(*end).as_millis();
            words.push_str(&format!(",{ago}"));
        }
        words
    }

    /// What [`Restarts::to_words`] told; `None` where it is wrong.
    #[must_use]
    pub fn from_words(words: &str, now: Instant) -> Option<Self> {
        let time = |word: &str| Some(Duration::from_millis(word.parse().ok()?));
        let mut words = words.split(',');
        let settled = match words.next()? {
            "0" => false,
            "1" => true,
            _ => return None,
        };
        let due = match words.next()? {
            "-" => None,
            word => Some(now.checked_add(time(word)?)?),
        };
        // One before the machine's start is no more of interest.
        let ends: Option<Vec<_>> = words
            .map(|word| Some(now.checked_sub(time(word)?)))
            .collect();
        let ends = ends?.into_iter().flatten().collect();
        Some(Self { ends, due, settled })
    }
}

/// How long to wait when so many have ended within the last minute.
fn pause(ended: usize) -> Duration {
    match u32::try_from(ended.saturating_sub(AT_ONCE)) {
        Ok(0) => Duration::ZERO,
        Ok(further) if further < 6 => (FIRST_PAUSE * 2_u32.pow(further - 1)).min(LONGEST_PAUSE),
        _ => LONGEST_PAUSE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_third_in_a_minute_waits_and_each_further_one_longer() {
        let seconds: Vec<u64> = (0..10).map(|ended| pause(ended).as_secs()).collect();
        assert_eq!(seconds, [0, 0, 0, 1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(pause(usize::MAX).as_secs(), 30);
    }

    #[test]
    fn what_never_lives_is_tried_every_half_minute_and_told_once() {
        let (mut restarts, mut now) = (Restarts::default(), Instant::now());
        let mut told = 0;
        let mut pauses = Vec::new();
        for _ in 0..30 {
            told += usize::from(restarts.ended(now).is_some());
            let due = restarts.due.unwrap();
            pauses.push((due - now).as_secs());
            now = due;
        }
        assert_eq!(pauses[..8], [0, 0, 1, 2, 4, 8, 16, 30]);
        assert!(pauses[8..].iter().all(|pause| *pause == 30), "{pauses:?}");
        assert_eq!(told, 8);
        // One that has lived for long is replaced at once.
        now += Duration::from_secs(3600);
        assert_eq!(restarts.ended(now), Some(Duration::ZERO));
    }

    #[test]
    fn the_next_supervisor_waits_as_the_one_before_would_have() {
        let now = Instant::now();
        let mut restarts = Restarts::default();
        for _ in 0..5 {
            restarts.ended(now);
        }
        let later = now + Duration::from_secs(1);
        let words = restarts.to_words(later);
        assert_eq!(words, "0,3000,1000,1000,1000,1000,1000");
        let mut next = Restarts::from_words(&words, later).unwrap();
        assert_eq!(next, restarts);
        assert_eq!(next.ended(later), Some(Duration::from_secs(8)));
        let none = Restarts::default().to_words(now);
        assert_eq!(Restarts::from_words(&none, now), Some(Restarts::default()));
        for wrong in ["", "0", "2,-", "0,x", "0,-,", "0,-1", "0,-,1,x"] {
            assert_eq!(Restarts::from_words(wrong, now), None, "{wrong}");
        }
    }
}
