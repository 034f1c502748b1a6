//! Sees to the process that looks up aliases: where it has ended, another worker is
//! asked for, which has another. (This one may start no process, see
//! [`crate::sys::sandbox`].)

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep_until;

use super::filter::Filter;
use super::reloads::Reloads;
use crate::degraded::Part;

/// The least time from one worker's start to the next one that is asked for here.
const EVERY: Duration = Duration::from_secs(60);
/// The longest pause before one that did not come is asked for again; the first is
/// [`EVERY`], and each is doubled.
const LONGEST: Duration = Duration::from_secs(3600);

/// Asks for another worker once the process has ended, until the future is dropped.
/// At once; but a worker that has taken another's place has lived for a minute by
/// then, so that a process that does not live costs one worker a minute.
pub async fn keep(filter: Arc<Filter>, reloads: Arc<Reloads>, is_next: bool) {
    let begun = Instant::now();
    // What never was is told at the start.
    let earliest = if let Some(aliases) = filter.aliases() {
        let why = aliases.ended().await;
        let degraded = filter.degraded();
        degraded.enter(Part::Aliases, why, Instant::now());
        earliest(begun, is_next)
    } else {
        begun + EVERY
    };
    let mut pause = EVERY;
    sleep_until(earliest.into()).await;
    // What comes of it is told in the log.
    while reloads.ask_for_another("aliases").await.is_err() {
        sleep_until((Instant::now() + pause).into()).await;
        pause = (pause * 2).min(LONGEST);
    }
}

/// When another worker may be asked for at the earliest.
fn earliest(begun: Instant, is_next: bool) -> Instant {
    if is_next { begun + EVERY } else { begun }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_replaced_at_once_and_the_next_after_a_minute() {
        let begun = Instant::now();
        assert_eq!(earliest(begun, false), begun);
        assert_eq!(earliest(begun, true), begun + Duration::from_secs(60));
    }
}
