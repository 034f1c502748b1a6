//! `lab`: a lab by hand. `lab shell` for a look around, `lab run -- PROGRAM` for one program, `lab demo` to see
//! rblfilter at work, `lab wave` to measure it, `lab faults` and `lab soak` to see what it bears.

mod demo;
mod drive;
mod faults_command;
mod requests;
mod soak_command;
mod wave_command;

use std::path::PathBuf;
use std::process::{ExitCode, Stdio};

use clap::{Args, Parser, Subcommand, ValueEnum};
use rblfilter_lab::{Config, Error, Lab, Spaces};

/// A real Courier, DNS list and ipset in private namespaces, gone when you leave.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Start a lab and a shell in it.
    Shell(Options),
    /// Start a lab and one program in it.
    Run {
        #[command(flatten)]
        options: Options,
        /// The program and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        program: Vec<String>,
    },
    /// Send a wave at a Courier, and measure.
    Wave(wave_command::Options),
    /// Do faults to rblfilter under a wave, and tell what became of the mail.
    Faults(faults_command::Options),
    /// Send a long mixed wave at rblfilter, and see whether it grows.
    Soak(soak_command::Options),
    /// Measure how fast filters answer.
    Requests(requests::Options),
    /// Show a wave of listed clients, without rblfilter and with it.
    Demo {
        /// install.sh of the checkout.
        #[arg(long, default_value = "install.sh")]
        install: PathBuf,
        /// The folder with the built programs.
        #[arg(long, default_value = "target/release")]
        programs: PathBuf,
        /// How long each of the two waves lasts, in seconds.
        #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u64).range(1..=300))]
        seconds: u64,
    },
}

/// Which namespaces a lab shares with the machine.
#[derive(Clone, Copy, ValueEnum)]
enum SpacesOption {
    /// The mounts, the network and the processes are its own.
    Private,
    /// The mounts alone are its own: for the kernel's proc connector. Port 2525 on loopback.
    Machine,
}

impl From<SpacesOption> for Spaces {
    fn from(option: SpacesOption) -> Self {
        match option {
            SpacesOption::Private => Self::Private,
            SpacesOption::Machine => Self::Machine,
        }
    }
}

#[derive(Args)]
struct Options {
    /// Which namespaces it shares with the machine.
    #[arg(long, value_enum, default_value_t = SpacesOption::Private)]
    spaces: SpacesOption,
    /// BLACKLISTS of port 25, e.g. `-block=bl.test,BLOCK2`.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    blacklists: String,
    /// ESMTPAUTH of port 25, e.g. `PLAIN`.
    #[arg(long, default_value = "")]
    auth: String,
    /// A line of smtpaccess, e.g. `127.1.9<tab>allow,RELAYCLIENT`.
    #[arg(long)]
    access: Vec<String>,
    /// Serve port 587, too.
    #[arg(long)]
    msa: bool,
}

impl Options {
    fn start(self) -> Result<Lab, Error> {
        let Self {
            spaces,
            blacklists,
            auth,
            access,
            msa,
        } = self;
        Lab::start(Config {
            spaces: spaces.into(),
            blacklists,
            esmtp_auth: auth,
            smtp_access: access,
            msa,
            ..Config::default()
        })
    }
}

fn main() -> ExitCode {
    if let Some((name, arguments)) = drive::role() {
        return drive::run(&name, &arguments);
    }
    match run(Arguments::parse().role) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lab: {error}");
            ExitCode::from(if matches!(error, Error::NotRoot) {
                77
            } else {
                70
            })
        }
    }
}

fn run(role: Role) -> Result<ExitCode, Error> {
    let (lab, program) = match role {
        Role::Shell(options) => {
            let lab = options.start()?;
            println!(
                "alice@lab.test has the password \"{}\"; bl.test lists 127.66.0.0/16.",
                rblfilter_lab::PASSWORD
            );
            println!("The mail log is /var/log/mail.log. Leave the shell, and all this is gone.");
            (lab, vec!["/bin/bash".to_owned()])
        }
        Role::Run { options, program } => (options.start()?, program),
        Role::Wave(options) => {
            options.run()?;
            return Ok(ExitCode::SUCCESS);
        }
        Role::Faults(options) => {
            options.run()?;
            return Ok(ExitCode::SUCCESS);
        }
        Role::Soak(options) => {
            options.run()?;
            return Ok(ExitCode::SUCCESS);
        }
        Role::Requests(options) => {
            requests::run(&options)?;
            return Ok(ExitCode::SUCCESS);
        }
        Role::Demo {
            install,
            programs,
            seconds,
        } => {
            demo::run(install, programs, seconds)?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    let Some((name, arguments)) = program.split_first() else {
        return Ok(ExitCode::from(64));
    };
    let status = lab
        .command(name)
        .args(arguments)
        .stdin(Stdio::inherit())
        .status();
    let status = status.map_err(|source| Error::Io {
        operation: "run",
        object: name.clone(),
        source,
    })?;
    Ok(status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Today, as `2026-11-24` (UTC).
fn today() -> String {
    let output = std::process::Command::new("date")
        .args(["-u", "+%F"])
        .output();
    output
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default()
}

/// What it ran on, in general words.
fn machine() -> String {
    let processors = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel: Vec<&str> = kernel.trim().split(['.', '-']).take(2).collect();
    format!("{processors} processors, Linux {}", kernel.join("."))
}
