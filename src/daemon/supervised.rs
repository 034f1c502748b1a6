//! The worker's end of its link to the supervisor.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::filter::Filter;
use super::link::{self, Heard, Word};
use crate::log::Event;
use crate::sys::watched;

/// What the supervisor tells the service.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    /// The filter socket is unlinked.
    Unlinked,
}

/// Listens to the supervisor until it is gone, and then says no more: the other
/// end of what is returned is closed. Sees to the warden of `filter`.
///
/// # Errors
/// Where the link is none.
pub fn listen(link: OwnedFd, filter: Option<Arc<Filter>>) -> io::Result<Receiver<Told>> {
    let link = watched(link, Interest::READABLE)?;
    let (sender, told) = mpsc::channel(8);
    tokio::spawn(tend(link, filter, sender));
    Ok(told)
}

async fn tend(link: AsyncFd<OwnedFd>, filter: Option<Arc<Filter>>, told: Sender<Told>) {
    let wanted = async || match &filter {
        Some(filter) => filter.warden().wanted().await,
        None => std::future::pending().await,
    };
    loop {
        tokio::select! {
            heard = hear(&link) => match heard {
                Ok(Some((Word::Warden, Some(socket)))) => {
                    if let Some(filter) = &filter {
                        filter.warden().arrived(socket);
                    }
                }
                Ok(Some((Word::Unlinked, _))) => {
                    // The service ends only with us.
                    let _ = told.send(Told::Unlinked).await;
                }
                Ok(Some((Word::Warden, None))) => {}
                // The supervisor is gone, or mad: we serve on without.
                Ok(None) | Err(_) => return,
            },
            () = wanted() => {
                if let Err(error) = link::say(link.get_ref().as_fd(), Word::Warden, None) {
                    log::debug!("{}", Event::new("alone").text(error));
                }
            }
        }
    }
}

async fn hear(link: &AsyncFd<OwnedFd>) -> io::Result<Option<Heard>> {
    loop {
        let mut ready = link.readable().await?;
        if let Ok(heard) = ready.try_io(|link| link::hear(link.as_fd())) {
            return heard;
        }
    }
}
