//! `rblfilter ban`: shuts an address or a network out by hand.

use std::process::ExitCode;

use clap::Args;
use ipnetwork::IpNetwork;

use super::ask;
use crate::control::{Request, network};

/// Ban an address or a network. Its bans by verdict end with the later of the
/// two; it is not looked up again.
#[derive(Debug, Args)]
pub struct Command {
    /// What to ban: 203.0.113.9, 203.0.113.0/24, 2001:db8:1:2::/64
    #[arg(value_parser = network, value_name = "ADDRESS|NETWORK")]
    network: IpNetwork,
    /// For how long [default: the configuration's ban.max-time]
    #[arg(long = "for", value_parser = ask::ban_seconds, value_name = "DURATION")]
    seconds: Option<u32>,
    /// Why, for whoever reads the list or the log
    #[arg(long, default_value = "", value_name = "TEXT")]
    reason: String,
    /// Ban it although it is allowlisted, or let in by hand
    #[arg(long)]
    force: bool,
}

pub fn run(command: Command) -> ExitCode {
    ask::have_done(&Request::Ban {
        network: command.network,
        seconds: command.seconds,
        reason: command.reason,
        force: command.force,
    })
}
