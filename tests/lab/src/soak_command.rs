//! `lab soak`: a long mixed wave, and whether the filter grows in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use rblfilter_lab::soak::sample::Sample;
use rblfilter_lab::soak::{self, report};
use rblfilter_lab::{Error, Product};

/// Send a long mixed wave at rblfilter, and see whether it grows.
#[derive(Args)]
pub struct Options {
    /// How long.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=600))]
    minutes: u64,
    /// Write all figures there as JSON, for the report of `lab faults`.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Say nothing of each sample.
    #[arg(long)]
    quiet: bool,
    /// install.sh of the checkout.
    #[arg(long, default_value = "install.sh")]
    install: PathBuf,
    /// The folder with the built programs.
    #[arg(long, default_value = "target/release")]
    programs: PathBuf,
}

impl Options {
    /// Runs it.
    pub fn run(&self) -> Result<(), Error> {
        let absolute = |path: &Path| {
            std::path::absolute(path)
                .map_err(|error| Error::Load(format!("{}: {error}", path.display())))
        };
        let product = Product {
            installer: absolute(&self.install)?,
            programs: absolute(&self.programs)?,
        };
        let json = self.json.as_deref().map(absolute).transpose()?;
        let length = Duration::from_secs(60 * self.minutes);
        let quiet = self.quiet;
        let mut figures = soak::run(&product, length, &|sample| {
            if !quiet {
                println!("{}", line(sample));
            }
        })?;
        figures.date = crate::today();
        figures.machine = crate::machine();
        println!("{}", report::section(&figures));
        if let Some(path) = json {
            let text =
                serde_json::to_string_pretty(&figures).map_err(|e| Error::Load(e.to_string()))?;
            fs::write(&path, text + "\n").map_err(|source| Error::Io {
                operation: "write",
                object: path.display().to_string(),
                source,
            })?;
        }
        let complaints = figures.complaints();
        if complaints.is_empty() {
            return Ok(());
        }
        Err(Error::Load(complaints.join("; ")))
    }
}

fn line(sample: &Sample) -> String {
    let parts: Vec<String> = sample
        .held
        .iter()
        .map(|(name, held)| {
            format!(
                "{name} {} KiB {} fds {} threads",
                held.rss_kib, held.descriptors, held.threads
            )
        })
        .collect();
    format!(
        "{:>6.0} s  {}  banned {}",
        sample.at_s,
        parts.join(", "),
        sample.banned
    )
}
