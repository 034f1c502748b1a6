//! The worker's end of its link to the supervisor.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::time::{MissedTickBehavior, interval};

use super::filter::Filter;
use super::link::{Listening, Word};
use crate::log::Event;

/// How often the supervisor is told that we live.
const BEAT_EVERY: Duration = Duration::from_secs(1);

/// What the supervisor tells the service.
#[derive(Debug)]
pub enum Told {
    /// The filter socket is unlinked.
    Unlinked,
    /// Serve, once this baton says so; at once where there is none.
    Take(Option<OwnedFd>),
    /// Give all up, and say so on this baton.
    Retire(OwnedFd),
    /// Nobody takes our place.
    Failed,
}

/// What can be said to the supervisor.
#[derive(Clone, Debug)]
pub struct Supervisor(Sender<Word>);

impl Supervisor {
    /// Says `word`; whether there is a supervisor.
    pub fn say(&self, word: Word) -> bool {
        self.0.try_send(word).is_ok()
    }
}

/// Listens to the supervisor until it is gone, and then says no more: the other
/// end of what is returned is closed. Sees to the warden and the gate of `filter`, and tells
/// the supervisor every second that the event loop goes round: the worker has
/// one thread for all that it does but reading files, so that a loop that hangs
/// is silent.
///
/// # Errors
/// Where the link is none.
pub fn listen(
    link: OwnedFd,
    filter: Option<Arc<Filter>>,
) -> io::Result<(Supervisor, Receiver<Told>)> {
    let link = Listening::new(link)?;
    let (sender, told) = mpsc::channel(8);
    let (say, words) = mpsc::channel(8);
    tokio::spawn(tend(link, filter, sender, words));
    Ok((Supervisor(say), told))
}

async fn tend(
    link: Listening,
    filter: Option<Arc<Filter>>,
    told: Sender<Told>,
    mut words: Receiver<Word>,
) {
    let wanted = async || match &filter {
        Some(filter) => tokio::select! {
            () = filter.warden().wanted() => Word::Warden,
            () = filter.gate().wanted() => Word::Gate,
        },
        None => std::future::pending().await,
    };
    let mut beats = interval(BEAT_EVERY);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let word = tokio::select! {
            heard = link.hear() => {
                let heard = match heard {
                    Ok(Some(heard)) => heard,
                    // The supervisor is gone, or mad: we serve on without.
                    Ok(None) | Err(_) => return,
                };
                let tell = match heard {
                    (Word::Warden, Some(socket)) => {
                        if let Some(filter) = &filter {
                            filter.warden().arrived(socket);
                        }
                        continue;
                    }
                    (Word::Gate, Some(socket)) => {
                        if let Some(filter) = &filter {
                            tokio::spawn(serve_gate(Arc::clone(filter), socket));
                        }
                        continue;
                    }
                    (Word::Unlinked, _) => Told::Unlinked,
                    (Word::Take, baton) => Told::Take(baton),
                    (Word::Retire, Some(baton)) => Told::Retire(baton),
                    (Word::Failed, _) => Told::Failed,
                    _ => continue,
                };
                // The service ends only with us.
                let _ = told.send(tell).await;
                continue;
            }
            word = wanted() => word,
            Some(word) = words.recv() => word,
            _ = beats.tick() => Word::Beat,
        };
        // One that has not listened for long is told the next time that we live.
        if let Err(error) = link.say(word, None)
            && error.kind() != io::ErrorKind::WouldBlock
        {
            log::debug!("{}", Event::new("alone").text(error));
        }
    }
}

/// Serves a gate until it is gone, or to be.
async fn serve_gate(filter: Arc<Filter>, socket: OwnedFd) {
    if let Err(error) = filter.gate().serve(socket, Arc::clone(&filter)).await {
        log::error!("{}", Event::new("failed").text(format!("gate: {error}")));
    }
}
