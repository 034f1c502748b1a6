//! When all is as it should be: listed sessions are ended at once and their addresses are in the set, and mail is
//! accepted at once. Pure: it looks at what the clients saw.

use std::time::{Duration, Instant};

use super::mail::Letter;
use super::visits::{End, Visit};

/// What is at once in the report: far more than ending a session or accepting a message takes (see
/// `docs/performance.md`), and less than anybody would notice.
pub const AT_ONCE: Duration = Duration::from_secs(1);
/// The same in a test, on a machine that has other things to do.
pub const AT_ONCE_BUSY: Duration = Duration::from_secs(3);
/// How soon an ended session's address is to be in the set.
const IN_SET: Duration = Duration::from_secs(1);
/// Of a hundred that come while all is normal so many are served at once; the machine has other things to do.
const NEARLY_ALL: usize = 90;

/// What is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Looks<'a> {
    /// The clients that came.
    pub visits: &'a [Visit],
    /// The messages.
    pub letters: &'a [Letter],
    /// Whether the set is looked at.
    pub bans: bool,
    /// How soon a listed session is to be ended, and a message accepted.
    pub at_once: Duration,
}

impl Looks<'_> {
    fn listed(&self) -> impl Iterator<Item = &Visit> {
        self.visits.iter().filter(|visit| visit.listed)
    }

    fn is_well(&self, visit: &Visit) -> bool {
        visit.was_ended(self.at_once) && (visit.banned || !self.bans)
    }

    /// Whether all was normal from `from` to `to`, of which enough time has passed to tell.
    #[must_use]
    pub fn is_normal(&self, from: Instant, to: Instant) -> bool {
        let within = |begun: Instant| begun >= from && begun < to;
        let visits: Vec<bool> = self
            .listed()
            .filter(|visit| within(visit.begun))
            .map(|visit| self.is_well(visit))
            .collect();
        let letters: Vec<bool> = self
            .letters
            .iter()
            .filter(|letter| within(letter.begun))
            .map(|letter| letter.went_well(self.at_once))
            .collect();
        let nearly_all = |of: &[bool]| {
            let well = of.iter().filter(|well| **well).count();
            !of.is_empty() && well * 100 >= of.len() * NEARLY_ALL
        };
        nearly_all(&visits) && nearly_all(&letters)
    }

    /// How long after `from` the last trouble before `to` was over: the last listed session that was not ended at once,
    /// or whose address did not come into the set, or message that was not accepted at once.
    #[must_use]
    pub fn trouble(&self, from: Instant, to: Instant) -> Duration {
        let within = |begun: Instant| begun + self.at_once >= from && begun < to;
        let visits = self.listed().filter(|visit| within(visit.begun));
        // Who came a moment later was served, or he would be the last one.
        let visits = visits
            .filter(|visit| !self.is_well(visit))
            .map(|visit| match visit.end {
                Some((End::Cut | End::CutEarly, at)) if at <= visit.begun + self.at_once => {
                    at + IN_SET
                }
                _ => visit.begun + self.at_once,
            });
        let letters = self.letters.iter().filter(|letter| within(letter.begun));
        let letters = letters
            .filter(|letter| !letter.went_well(self.at_once))
            .map(|letter| letter.accepted.unwrap_or(letter.begun + self.at_once));
        visits
            .chain(letters)
            .max()
            .map_or(Duration::ZERO, |last| last.saturating_duration_since(from))
    }
}

/// How long after a moment it can be told whether that was normal, beyond what is at once.
pub const TOLD_AFTER: Duration = Duration::from_millis(1500);

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const TENTH: Duration = Duration::from_millis(100);

    fn visit(begun: Instant, open: Duration, end: End, banned: bool) -> Visit {
        Visit {
            source: Ipv4Addr::LOCALHOST,
            listed: true,
            begun,
            end: Some((end, begun + open)),
            banned,
        }
    }

    fn letter(begun: Instant, took: Duration) -> Letter {
        Letter {
            source: Ipv4Addr::LOCALHOST,
            begun,
            accepted: Some(begun + took),
            tempfailed: 0,
            unconnected: 0,
            cut: 0,
            refused: None,
            done: true,
        }
    }

    fn looks<'a>(visits: &'a [Visit], letters: &'a [Letter]) -> Looks<'a> {
        Looks {
            visits,
            letters,
            bans: true,
            at_once: AT_ONCE,
        }
    }

    #[test]
    fn it_is_normal_when_sessions_are_ended_at_once_and_mail_is_accepted_at_once() {
        let start = Instant::now();
        let at = |tenths: u32| start + TENTH * tenths;
        let good: Vec<Visit> = (0..20)
            .map(|n| visit(at(n), TENTH, End::Cut, true))
            .collect();
        let mail: Vec<Letter> = (0..20).map(|n| letter(at(n), TENTH)).collect();
        assert!(looks(&good, &mail).is_normal(start, at(20)));
        assert_eq!(looks(&good, &mail).trouble(start, at(20)), Duration::ZERO);
        assert!(
            !looks(&good, &mail).is_normal(at(20), at(40)),
            "nobody came"
        );

        for bad in [
            visit(at(5), TENTH * 20, End::Cut, true),
            visit(at(5), TENTH, End::Left, true),
            visit(at(5), TENTH, End::Cut, false),
        ] {
            let mut visits = good.clone();
            visits.extend(vec![bad; 3]);
            assert!(!looks(&visits, &mail).is_normal(start, at(20)));
            let trouble = looks(&visits, &mail).trouble(start, at(20));
            assert!(
                (15..=16).contains(&(trouble.as_millis() / 100)),
                "{trouble:?}"
            );
        }
        let mut late = mail.clone();
        late.extend(vec![letter(at(5), TENTH * 30); 3]);
        assert!(!looks(&good, &late).is_normal(start, at(20)));
        assert_eq!(looks(&good, &late).trouble(start, at(20)), TENTH * 35);
    }
}
