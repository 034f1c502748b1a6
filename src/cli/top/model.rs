//! What `rblfilter top` knows and where the admin is in it: events in, what is to
//! be done out. No terminal, no socket, no clock.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::control::{Entry, Request, What, shown};
use crate::sessions::Sessions;
use crate::status::{Listener, Status};

/// How long an address is let in by a key.
const ALLOW_SECONDS: u32 = 24 * 3600;
/// Seconds without an answer that are told.
const SILENT: u64 = 3;
/// Rows that a page key goes.
const PAGE: usize = 10;

/// What is shown below the chart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pane {
    /// The open sessions.
    #[default]
    Sessions,
    /// Who is banned, and who is let in by hand.
    Bans,
    /// The DNS lists.
    Lists,
    /// What does not work.
    Troubles,
}

impl Pane {
    /// All of them, in their order.
    pub const ALL: [Self; 4] = [Self::Sessions, Self::Bans, Self::Lists, Self::Troubles];

    fn place(self) -> usize {
        Self::ALL.iter().position(|pane| *pane == self).unwrap_or(0)
    }

    fn step(self, by: usize) -> Self {
        Self::ALL[(self.place() + by) % Self::ALL.len()]
    }
}

/// A key, as far as one matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// A letter, digit or sign.
    Char(char),
    /// A row up.
    Up,
    /// A row down.
    Down,
    /// A page up.
    PageUp,
    /// A page down.
    PageDown,
    /// The first row.
    Home,
    /// The last row.
    End,
    /// The pane to the right.
    Next,
    /// The pane to the left.
    Previous,
    /// Enough of this.
    Escape,
    /// Ctrl-C.
    Interrupt,
}

/// What the filter told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// How it is.
    pub status: Status,
    /// The open sessions.
    pub sessions: Sessions,
    /// The newest bans, and who is let in; `None`: not asked for this time.
    pub bans: Option<Vec<Entry>>,
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A key was pressed.
    Key(Key),
    /// The filter told how it is.
    Told(Box<News>),
    /// It could not be asked; why.
    Failed(String),
    /// What became of what was asked for.
    Done(Result<String, String>),
    /// A second has gone by without any other.
    Tick,
    /// The terminal has another size, or the like.
    Redraw,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The filter is to be asked to do this.
    Ask(Request),
    /// The bans are wanted, or not any longer.
    WantBans(bool),
    /// The command is to end.
    Quit,
}

/// Something that waits for a yes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What is asked.
    pub text: String,
    /// What a yes does.
    pub request: Request,
}

/// All that is shown.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// What was told last; `None`: nothing yet.
    pub status: Option<Status>,
    /// The sessions.
    pub sessions: Sessions,
    /// The bans, and who is let in.
    pub bans: Vec<Entry>,
    /// Why the filter could not be asked the last time.
    pub failed: Option<String>,
    /// Seconds since it answered.
    pub silent: u64,
    /// Nothing that is told is shown.
    pub paused: bool,
    /// What is shown.
    pub pane: Pane,
    /// The chosen row of each pane.
    pub chosen: [usize; 4],
    /// Which listener's slots are shown, where that was chosen.
    pub listener: Option<i32>,
    /// What waits for a yes.
    pub question: Option<Question>,
    /// What became of the last, and whether it is good.
    pub message: Option<(String, bool)>,
    /// Whether the keys are explained.
    pub help: bool,
}

impl Model {
    /// What follows from `event`.
    pub fn on(&mut self, event: Event) -> Option<Effect> {
        match event {
            Event::Key(key) => return self.key(key),
            Event::Told(news) => {
                self.failed = None;
                self.silent = 0;
                if !self.paused {
                    self.told(*news);
                }
            }
            Event::Failed(why) => {
                self.failed = Some(why);
                self.silent = 0;
            }
            Event::Done(Ok(done)) => self.message = Some((done, true)),
            Event::Done(Err(why)) => self.message = Some((why, false)),
            Event::Tick => self.silent += 1,
            Event::Redraw => {}
        }
        None
    }

