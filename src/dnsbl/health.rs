//! Whether a list is believed: its self-tests, its errors, its breaker.
//!
//! A list (each family of it for itself) begins untested and is not believed
//! before it has passed its first self-test. A failed test, an answer that is
//! an error by its address, or a string of errors opens the breaker: the list
//! is neither believed nor waited for, is tested again with growing pauses,
//! and comes back with the first test that it passes. What it said before the
//! last test that it passed stays believed all the while.
//!
//! A resolver may answer the test from its cache while the list is dead. So one
//! that was silent, and passes its test without having failed one, is believed
//! but not waited for: a client's question a second is a trial, until one is
//! answered.
//!
//! Pure: no clock, no I/O.

use std::fmt;
use std::time::{Duration, Instant};

use super::answer::Unknown;
use super::selftest::Failure;

/// The time between two tests of a list that works, less or more a tenth.
pub const TEST_EVERY: Duration = Duration::from_secs(30 * 60);
/// The first pause of a list that does not, doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// After so many errors in a row a test is due.
const ERRORS_TO_TEST: u32 = 3;
/// After so many the breaker opens, whatever the tests say.
const ERRORS_TO_OPEN: u32 = 10;
/// How long a test that was passed stands against a suspicion.
const SUSPICION_AFTER: Duration = Duration::from_secs(2);
/// One that fails again so soon after it came back goes on with its pauses.
const RELAPSE: Duration = Duration::from_secs(600);
/// How often a silent list is tried with a client's question.
const TRY_EVERY: Duration = Duration::from_secs(1);
/// Longer than any answer is kept.
const LIE_REMEMBERED: Duration = Duration::from_secs(7 * 24 * 3600);

/// Whether a list is believed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// It is.
    Yes,
    /// It is, but it was silent: it is tried, and not waited for.
    Try,
    /// That is being found out; it takes a moment.
    Wait,
    /// It is not, and not waited for.
    No,
}

/// A breaker that has opened or closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The list is not believed from now on.
    Opened(Reason),
    /// It is believed again.
    Closed,
}

/// Why a breaker opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The self-test failed.
    Test(Failure),
    /// It answered an error code.
    Answer(Unknown),
    /// So many errors in a row; the last one.
    Row(u32, Unknown),
}

impl Reason {
    /// Whether what it said before may be wrong, and not only missing.
    #[must_use]
    pub fn is_lie(&self) -> bool {
        matches!(self, Self::Test(failure) if failure.is_lie())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Test(failure) => write!(f, "{failure}"),
            Self::Answer(unknown) => write!(f, "{unknown}"),
            Self::Row(times, unknown) => write!(f, "{unknown} ({times} times in a row)"),
        }
    }
}

/// When an answer was got, as far as that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Got {
    /// Not before.
    pub from: Instant,
    /// Not after.
    pub to: Instant,
}

impl Got {
    /// At this moment.
    #[must_use]
    pub fn at(now: Instant) -> Self {
        Self { from: now, to: now }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Untested,
    Closed,
    /// A test is due; whether to wait for it.
    Suspect {
        wait: bool,
    },
    Open {
        /// Whether what it said may have been wrong.
        lied: bool,
        /// Whether its tests fail too.
        fails: bool,
    },
}

/// The health of one list's family.
#[derive(Clone, Debug)]
pub struct Health {
    state: State,
    errors: u32,
    passed: Option<Instant>,
    next_test: Option<Instant>,
    testing: bool,
    pause: Duration,
    /// A client's question was not answered in time, and none was since.
    silent: bool,
    /// That its breaker has opened was told, and not yet that it closed.
    told: bool,
    next_try: Option<Instant>,
    /// Answers got in here are not believed: the list may have lied.
    tainted: Option<(Option<Instant>, Instant)>,
    regular: bool,
}

impl Health {
    /// A list at `now`; `tested` is false where its operator breaks RFC 5782
    /// on purpose: it is believed until it fails to answer.
    #[must_use]
    pub fn new(tested: bool, now: Instant) -> Self {
        Self {
            state: if tested {
                State::Untested
            } else {
                State::Closed
            },
            errors: 0,
            passed: (!tested).then_some(now),
            next_test: tested.then_some(now),
            testing: false,
            pause: FIRST_PAUSE,
            silent: false,
            told: false,
            next_try: None,
            tainted: None,
            regular: tested,
        }
    }

