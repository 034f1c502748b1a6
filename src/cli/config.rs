//! `rblfilter config`: is the configuration file right?

use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;

use super::exit;
use crate::config;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check the file; say what is wrong, with its line
    Check,
}

pub fn run(command: &Command, path: &Path) -> ExitCode {
    match command {
        Command::Check => match config::read(path) {
            Ok(_) => {
                println!("{}: ok", path.display());
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("rblfilter: {error}");
                exit::CONFIG.into()
            }
        },
    }
}
