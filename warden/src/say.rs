//! What the warden says on its standard error, which courierfilter hands to
//! syslog: bounded, because who asks it may be anybody. Of what goes wrong ten
//! lines a second, and the number of the others; of what it refuses one line a
//! second, with how many there were of each kind.

use std::fmt::{Arguments, Write as _};
use std::io::{self, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rblfilter_warden::request::Outcome;

/// Lines in a second.
const LINES: u32 = 10;
/// That second.
const WINDOW: Duration = Duration::from_secs(1);
/// What is refused, by what is told of it.
const REFUSED: [(Outcome, &str); 5] = [
    (Outcome::TooMany, "too many in a second"),
    (Outcome::RefusedProtected, "of protected addresses"),
    (Outcome::RefusedAllowlisted, "of allowlisted addresses"),
    (Outcome::RefusedRange, "of a wrong prefix or time"),
    (Outcome::Malformed, "malformed"),
];

static SAID: Mutex<Said> = Mutex::new(Said::new());

/// What was said, and what is still to be.
struct Said {
    /// When the second of the latest line began, and how many there were in it.
    lines: Option<(Instant, u32)>,
    left_out: u64,
    refused: [u64; REFUSED.len()],
    told_refused: Option<Instant>,
}

/// Says a line, unless there were too many.
pub fn line(text: Arguments) {
    let mut said = said();
    let now = Instant::now();
    if let Some(more) = said.left_out(now) {
        write(format_args!("{more}"));
    }
    if said.may_say(now) {
        write(text);
    }
}

/// Notes an answer, which may be a refusal.
pub fn answered(outcome: Outcome) {
    if let Some(place) = REFUSED.iter().position(|(refused, _)| *refused == outcome) {
        said().refused[place] += 1;
    }
}

/// Says what is due. Call it once a second at least.
pub fn settle() {
    let mut said = said();
    let now = Instant::now();
    for text in [said.left_out(now), said.refusals(now)]
        .into_iter()
        .flatten()
    {
        write(format_args!("{text}"));
    }
}

/// Says what is left, due or not: nobody asks any more.
pub fn rest() {
    let mut said = said();
    said.lines = None;
    said.told_refused = None;
    drop(said);
    settle();
}

fn write(text: Arguments) {
    // Where nobody reads it any more there is nobody to be told.
    let _ = writeln!(io::stderr(), "rblfilter-warden: {text}");
}

fn said() -> MutexGuard<'static, Said> {
    SAID.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Said {
    const fn new() -> Self {
        Self {
            lines: None,
            left_out: 0,
            refused: [0; REFUSED.len()],
            told_refused: None,
        }
    }

    fn may_say(&mut self, now: Instant) -> bool {
        let (begun, count) = match self.lines {
            Some((begun, count)) if now.duration_since(begun) < WINDOW => (begun, count),
            _ => (now, 0),
        };
        if count >= LINES {
            self.left_out += 1;
            return false;
        }
        self.lines = Some((begun, count + 1));
        true
    }

    /// How many lines were not said, once their second is over.
    fn left_out(&mut self, now: Instant) -> Option<String> {
        let over = self
            .lines
            .is_none_or(|(begun, _)| now.duration_since(begun) >= WINDOW);
        if self.left_out == 0 || !over {
            return None;
        }
        let count = std::mem::take(&mut self.left_out);
        Some(format!("{count} more lines like these were left out"))
    }

    /// What was refused since the last time, where that is a second ago.
    fn refusals(&mut self, now: Instant) -> Option<String> {
        let recent = self
            .told_refused
            .is_some_and(|at| now.duration_since(at) < WINDOW);
        if recent || self.refused == [0; REFUSED.len()] {
            return None;
        }
        self.told_refused = Some(now);
        let mut text = String::from("refused requests:");
        for (count, (_, what)) in self.refused.iter_mut().zip(REFUSED) {
            if *count > 0 {
                // Writing to a String cannot fail.
                let _ = write!(text, " {count} {what},");
                *count = 0;
            }
        }
        text.pop();
        Some(text)
    }

    #[cfg(test)]
    fn is_pending(&self) -> bool {
        self.left_out > 0 || self.refused != [0; REFUSED.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_lines_a_second_and_the_number_of_the_others() {
        let (mut said, now) = (Said::new(), Instant::now());
        let count = (0..500).filter(|_| said.may_say(now)).count();
        assert_eq!(count, 10);
        assert_eq!(said.left_out(now), None, "the second is not over");
        assert!(said.is_pending());
        let later = now + WINDOW;
        assert_eq!(
            said.left_out(later).unwrap(),
            "490 more lines like these were left out"
        );
        assert!(!said.is_pending() && said.may_say(later));
    }

    #[test]
    fn refusals_are_summed_up_once_a_second() {
        let (mut said, now) = (Said::new(), Instant::now());
        assert_eq!(said.refusals(now), None);
        said.refused[1] = 1;
        assert_eq!(
            said.refusals(now).unwrap(),
            "refused requests: 1 of protected addresses"
        );
        said.refused = [4000, 0, 0, 3, 0];
        assert_eq!(said.refusals(now + WINDOW / 2), None);
        assert_eq!(
            said.refusals(now + WINDOW).unwrap(),
            "refused requests: 4000 too many in a second, 3 of a wrong prefix or time"
        );
        assert!(!said.is_pending());
    }
}
