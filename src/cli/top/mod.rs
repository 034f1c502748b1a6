//! `rblfilter top`: the running filter, live, on the whole screen.
//!
//! [`model`] is what is known and chosen, [`draw`] how it looks; both are pure.
//! Here are the terminal and the threads that tell of keys, signals and answers.

mod asker;
mod draw;
mod model;
mod rows;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use clap::Args;
use crossterm::event::{self, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use nix::sys::signal::Signal;
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;

use super::terminal::{Taken, on_signal};
use super::{colour, exit, status};
use asker::Order;
use draw::Look;
use model::{Effect, Event, Key, Model};

/// The running filter, live, on the whole screen
///
/// The slots over time, the open sessions, the bans, the lists, and what does not
/// work. Sessions can be ended, and addresses banned, let in and unbanned, by a
/// key, each after a question; the key ? tells all keys, q ends it. It goes on
/// trying where the filter is stopped meanwhile. A session is not ended while the
/// answer to a message of it may be on its way: its client would send it again.
/// Exit status: 64 without a terminal, 69 where the filter does not run, 77 where
/// the user may not ask.
#[derive(Debug, Args)]
pub struct Command {}

/// The rows of sessions, for the fuzz targets.
#[cfg(feature = "fuzzing")]
pub(crate) fn rows_of(sessions: crate::sessions::Sessions) -> Vec<String> {
    let model = Model {
        sessions,
        ..Model::default()
    };
    let (_, rows) = rows::of(&model, 80);
    rows.into_iter().map(|row| row.text).collect()
}

/// How often what is on the screen is looked at, where nothing happens.
const TICK: Duration = Duration::from_secs(1);

/// What the loop hears.
enum Heard {
    Event(Event),
    Signal(Signal),
    /// The terminal is gone.
    Gone,
}

pub fn run(_command: &Command) -> ExitCode {
    let look = match look() {
        Ok(look) => look,
        Err(error) => {
            eprintln!("rblfilter: {error}");
            return exit::USAGE.into();
        }
    };
    // Nobody watches what is not for him, or was never there.
    if let Err(error) = status::status() {
        return error.report();
    }
    match watch(look) {
        Ok(None | Some(Signal::SIGINT)) => ExitCode::SUCCESS,
        Ok(Some(signal)) => u8::try_from(128 + signal as i32)
            .unwrap_or(exit::SOFTWARE)
            .into(),
        Err(error) => {
            eprintln!("rblfilter: cannot use the terminal: {error}");
            exit::SOFTWARE.into()
        }
    }
}

/// What the terminal can do.
fn look() -> Result<Look, String> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Err("top needs a terminal (elsewhere: rblfilter status --watch)".into());
    }
    let terminal = std::env::var("TERM").unwrap_or_default();
    if terminal.is_empty() || terminal == "dumb" {
        return Err(format!(
            "top cannot draw on a terminal of the kind TERM={terminal:?} (there: rblfilter status --watch)"
        ));
    }
    // Those of DEC have neither.
    let is_old = terminal.starts_with("vt") || terminal == "ansi";
    Ok(Look {
        colour: colour::wanted() && !is_old,
        unicode: colour::has_unicode() && !is_old,
    })
}

/// Shows the filter until a key or a signal ends it; which signal.
fn watch(look: Look) -> io::Result<Option<Signal>> {
    let (sender, heard) = mpsc::channel();
    let signals = sender.clone();
    // Before any other thread.
    on_signal(move |signal| {
        // It has ended where nobody listens.
        let _ = signals.send(Heard::Signal(signal));
    })?;
    let (orders, ordered) = mpsc::channel();
    let (events, told) = mpsc::channel();
    asker::start(ordered, events)?;
    let answers = sender.clone();
    thread::Builder::new()
        .name("answers".into())
        .spawn(move || {
            while let Ok(event) = told.recv() {
                if answers.send(Heard::Event(event)).is_err() {
                    return;
                }
            }
        })?;
    let _taken = Taken::take(true)?;
    thread::Builder::new()
        .name("keys".into())
        .spawn(move || read_keys(&sender))?;
    let mut terminal = Terminal::new(CrosstermBackend::new(io::stdout()))?;
    let mut model = Model::default();
    loop {
        terminal.draw(|frame| draw::draw(frame, &model, look))?;
        let event = match heard.recv_timeout(TICK) {
            Ok(Heard::Event(event)) => event,
            Ok(Heard::Signal(signal)) => return Ok(Some(signal)),
            Ok(Heard::Gone) | Err(RecvTimeoutError::Disconnected) => return Ok(None),
            Err(RecvTimeoutError::Timeout) => Event::Tick,
        };
        let order = match model.on(event) {
            None => continue,
            Some(Effect::Quit) => return Ok(None),
            Some(Effect::Ask(request)) => Order::Do(request),
            Some(Effect::WantBans(wanted)) => Order::Bans(wanted),
        };
        // It asks for as long as we listen.
        let _ = orders.send(order);
    }
}

/// Tells of keys, and of another size, until the terminal is gone.
fn read_keys(sender: &Sender<Heard>) {
    loop {
        let heard = match event::read() {
            Ok(event::Event::Key(key)) if key.kind != KeyEventKind::Release => match of(key) {
                Some(key) => Heard::Event(Event::Key(key)),
                None => continue,
            },
            Ok(event::Event::Resize(..)) => Heard::Event(Event::Redraw),
            Ok(_) => continue,
            Err(_) => Heard::Gone,
        };
        let is_last = matches!(heard, Heard::Gone);
        if sender.send(heard).is_err() || is_last {
            return;
        }
    }
}

fn of(key: KeyEvent) -> Option<Key> {
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return (key.code == KeyCode::Char('c')).then_some(Key::Interrupt);
    }
    Some(match key.code {
        KeyCode::Char(c) => Key::Char(c),
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        KeyCode::Tab | KeyCode::Right => Key::Next,
        KeyCode::BackTab | KeyCode::Left => Key::Previous,
        KeyCode::Esc => Key::Escape,
        _ => return None,
    })
}
