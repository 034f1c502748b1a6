//! The admin's commands, one file each.

mod allow;
mod ask;
mod ban;
mod colour;
mod config;
mod doctor;
mod firewall;
mod forget;
mod json;
mod let_in;
pub(crate) mod list;
mod lookup;
mod reload;
mod report;
pub(crate) mod status;
mod stopped;
mod terminal;
pub(crate) mod top;
mod unban;
mod why;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// A global mail filter for the Courier MTA that ends and bans DNSBL-listed
/// SMTP sessions.
///
/// Courier runs the filter itself: `filterctl start rblfilter` and `filterctl
/// stop rblfilter`. These commands are for the admin.
#[derive(Debug, Parser)]
#[command(name = "rblfilter", version, long_version = BUILD, max_term_width = 80)]
struct Args {
    /// The configuration file [default: filters/rblfilter.toml in Courier's
    /// configuration folder]
    #[arg(long, short, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What each does stands with it; the first paragraph is its line in the list.
#[derive(Debug, Subcommand)]
enum Command {
    /// Check the configuration file
    #[command(subcommand)]
    Config(config::Command),
    Lookup(lookup::Command),
    Report(report::Command),
    /// Show, set up, check or remove the kernel's sets of banned addresses and the
    /// rules that use them
    #[command(subcommand)]
    Firewall(firewall::Command),
    Why(why::Command),
    Status(status::Command),
    Top(top::Command),
    Doctor(doctor::Command),
    List(list::Command),
    Ban(ban::Command),
    Unban(unban::Command),
    Allow(allow::Command),
    Forget(forget::Command),
    Reload(reload::Command),
}

/// What `--version` tells. All of it is the same for the same sources and compiler.
const BUILD: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    "\ncommit   ",
    env!("RBLFILTER_BUILD_COMMIT"),
    "\nrustc    ",
    env!("RBLFILTER_BUILD_RUSTC"),
    "\ntarget   ",
    env!("RBLFILTER_BUILD_TARGET"),
    "\nlibipset ",
    env!("RBLFILTER_BUILD_LIBIPSET"),
    " (the warden's)\nfeatures ",
    env!("RBLFILTER_BUILD_FEATURES"),
    "\nlicence  GPL-3.0-or-later; the warden GPL-2.0-or-later",
);

/// sysexits(3), and what a check has found.
mod exit {
    pub const DIFFERENT: u8 = 1;
    pub const USAGE: u8 = 64;
    pub const NO_INPUT: u8 = 66;
    pub const UNAVAILABLE: u8 = 69;
    pub const SOFTWARE: u8 = 70;
    pub const CANNOT_WRITE: u8 = 73;
    pub const PERMISSION: u8 = 77;
    pub const CONFIG: u8 = 78;
}

/// The commands as clap knows them, of which their manual page and the shells'
/// completions are made.
#[must_use]
pub fn command() -> clap::Command {
    Args::command()
}

/// Runs the command that the arguments ask for.
#[must_use]
pub fn run() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // A closed standard output leaves nobody to tell.
            let _ = error.print();
            return if error.use_stderr() {
                exit::USAGE.into()
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let path = args
        .config
        .unwrap_or_else(|| crate::courier::paths::Paths::from_env().config());
    match args.command {
        Some(Command::Config(command)) => config::run(&command, &path),
        Some(Command::Lookup(command)) => lookup::run(&command, &path),
        Some(Command::Report(command)) => report::run(&command),
        Some(Command::Firewall(command)) => firewall::run(&command, &path),
        Some(Command::Why(command)) => why::run(&command, &path),
        Some(Command::Status(command)) => status::run(&command),
        Some(Command::Top(command)) => top::run(&command),
        Some(Command::Doctor(command)) => doctor::run(&command, &path),
        Some(Command::List(command)) => list::run(&command),
        Some(Command::Ban(command)) => ban::run(command),
        Some(Command::Unban(command)) => unban::run(command, &path),
        Some(Command::Allow(command)) => allow::run(&command, &path),
        Some(Command::Forget(command)) => forget::run(command),
        Some(Command::Reload(command)) => reload::run(&command, &path),
        None => {
            eprintln!("{}", Args::command().render_help());
            exit::USAGE.into()
        }
    }
}
