//! The admin's commands, one file each.

mod allow;
mod ask;
mod ban;
mod colour;
mod config;
mod firewall;
mod json;
pub(crate) mod list;
mod lookup;
mod reload;
mod report;
mod status;
mod terminal;
mod top;
mod unban;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// A global mail filter for the Courier MTA that ends and bans DNSBL-listed
/// SMTP sessions.
///
/// Courier runs the filter itself: `filterctl start rblfilter` and `filterctl
/// stop rblfilter`. These commands are for the admin.
#[derive(Debug, Parser)]
#[command(name = "rblfilter", version, max_term_width = 80)]
struct Args {
    /// The configuration file [default: filters/rblfilter.toml in Courier's
    /// configuration folder]
    #[arg(long, short, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The configuration file
    #[command(subcommand)]
    Config(config::Command),
    /// What the DNS lists say of an address, and what would follow
    Lookup(lookup::Command),
    /// What a mail log tells of connections, slots, refusals, bans and waves
    Report(report::Command),
    /// The kernel's sets of banned addresses and the rules that use them
    #[command(subcommand)]
    Firewall(firewall::Command),
    /// How the running filter is
    Status(status::Command),
    /// The running filter, live, on the whole screen
    Top(top::Command),
    /// Who is banned, and who is let in by hand
    List(list::Command),
    /// Shut an address or a network out
    Ban(ban::Command),
    /// End bans, and let the addresses in for a while
    Unban(unban::Command),
    /// Let an address or a network in for a while
    Allow(allow::Command),
    /// Put the configuration into service as it is now
    Reload(reload::Command),
}

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
        Some(Command::Status(command)) => status::run(&command),
        Some(Command::Top(command)) => top::run(&command),
        Some(Command::List(command)) => list::run(&command),
        Some(Command::Ban(command)) => ban::run(command),
        Some(Command::Unban(command)) => unban::run(command),
        Some(Command::Allow(command)) => allow::run(&command),
        Some(Command::Reload(command)) => reload::run(&command, &path),
        None => {
            eprintln!("{}", Args::command().render_help());
            exit::USAGE.into()
        }
    }
}
