//! `rblfilter firewall`: shows, sets up and removes the sets and the rules.

use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;

use super::exit;
use crate::config;
use crate::firewall::{self, Step};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print the commands that `apply` would run, and run none
    Show,
    /// Create the sets and the rules where they are missing
    Apply,
    /// Remove the rules and the sets; their bans are forgotten
    Remove,
}

pub fn run(command: &Command, path: &Path) -> ExitCode {
    let config = match config::read(path) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("rblfilter: {error}");
            return exit::CONFIG.into();
        }
    };
    let steps = match command {
        Command::Show => {
            for step in firewall::apply(&config) {
                println!("{}", step.shell());
            }
            return ExitCode::SUCCESS;
        }
        Command::Apply => firewall::apply(&config),
        Command::Remove => firewall::remove(&config),
    };
    let mut code = ExitCode::SUCCESS;
    for step in &steps {
        if let Err(error) = report(step) {
            eprintln!("rblfilter: {error}");
            code = exit::SOFTWARE.into();
        }
    }
    code
}

fn report(step: &Step) -> Result<(), firewall::Error> {
    if step.run()? {
        println!("{}", step.done());
    }
    Ok(())
}
