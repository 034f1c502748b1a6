//! One worker takes another's place, over the baton between them. The order:
//!
//! 1. The one before ends no session any more but those that it refused. Commands
//!    by hand are done, those who wait at the control socket wait.
//! 2. It accepts nothing any more; what comes waits in the socket's backlog.
//! 3. Open sentences have two seconds to be passed and their bans to be noted;
//!    then it bans nobody.
//! 4. What the lists said is on disk, and so are the bans: the file is closed.
//! 5. It says [`Word::Released`], and hands over the control socket.
//! 6. The next one, which has a warden already, reads what the lists said, opens the file of bans, serves both
//!    sockets, begins to watch, and says [`Word::Serving`].
//! 7. The one before tells whoever asked for the reload that it is done, answers
//!    what is open still, and ends.
//!
//! So each file and socket has one owner at each time, and no ban that was
//! acknowledged is missed. Whatever the one before does, or dies of, the next one
//! goes on at the end of the baton. Where the next one dies after it was
//! released, the supervisor starts another; where that is gone too, the one before
//! accepts every message, until the filter is stopped.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use tokio::time::timeout;

use super::link::{Listening, Word};
use crate::log::Event;

/// How long the one before waits for the next one's word: it reads a million bans.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// How long the next one waits for the one before to give up all, which does each
/// step in limited time. One that hangs is ended by the supervisor before.
pub const RELEASE: Duration = Duration::from_secs(25);

/// The baton, as the one before holds it.
#[derive(Debug)]
pub struct Baton(Listening);

impl Baton {
    /// The baton that the supervisor handed; `None` where there is nobody at its
    /// other end.
    #[must_use]
    pub fn of(fd: OwnedFd) -> Option<Self> {
        let baton = Listening::new(fd).ok()?;
        (!baton.is_over()).then_some(Self(baton))
    }

    /// Says that all is given up, hands over the control socket, and waits until
    /// the next one serves; whether it does.
    pub async fn pass(&self, control: Option<&impl AsFd>) -> bool {
        if self
            .0
            .say(Word::Released, control.map(AsFd::as_fd))
            .is_err()
        {
            return false;
        }
        match timeout(PATIENCE, self.0.hear()).await {
            Ok(heard) => matches!(heard, Ok(Some((Word::Serving, _)))),
            // It lives.
            Err(_) => true,
        }
    }
}

/// Waits until the worker before has given up all, or is gone; the control socket,
/// and the baton to tell it that we serve.
pub async fn take(baton: OwnedFd) -> (Option<OwnedFd>, Option<Listening>) {
    let Ok(baton) = Listening::new(baton) else {
        return (None, None);
    };
    let heard = timeout(RELEASE, baton.hear()).await;
    match heard.unwrap_or(Ok(None)) {
        Ok(Some((Word::Released, control))) => (control, Some(baton)),
        _ => {
            let text = "the worker before has ended, or hangs, without giving up its place";
            log::warn!("{}", Event::new("handover").text(text));
            (None, None)
        }
    }
}
