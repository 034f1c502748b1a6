//! Sees to the process that looks up aliases: where it has ended, another worker is
//! asked for, which has another. (This one may start no process, see
//! [`crate::sys::sandbox`].)

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep_until;

use super::changes::Files;
use super::filter::Filter;
use super::reloads::Reloads;
use crate::degraded::Part;

/// How old a worker is at least that has taken another's place, when the next one is
/// asked for here; and the longest pause before one that did not come is asked for
/// again.
const LONGEST: Duration = Duration::from_secs(3600);
/// The first of those pauses, each of which is doubled; and how long a process that
/// could not be started waits for another try.
const SHORTEST: Duration = Duration::from_secs(60);

/// Asks for another worker once the process has ended, until the future is dropped.
/// At once; but a worker that has taken another's place has lived for an hour by
/// then, so that a process that does not live costs no more than a worker an hour,
/// with what that has counted. Not where another worker would bring more into service
/// than that process: other files than `read`, which this one began with, or another
/// program. That is the admin's to say.
pub async fn keep(filter: Arc<Filter>, reloads: Arc<Reloads>, read: Files, is_next: bool) {
    let begun = Instant::now();
    let mut earliest = earliest(begun, is_next);
    // What never was is told at the start.
    if let Some(aliases) = filter.aliases() {
        let why = aliases.ended().await;
        let text = match reloads.is_as_begun(&read).await {
            true => why.to_string(),
            false => format!(
                "{why}; the configuration or the program has changed since this worker was started: rblfilter reload puts both into service, and starts it again"
            ),
        };
        let degraded = filter.degraded();
        degraded.enter(Part::Aliases, text, Instant::now());
    } else {
        earliest = earliest.max(begun + SHORTEST);
    }
    let mut pause = SHORTEST;
    sleep_until(earliest.into()).await;
    // What comes of it is told in the log.
    while !reloads.is_as_begun(&read).await || reloads.ask_for_another("aliases").await.is_err() {
        sleep_until((Instant::now() + pause).into()).await;
        pause = (pause * 2).min(LONGEST);
    }
}

/// When another worker may be asked for at the earliest.
fn earliest(begun: Instant, is_next: bool) -> Instant {
    if is_next { begun + LONGEST } else { begun }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_replaced_at_once_and_the_next_after_an_hour() {
        let begun = Instant::now();
        assert_eq!(earliest(begun, false), begun);
        assert_eq!(earliest(begun, true), begun + Duration::from_secs(3600));
    }
}
