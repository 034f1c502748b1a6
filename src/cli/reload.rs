//! `rblfilter reload`: puts the configuration, and what is installed, into service.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use super::ask;
use crate::config;
use crate::control::Request;

/// Put the configuration into service as it is now
///
/// And the installed programs where others run, without a gap: another worker is
/// started, and when it is ready, the one that runs gives it its place, answers the
/// messages that it has, and ends. Bans, and what the lists said, go over. A
/// configuration that is wrong is told and logged, and all stays as it was. Returns
/// when the new configuration is in force.
///
/// The port's rules and the sets are `firewall apply`'s to change; the answer says
/// where they are others. install.sh and the Debian package run it over a running
/// version.
#[derive(Debug, Args)]
pub struct Command {}

pub fn run(_command: &Command, path: &Path) -> ExitCode {
    match ask::ask(&Request::Reload, |_| Ok(())) {
        Ok(done) => {
            println!("{done}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let code = error.report();
            if !matches!(error, ask::Error::Refused(_)) {
                return code;
            }
            // Where the filter runs another version, this one knows best.
            let read = config::read(path);
            // Not for this user: the filter's own word is all there is.
            if matches!(&read, Err(error) if error.is_denied()) {
                return code;
            }
            match read
                .map_err(|error| error.to_string())
                .and_then(|_| config::check_installed(path))
            {
                Ok(()) => code,
                Err(wrong) if error.is_about(&wrong) => super::exit::CONFIG.into(),
                Err(wrong) => {
                    eprintln!("rblfilter: {wrong}");
                    super::exit::CONFIG.into()
                }
            }
        }
    }
}
