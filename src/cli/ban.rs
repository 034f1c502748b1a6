//! `rblfilter ban`: shuts an address or a network out by hand.

use std::process::ExitCode;

use clap::Args;
use ipnetwork::IpNetwork;

use super::ask;
use crate::control::{Request, network};

/// Shut an address or a network out
///
/// It is not looked up again, and its bans by verdict end with the later of the
/// two. The widest network is an IPv4 /8 or an IPv6 /32. Allowlisted addresses are
/// refused, unless with `--force`; own ones, gateways and nameservers always.
#[derive(Debug, Args)]
pub struct Command {
    /// What to ban: 203.0.113.9, 203.0.113.0/24, 2001:db8:1:2::/64
    #[arg(value_parser = network, value_name = "ADDRESS|NETWORK")]
    network: IpNetwork,
    /// For how long [default: the configuration's ban.max-time]
    #[arg(long = "for", value_parser = ask::ban_seconds, value_name = "DURATION")]
    seconds: Option<u32>,
    /// Why, for whoever reads the list or the log
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "TEXT"
    )]
    reason: String,
    /// Ban it although it is allowlisted, or let in by hand; this is remembered
    /// over a restart
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
