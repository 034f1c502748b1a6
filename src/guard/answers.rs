//! Whether a client has the answers to all its messages, of which we do not
//! know: another worker may have accepted one a moment ago, which Courier takes
//! in or shows to another filter still. Who is ended then sends it again.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::silence;
use super::sockets::{Key, Sockets};
use crate::courier::identified::Identified;
use crate::courier::turn::{self, Turn};
use crate::enforce::kill::ends_within;

/// How long it must have been the client's turn without a word of it: its
/// answer has arrived.
const SILENCE: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Returns once the client has all its answers, or the session has ended.
pub async fn given(identified: &Identified) {
    while !are_given(identified) && !ends_within(identified.esmtpd(), LOOK_EVERY).await {}
}

/// Whether, at this moment, it is certain that the client has all its answers.
#[must_use]
pub fn are_given(identified: &Identified) -> bool {
    turn::of(identified.esmtpd()) == Turn::Client && is_silent(identified).unwrap_or(false)
}

fn is_silent(identified: &Identified) -> io::Result<bool> {
    let session = &identified.session;
    let Some(local) = session.local else {
        return Ok(false);
    };
    let key = Key {
        client: SocketAddr::new(session.client, session.client_port),
        local: SocketAddr::new(local, session.local_port),
    };
    let connection = Sockets::open()?.of(&key)?;
    let silence = connection.and_then(|connection| silence(&connection));
    Ok(silence.is_some_and(|silence| silence >= SILENCE))
}
