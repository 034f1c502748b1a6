//! The terminal, taken for a while and given back as it was, however the command
//! ends: by itself, by a signal, by a panic.

use std::io::{self, Write};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use crossterm::cursor::{Hide, Show};
use crossterm::execute;
use crossterm::terminal::{
    DisableLineWrap, EnableLineWrap, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode,
    enable_raw_mode,
};
use nix::sys::signal::{SigSet, Signal};

use super::exit;

/// What ends a command from outside.
const ENDING: [Signal; 4] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
];

static TAKEN: AtomicBool = AtomicBool::new(false);
static RAW: AtomicBool = AtomicBool::new(false);

/// The terminal; given back when this is dropped, and before a panic is told.
#[derive(Debug)]
pub struct Taken(());

impl Taken {
    /// Takes the terminal at standard output: another screen without a cursor, on
    /// which long lines are cut off; `raw`: keys are read one by one, and shown to nobody.
    ///
    /// # Errors
    /// Where it is none, or does not let itself be taken.
    pub fn take(raw: bool) -> io::Result<Self> {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            give_back();
            before(panic);
            // The other threads would go on without the screen.
            process::exit(exit::SOFTWARE.into());
        }));
        // From here on there is something to give back.
        let taken = Self(());
        TAKEN.store(true, Relaxed);
        if raw {
            RAW.store(true, Relaxed);
            enable_raw_mode()?;
        }
        execute!(io::stdout(), EnterAlternateScreen, DisableLineWrap, Hide)?;
        Ok(taken)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        give_back();
    }
}

/// Gives the terminal back, once.
fn give_back() {
    if !TAKEN.swap(false, Relaxed) {
        return;
    }
    // It may be gone.
    let mut out = io::stdout();
    let _ = execute!(out, EnableLineWrap, LeaveAlternateScreen, Show);
    let _ = out.flush();
    if RAW.swap(false, Relaxed) {
        let _ = disable_raw_mode();
    }
}

/// Has `told` called when a signal asks the command to end, in a thread of its
/// own. To be called before other threads are started.
///
/// # Errors
/// Where the system has no thread left.
pub fn on_signal(told: impl Fn(Signal) + Send + 'static) -> io::Result<()> {
    let signals: SigSet = ENDING.into_iter().collect();
    // Else the signal would end the process in whatever thread it meets.
    signals.thread_block()?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            while let Ok(signal) = signals.wait() {
                told(signal);
            }
        })?;
    Ok(())
}
