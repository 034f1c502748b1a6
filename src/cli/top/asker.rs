//! Asking the filter again and again, and for what the admin wants done, in a
//! thread of its own: an answer may take its time.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::model::{Event, News};
use crate::cli::{ask, status};
use crate::control::{Answer, Entry, Request};
use crate::sessions::Sessions;

/// How often.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How often the bans are asked for, while they are shown: the filter sorts all
/// of them.
const BANS_EVERY: Duration = Duration::from_secs(5);
/// The same where there are many, and how many that are.
const MANY_EVERY: Duration = Duration::from_secs(60);
const MANY: usize = 100_000;
/// The bans that are shown, the newest.
const MOST_BANS: usize = 1000;

/// What the asker is told.
#[derive(Debug)]
pub enum Order {
    /// Have this done.
    Do(Request),
    /// The bans are shown, or not.
    Bans(bool),
}

/// Starts the thread, which tells what it hears.
///
/// # Errors
/// Where the system has no thread left.
pub fn start(orders: Receiver<Order>, told: Sender<Event>) -> io::Result<()> {
    let asker = Asker {
        bans: false,
        asked: None,
        many: false,
    };
    thread::Builder::new()
        .name("asker".into())
        .spawn(move || asker.run(&orders, &told))?;
    Ok(())
}

struct Asker {
    /// Whether the bans are shown.
    bans: bool,
    /// When they were asked for.
    asked: Option<Instant>,
    many: bool,
}

impl Asker {
    fn run(mut self, orders: &Receiver<Order>, told: &Sender<Event>) {
        loop {
            let event = match self.news(Instant::now()) {
                Ok(news) => Event::Told(Box::new(news)),
                Err(error) => Event::Failed(error.to_string()),
            };
            if told.send(event).is_err() {
                return;
            }
            match orders.recv_timeout(ASK_EVERY) {
                Ok(Order::Bans(wanted)) => {
                    self.asked = self.asked.filter(|_| wanted && self.bans);
                    self.bans = wanted;
                }
                Ok(Order::Do(request)) => {
                    let done = ask::ask(&request, |_| Ok(()));
                    let done = done.map_err(|error| error.to_string());
                    if told.send(Event::Done(done)).is_err() {
                        return;
                    }
                    self.asked = None;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn news(&mut self, now: Instant) -> Result<News, ask::Error> {
        let status = status::status()?;
        self.many = status.bans > MANY;
        let mut sessions = Sessions::default();
        ask::ask(&Request::Sessions, |answer| {
            if let Answer::Sessions(told) = answer {
                sessions = *told;
            }
            Ok(())
        })?;
        let every = if self.many { MANY_EVERY } else { BANS_EVERY };
        let due = self.bans && self.asked.is_none_or(|at| now >= at + every);
        let bans = due.then(bans).transpose()?;
        if due {
            self.asked = Some(now);
        }
        Ok(News {
            status,
            sessions,
            bans,
        })
    }
}

/// The newest bans, and who is let in where there are not too many.
fn bans() -> Result<Vec<Entry>, ask::Error> {
    let mut bans = Vec::new();
    let told = ask::ask(&Request::List, |answer| {
        if let Answer::Entry(entry) = answer {
            if bans.len() == MOST_BANS {
                return Err(io::Error::other("enough"));
            }
            bans.push(entry);
        }
        Ok(())
    });
    match told {
        Err(_) if bans.len() == MOST_BANS => Ok(bans),
        Err(error) => Err(error),
        Ok(_) => Ok(bans),
    }
}