    /// What is wrong with the filter's answers, if anything.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        match &self.failed {
            Some(why) => Some(format!("{why}; trying again")),
            None if self.silent >= SILENT => {
                Some(format!("no answer for {} s; waiting", self.silent))
            }
            None => None,
        }
    }

    /// How many rows the pane has.
    #[must_use]
    pub fn rows(&self, pane: Pane) -> usize {
        let status = self.status.as_ref();
        match pane {
            Pane::Sessions => self.sessions.sessions.len(),
            Pane::Bans => self.bans.len(),
            Pane::Lists => status.map_or(0, |status| status.zones.len()),
            Pane::Troubles => status.map_or(0, |status| status.degraded.len()),
        }
    }

    /// The chosen row of the pane that is shown.
    #[must_use]
    pub fn row(&self) -> usize {
        self.chosen[self.pane.place()]
    }

    /// The listener whose slots are shown: the one that was chosen, else the one
    /// with the most in use.
    #[must_use]
    pub fn shown_listener(&self) -> Option<&Listener> {
        let listeners = &self.status.as_ref()?.listeners;
        let chosen = listeners.iter().find(|it| Some(it.pid) == self.listener);
        // Of equals the first.
        chosen.or_else(|| listeners.iter().rev().max_by_key(|it| it.used))
    }

    fn told(&mut self, news: News) {
        // Rows come and go; the one that was chosen stays chosen.
        let session = self.sessions.sessions.get(self.chosen[0]).map(|it| it.pid);
        let ban = self.bans.get(self.chosen[1]).map(|it| it.network);
        self.status = Some(news.status);
        self.sessions = news.sessions;
        if let Some(bans) = news.bans {
            self.bans = bans;
        }
        let sessions = &self.sessions.sessions;
        if let Some(at) = sessions.iter().position(|it| Some(it.pid) == session) {
            self.chosen[0] = at;
        }
        if let Some(at) = self.bans.iter().position(|it| Some(it.network) == ban) {
            self.chosen[1] = at;
        }
        for pane in Pane::ALL {
            let last = self.rows(pane).saturating_sub(1);
            let chosen = &mut self.chosen[pane.place()];
            *chosen = (*chosen).min(last);
        }
    }

    fn key(&mut self, key: Key) -> Option<Effect> {
        if key == Key::Interrupt {
            return Some(Effect::Quit);
        }
        if let Some(question) = self.question.take() {
            return match key {
                Key::Char('y' | 'Y') => Some(Effect::Ask(question.request)),
                Key::Char('n' | 'N' | 'q') | Key::Escape => None,
                // Neither a yes nor a no.
                _ => {
                    self.question = Some(question);
                    None
                }
            };
        }
        self.message = None;
        if self.help {
            self.help = false;
            return None;
        }
        match key {
            Key::Char('q') => return Some(Effect::Quit),
            Key::Char('?' | 'h') => self.help = true,
            Key::Char('p' | ' ') => self.paused = !self.paused,
            Key::Char('l') => self.next_listener(),
            Key::Char(digit @ '1'..='4') => {
                let place = digit as usize - '1' as usize;
                return self.show(Pane::ALL[place]);
            }
            Key::Next => return self.show(self.pane.step(1)),
            Key::Previous => return self.show(self.pane.step(Pane::ALL.len() - 1)),
            Key::Char('b' | 'a' | 'u' | 'e') => self.ask(key),
            Key::Up | Key::Char('k') => self.choose(self.row().saturating_sub(1)),
            Key::Down | Key::Char('j') => self.choose(self.row() + 1),
            Key::PageUp => self.choose(self.row().saturating_sub(PAGE)),
            Key::PageDown => self.choose(self.row() + PAGE),
            Key::Home => self.choose(0),
            Key::End => self.choose(usize::MAX),
            Key::Char(_) | Key::Escape | Key::Interrupt => {}
        }
        None
    }

    fn show(&mut self, pane: Pane) -> Option<Effect> {
        self.pane = pane;
        Some(Effect::WantBans(pane == Pane::Bans))
    }

    fn choose(&mut self, row: usize) {
        let last = self.rows(self.pane).saturating_sub(1);
        self.chosen[self.pane.place()] = row.min(last);
    }

    fn next_listener(&mut self) {
        let shown = self.shown_listener().map(|it| it.pid);
        let listeners = self.status.as_ref().map(|status| &status.listeners);
        let Some(listeners) = listeners.filter(|listeners| !listeners.is_empty()) else {
            return;
        };
        let at = listeners.iter().position(|it| Some(it.pid) == shown);
        let next = at.map_or(0, |at| (at + 1) % listeners.len());
        self.listener = Some(listeners[next].pid);
    }

    /// Asks whether what the key means is to be done to the chosen row.
    fn ask(&mut self, key: Key) {
        let question = match self.pane {
            Pane::Sessions => self.of_session(key),
            Pane::Bans => self.of_ban(key),
            Pane::Lists | Pane::Troubles => return,
        };
        match question {
            Ok(question) => self.question = Some(question),
            Err(why) => self.message = Some((why.into(), false)),
        }
    }

    fn of_session(&self, key: Key) -> Result<Question, &'static str> {
        let session = self.sessions.sessions.get(self.row());
        let session = session.ok_or("no session is chosen")?;
        let client = session.client;
        Ok(match key {
            Key::Char('e') => Question {
                text: format!("End the session of {client}, port {}?", session.port),
                request: Request::End {
                    pid: session.pid,
                    client,
                    port: session.port,
                },
            },
            Key::Char('b') => ban(client),
            Key::Char('u') => unban(client.into()),
            _ => allow(client.into()),
        })
    }

    fn of_ban(&self, key: Key) -> Result<Question, &'static str> {
        let entry = self.bans.get(self.row()).ok_or("no ban is chosen")?;
        let network = entry.network;
        match (key, entry.what) {
            (Key::Char('u'), What::Ban) => Ok(unban(network)),
            (Key::Char('u'), What::Allow) => Ok(Question {
                text: format!("Let {} in no longer?", shown(network)),
                request: Request::Allow {
                    network,
                    seconds: 0,
                },
            }),
            (Key::Char('a'), _) => Ok(allow(network)),
            (Key::Char('b'), What::Ban) => Err("it is banned already"),
            (Key::Char('b'), What::Allow) => Err("it is let in by hand: end that first (u)"),
            _ => Err("that is for sessions (1)"),
        }
    }
}

fn ban(client: IpAddr) -> Question {
    Question {
        text: format!("Ban {client} for the longest time that a verdict bans?"),
        request: Request::Ban {
            network: client.into(),
            seconds: None,
            reason: "rblfilter top".into(),
            force: false,
        },
    }
}

fn unban(network: IpNetwork) -> Question {
    Question {
        text: format!("End the ban of {}, and let it in for 24 h?", shown(network)),
        request: Request::Unban {
            networks: vec![network],
            seconds: ALLOW_SECONDS,
        },
    }
}

fn allow(network: IpNetwork) -> Question {
    Question {
        text: format!(
            "Let {} in for 24 h, whatever the lists say?",
            shown(network)
        ),
        request: Request::Allow {
            network,
            seconds: ALLOW_SECONDS,
        },
    }
}

#[cfg(test)]
#[path = "model_tests.rs"]
pub(super) mod tests;
