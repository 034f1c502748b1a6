//! `rblfilter forget`: deletes what is kept of an address.

use std::process::ExitCode;

use clap::Args;
use ipnetwork::IpNetwork;

use super::ask::{self, Error};
use crate::control::{Request, network};
use crate::courier::paths::Paths;

/// Delete all that is kept of an address or a network
///
/// Deletes its ban, which ends, how often it was banned, that it was let in by
/// hand, that it delivered mail, and what the lists said of it; in memory, in the
/// files and in the kernel's sets. It says what that was. Who comes again is seen anew, and judged as anybody.
/// The mail log is syslog's, and stays as it is.
#[derive(Debug, Args)]
pub struct Command {
    /// Whom to forget: addresses, also as the log writes them, or networks
    #[arg(value_parser = network, value_name = "ADDRESS|NETWORK", required = true)]
    networks: Vec<IpNetwork>,
}

pub fn run(command: Command) -> ExitCode {
    let request = Request::Forget {
        networks: command.networks,
    };
    match ask::ask(&request, |_| Ok(())) {
        Ok(done) => {
            println!("{done}");
            ExitCode::SUCCESS
        }
        Err(Error::NotRunning(text)) => {
            let state = Paths::from_env().state();
            let state = state.display();
            Error::NotRunning(format!(
                "{text}: ask again when it runs. All that it keeps of anybody lies in {state}/state.db* and {state}/dnsbl-cache, which you can remove while it is stopped, and in the kernel's sets (rblfilter firewall remove)"
            ))
            .report()
        }
        Err(error) => error.report(),
    }
}