    /// Whether the list is believed now.
    #[must_use]
    pub fn trust(&self) -> Trust {
        match self.state {
            State::Closed if !self.silent => Trust::Yes,
            State::Closed => Trust::Try,
            State::Untested | State::Suspect { wait: true } => Trust::Wait,
            State::Suspect { wait: false } | State::Open { .. } => Trust::No,
        }
    }

    /// Whether an answer that was got then is believed.
    #[must_use]
    pub fn believes(&self, got: Got) -> bool {
        let tainted = self
            .tainted
            .is_some_and(|(from, to)| from.is_none_or(|from| got.to > from) && got.from <= to);
        let stands = matches!(self.trust(), Trust::Yes | Trust::Try) || self.is_confirmed(got);
        !tainted && stands
    }

    /// Whether an answer that was got then may be believed by the next process,
    /// which does not know how the list is: a listing must have been got before
    /// a test that was passed.
    #[must_use]
    pub fn outlives(&self, got: Got, listed: bool) -> bool {
        let confirmed = !listed || !self.regular || self.is_confirmed(got);
        confirmed && self.believes(got)
    }

    fn is_confirmed(&self, got: Got) -> bool {
        self.passed.is_some_and(|passed| got.to <= passed)
    }

    /// Whether the breaker is open: nothing that is new is believed.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// When the last passed test was.
    #[must_use]
    pub fn last_passed(&self) -> Option<Instant> {
        self.passed
    }

    /// The list gave a client's question an answer that is none of the errors.
    pub fn answered(&mut self) -> Option<Change> {
        self.errors = 0;
        self.silent = false;
        self.closed()
    }

    /// What there is to tell of one that is believed without reserve.
    fn closed(&mut self) -> Option<Change> {
        let closed = self.told && self.trust() == Trust::Yes;
        self.told &= !closed;
        closed.then_some(Change::Closed)
    }

    /// Whether a client's question is to be asked of a list that was silent; the
    /// next is a second later.
    pub fn begin_try(&mut self, now: Instant) -> bool {
        let due = self.trust() == Trust::Try && self.next_try.is_none_or(|at| now >= at);
        if due {
            self.next_try = Some(now + TRY_EVERY);
        }
        due
    }

    /// It did not.
    pub fn failed(&mut self, why: &Unknown, now: Instant) -> Option<Change> {
        // These are ours, not the list's.
        if matches!(why, Unknown::Busy | Unknown::Budget | Unknown::Down) {
            return None;
        }
        self.errors = self.errors.saturating_add(1);
        let was_silent = self.silent;
        self.silent |= *why == Unknown::Timeout;
        if self.state != State::Closed {
            return None;
        }
        match why {
            Unknown::ErrorCode(_) => Some(self.open(Reason::Answer(why.clone()), true, now)),
            _ if self.errors >= ERRORS_TO_OPEN && !self.told => {
                // Its test, which may be passed meanwhile, does not show it.
                self.silent = true;
                Some(self.open(Reason::Row(self.errors, why.clone()), false, now))
            }
            // It is tried already.
            _ if was_silent => None,
            _ if self.errors >= ERRORS_TO_TEST || *why == Unknown::Timeout => {
                self.suspect(false, now);
                None
            }
            _ => None,
        }
    }

    /// A message has waited for it in vain, for its answer (`asked`) or for its
    /// test: no other does before it is tested.
    pub fn overdue(&mut self, asked: bool, now: Instant) {
        self.silent |= asked;
        if !self.is_open() {
            self.suspect(false, now);
        }
    }

