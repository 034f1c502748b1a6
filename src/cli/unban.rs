//! `rblfilter unban`: ends bans, and lets the addresses in for a while.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use ipnetwork::IpNetwork;

use super::ask;
use super::stopped;
use crate::control::{Request, network};

/// End bans, and let the addresses in for a while
///
/// Ends the bans that keep these addresses or networks out, and names them, forgets
/// what the lists said of them, and lets them in for a while whatever the lists
/// say: else their next message would ban them again.
#[derive(Debug, Args)]
#[command(
    override_usage = "rblfilter unban [OPTIONS] <ADDRESS|NETWORK>...\n       rblfilter unban --all"
)]
pub struct Command {
    /// Whom to let in: addresses, also as the log writes them, or networks
    #[arg(value_parser = network, value_name = "ADDRESS|NETWORK", required_unless_present = "all")]
    networks: Vec<IpNetwork>,
    /// End all bans; nobody is let in whatever the lists say
    #[arg(long, conflicts_with_all = ["networks", "seconds"])]
    all: bool,
    /// For how long they are let in; "0s": not at all
    #[arg(long = "for", value_parser = ask::seconds, default_value = stopped::USUAL, value_name = "DURATION")]
    seconds: u32,
}

pub fn run(command: Command, path: &Path) -> ExitCode {
    let networks = command.networks.clone();
    let request = if command.all {
        Request::UnbanAll
    } else {
        Request::Unban {
            networks: command.networks,
            seconds: command.seconds,
        }
    };
    ask::have_done_or(&request, || {
        let again = stopped::again("unban", &networks, command.seconds);
        Some(stopped::way_in(&networks, &again, path))
    })
}
