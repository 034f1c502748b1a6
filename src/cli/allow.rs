//! `rblfilter allow`: lets an address or a network in for a while.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use ipnetwork::IpNetwork;

use super::ask;
use super::stopped;
use crate::control::{Request, network};

/// Let an address or a network in for a while
///
/// Whatever the lists say; bans that keep it out are ended. As for `ban`, no
/// network is wider than an IPv4 /8 or an IPv6 /32. What lasts belongs into the
/// configuration's allow.networks.
#[derive(Debug, Args)]
pub struct Command {
    /// Whom to let in: 203.0.113.9, 203.0.113.0/24, 2001:db8:1:2::/64
    #[arg(value_parser = network, value_name = "ADDRESS|NETWORK")]
    network: IpNetwork,
    /// For how long; "0s" ends it
    #[arg(long = "for", value_parser = ask::seconds, default_value = stopped::USUAL, value_name = "DURATION")]
    seconds: u32,
}

pub fn run(command: &Command, path: &Path) -> ExitCode {
    let request = Request::Allow {
        network: command.network,
        seconds: command.seconds,
    };
    ask::have_done_or(&request, || {
        let networks = [command.network];
        let again = stopped::again("allow", &networks, command.seconds);
        // Where it is to end, nothing is to be done in the kernel.
        (command.seconds > 0).then(|| stopped::way_in(&networks, &again, path))
    })
}