    /// It lists a client that is known to be good, by an answer that was got
    /// then. Whether the client is to be asked for again: where the answer is
    /// newer than the last test that was passed, the list is tested, and nobody
    /// is convicted on it until it has passed.
    pub fn lists_a_good_client(&mut self, got: Got, now: Instant) -> bool {
        let fresh = |at: Instant| now.saturating_duration_since(at) < SUSPICION_AFTER;
        if !self.regular || self.is_confirmed(got) {
            return false;
        }
        match self.state {
            State::Closed if self.passed.is_some_and(fresh) => return false,
            State::Closed => self.suspect(true, now),
            // A test is due, or on its way.
            State::Untested | State::Suspect { .. } | State::Open { .. } => {}
        }
        true
    }

    /// A test is wanted now.
    pub fn test_now(&mut self, now: Instant) {
        self.next_test = Some(now);
    }

    fn suspect(&mut self, wait: bool, now: Instant) {
        self.state = State::Suspect { wait };
        self.next_test = Some(now);
    }

    fn open(&mut self, reason: Reason, lied: bool, now: Instant) -> Change {
        let fails = matches!(reason, Reason::Test(_));
        let relapse = self
            .passed
            .is_some_and(|passed| now.saturating_duration_since(passed) < RELAPSE);
        if !relapse {
            self.pause = FIRST_PAUSE;
        }
        self.state = State::Open { lied, fails };
        self.told = true;
        self.next_test = Some(now + self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Change::Opened(reason)
    }

    /// When it is to be tested next.
    #[must_use]
    pub fn next_test(&self) -> Option<Instant> {
        self.next_test.filter(|_| !self.testing)
    }

    /// Whether a test is to be begun at `now`; the caller owes its verdict.
    pub fn begin_test(&mut self, now: Instant) -> bool {
        let due = self.next_test().is_some_and(|at| now >= at);
        self.testing |= due;
        due
    }

    /// The verdict of a test. `jitter`, 0 to 1, spreads the tests of many hosts.
    pub fn tested(
        &mut self,
        verdict: Result<(), Failure>,
        now: Instant,
        jitter: f64,
    ) -> Option<Change> {
        self.testing = false;
        match verdict {
            Ok(()) => {
                let was = self.state;
                if let State::Open { lied: true, .. } = was {
                    let from = match self.tainted {
                        // A second lie: what is between is of no worth either.
                        Some((from, to)) if now.saturating_duration_since(to) < LIE_REMEMBERED => {
                            from
                        }
                        _ => self.passed,
                    };
                    self.tainted = Some((from, now));
                }
                // One that it had failed would have shown that it is back.
                if let State::Open { fails: true, .. } = was {
                    self.silent = false;
                }
                self.state = State::Closed;
                self.passed = Some(now);
                self.next_test = self
                    .regular
                    .then(|| now + TEST_EVERY.mul_f64(0.9 + 0.2 * jitter.clamp(0.0, 1.0)));
                if self.is_errors_row() {
                    self.errors = 0;
                }
                self.closed()
            }
            Err(failure) => {
                let lied = failure.is_lie();
                if let State::Open { lied: before, .. } = self.state {
                    self.state = State::Open {
                        lied: before || lied,
                        fails: true,
                    };
                    self.next_test = Some(now + self.pause.mul_f64(0.9 + 0.2 * jitter));
                    self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                    return None;
                }
                Some(self.open(Reason::Test(failure), lied, now))
            }
        }
    }

    /// Whether a row of errors opened it: a passed test ends that row.
    fn is_errors_row(&self) -> bool {
        self.errors >= ERRORS_TO_OPEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const SECOND: Duration = Duration::from_secs(1);

    fn lies() -> Result<(), Failure> {
        Err(Failure::ListsTheWorld(Ipv4Addr::new(127, 0, 0, 2)))
    }

    fn passed(health: &mut Health, now: Instant) -> Option<Change> {
        health.tested(Ok(()), now, 0.5)
    }

    fn healthy(now: Instant) -> Health {
        let mut health = Health::new(true, now);
        assert!(health.begin_test(now));
        assert_eq!(passed(&mut health, now), None);
        health
    }

    #[test]
    fn nobody_believes_a_list_before_its_first_test() {
        let now = Instant::now();
        let mut health = Health::new(true, now);
        assert_eq!(health.trust(), Trust::Wait);
        assert!(!health.believes(Got::at(now)));
        assert!(
            health.begin_test(now) && !health.begin_test(now),
            "one test at a time"
        );
        assert_eq!(passed(&mut health, now), None, "nothing to tell of");
        assert_eq!(health.trust(), Trust::Yes);
        let untested = Health::new(false, now);
        assert_eq!((untested.trust(), untested.next_test()), (Trust::Yes, None));
    }

    #[test]
    fn tests_come_every_half_hour_with_jitter() {
        let now = Instant::now();
        for (jitter, minutes) in [(0.0, 27), (1.0, 33)] {
            let mut health = healthy(now);
            health.tested(Ok(()), now, jitter);
            assert_eq!(health.next_test(), Some(now + SECOND * 60 * minutes));
        }
    }

    #[test]
    fn a_failed_test_opens_and_pauses_double_until_one_is_passed() {
        let start = Instant::now();
        let mut health = healthy(start);
        let mut now = start + SECOND * 1800;
        assert!(matches!(
            health.tested(lies(), now, 0.5),
            Some(Change::Opened(_))
        ));
        assert_eq!(health.trust(), Trust::No);
        let mut pauses = Vec::new();
        for _ in 0..10 {
            let next = health.next_test().unwrap();
            pauses.push((next - now).as_secs());
            now = next;
            assert!(health.begin_test(now));
            assert_eq!(health.tested(lies(), now, 0.5), None, "told once");
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
        assert_eq!(passed(&mut health, now), Some(Change::Closed));
        assert_eq!(health.trust(), Trust::Yes);
    }

    #[test]
    fn what_a_list_said_before_its_last_passed_test_stays_believed() {
        let start = Instant::now();
        let mut health = healthy(start + SECOND * 10);
        let said = |seconds: u32| start + SECOND * seconds;
        health.tested(lies(), said(100), 0.5);
        assert!(health.believes(Got::at(said(5))));
        assert!(
            !health.believes(Got::at(said(50))),
            "it may have lied already"
        );
        passed(&mut health, said(200));
        assert!(health.believes(Got::at(said(5))));
        assert!(!health.believes(Got::at(said(50))) && !health.believes(Got::at(said(150))));
        assert!(health.believes(Got::at(said(300))));
    }

    #[test]
    fn a_timeout_is_waited_for_once() {
        let now = Instant::now();
        let mut health = healthy(now);
        assert_eq!(health.failed(&Unknown::Timeout, now), None);
        assert_eq!(health.trust(), Trust::No);
        assert!(health.begin_test(now), "tested at once");
        assert_eq!(passed(&mut health, now), None, "not worth a line");
        // A resolver may have answered the test from its cache.
        assert_eq!(health.trust(), Trust::Try);
        assert!(health.begin_try(now) && !health.begin_try(now));
        assert!(health.begin_try(now + SECOND), "one a second");
        assert_eq!(health.answered(), None);
        assert_eq!(health.trust(), Trust::Yes);
        assert!(!health.begin_try(now + SECOND * 9), "it is asked anyway");
    }

    #[test]
    fn a_silent_list_that_passes_its_test_stays_open_until_it_answers_a_client() {
        let now = Instant::now();
        let mut health = healthy(now);
        let mut told = Vec::new();
        for _ in 0..100 {
            told.extend(health.failed(&Unknown::Timeout, now));
            if health.next_test() == Some(now) {
                told.extend(passed(&mut health, now));
            }
        }
        assert!(matches!(told[..], [Change::Opened(Reason::Row(10, _))]));
        assert!(health.begin_test(now + SECOND));
        assert_eq!(passed(&mut health, now + SECOND), None, "passed alone");
        assert_eq!(health.trust(), Trust::Try);
        assert!(!health.is_open(), "what it says is believed");
        // What was done on its word since is to be undone.
        let mut lying = health.clone();
        let opened = lying.tested(lies(), now + SECOND * 2, 0.5);
        assert!(matches!(opened, Some(Change::Opened(_))), "{opened:?}");
        // A suspicion leaves it as it was.
        let later = now + SECOND * 9;
        assert!(health.lists_a_good_client(Got::at(later), later));
        assert_eq!(health.trust(), Trust::Wait);
        assert_eq!(passed(&mut health, later), None);
        assert_eq!(health.trust(), Trust::Try);
        assert_eq!(health.answered(), Some(Change::Closed));
        assert_eq!(health.trust(), Trust::Yes);
        // One that failed its tests too is back with the first that it passes.
        health.failed(&Unknown::Timeout, now);
        health.tested(Err(Failure::Unknown(Unknown::Timeout)), now, 0.5);
        assert_eq!(passed(&mut health, now), Some(Change::Closed));
        assert_eq!(health.trust(), Trust::Yes);
    }

    #[test]
    fn one_that_a_message_waited_for_in_vain_is_waited_for_by_no_other() {
        let now = Instant::now();
        for (mut health, asked, then) in [
            (healthy(now), true, Trust::Try),
            (Health::new(true, now), false, Trust::Yes),
        ] {
            health.overdue(asked, now);
            assert_eq!(health.trust(), Trust::No);
            assert_eq!(health.next_test(), Some(now));
            passed(&mut health, now);
            assert_eq!(health.trust(), then);
        }
    }

    #[test]
    fn a_string_of_errors_opens_whatever_the_tests_say() {
        let now = Instant::now();
        let mut health = healthy(now);
        let error = Unknown::Unreachable("io");
        let mut opened = None;
        for _ in 0..ERRORS_TO_OPEN {
            opened = health.failed(&error, now).or(opened);
            if health.trust() == Trust::No && !health.is_open() {
                passed(&mut health, now);
            }
        }
        assert!(
            matches!(opened, Some(Change::Opened(Reason::Row(10, _)))),
            "{opened:?}"
        );
        let mut health = healthy(now);
        for _ in 0..100 {
            health.failed(&error, now);
            health.answered();
        }
        assert_eq!(health.trust(), Trust::Yes, "no string");
    }

    #[test]
    fn an_error_code_opens_at_once_and_our_own_limits_never() {
        let now = Instant::now();
        let mut health = healthy(now);
        for ours in [Unknown::Busy, Unknown::Budget, Unknown::Down] {
            for _ in 0..100 {
                assert_eq!(health.failed(&ours, now), None);
            }
        }
        assert_eq!(health.trust(), Trust::Yes);
        let code = Unknown::ErrorCode(Ipv4Addr::new(127, 255, 255, 254));
        assert!(matches!(health.failed(&code, now), Some(Change::Opened(_))));
        assert!(health.is_open());
    }

    #[test]
    fn a_listed_good_client_has_the_list_tested_unless_it_just_was() {
        let now = Instant::now();
        let mut health = healthy(now);
        let soon = now + SECOND;
        assert!(!health.lists_a_good_client(Got::at(soon), soon));
        let later = now + SECOND * 3;
        assert!(!health.lists_a_good_client(Got::at(now), later), "tested");
        assert!(health.lists_a_good_client(Got::at(later), later));
        assert_eq!(health.trust(), Trust::Wait);
        // The next, whose answer came before that.
        assert!(health.lists_a_good_client(Got::at(soon), later));
        assert!(health.begin_test(later));
        assert!(health.lists_a_good_client(Got::at(soon), later));
        passed(&mut health, later);
        assert_eq!(health.trust(), Trust::Yes);
        assert!(!health.lists_a_good_client(Got::at(later), later));
        health.tested(lies(), later, 0.5);
        let lie = Got::at(later + SECOND);
        assert!(health.lists_a_good_client(lie, later + SECOND * 2));
    }

    #[test]
    fn a_listing_outlives_the_process_once_a_test_was_passed() {
        let now = Instant::now();
        let mut health = healthy(now);
        let got = Got::at(now + SECOND);
        assert!(!health.outlives(got, true) && health.outlives(got, false));
        passed(&mut health, now + SECOND * 2);
        assert!(health.outlives(got, true));
        health.tested(lies(), now + SECOND * 9, 0.5);
        assert!(health.outlives(got, true));
        assert!(!health.outlives(Got::at(now + SECOND * 3), false));
        let untested = Health::new(false, now);
        assert!(untested.outlives(got, true), "nothing will show more");
    }
}
