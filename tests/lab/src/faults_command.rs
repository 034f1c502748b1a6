//! `lab faults`: faults under a wave, and the report of them.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use rblfilter_lab::faults::{self, Row, report, scenario};
use rblfilter_lab::{Error, Product, soak};

/// Do faults to rblfilter under a wave, and tell what became of the mail.
#[derive(Args)]
pub struct Options {
    /// The fault of this name alone.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Shorter and with less load, as the tests do it.
    #[arg(long)]
    short: bool,
    /// Name the faults.
    #[arg(long)]
    list: bool,
    /// Do nothing, and take the figures that `--json` wrote.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["only", "short"])]
    from: Option<PathBuf>,
    /// Write the report there.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// The figures of `lab soak --json`, for the report.
    #[arg(long, value_name = "FILE", default_value = "docs/soak.json")]
    soak: PathBuf,
    /// Write all figures there as JSON; "-" is standard output.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// install.sh of the checkout.
    #[arg(long, default_value = "install.sh")]
    install: PathBuf,
    /// The folder with the built programs.
    #[arg(long, default_value = "target/release")]
    programs: PathBuf,
}

impl Options {
    /// Runs what the options say.
    pub fn run(&self) -> Result<(), Error> {
        let mut scenarios = scenario::all();
        let known = |name: &String| scenarios.iter().any(|one| one.name == name);
        if let Some(unknown) = self.only.iter().find(|name| !known(name)) {
            return Err(Error::Load(format!(
                "no fault {unknown:?}: see lab faults --list"
            )));
        }
        if self.list {
            for one in scenarios {
                println!("{:<20}{}", one.name, one.title);
            }
            return Ok(());
        }
        scenarios.retain(|one| self.only.is_empty() || self.only.iter().any(|n| n == one.name));
        let plan = faults::plan(
            Product {
                installer: absolute(&self.install)?,
                programs: absolute(&self.programs)?,
            },
            self.short,
        );
        let quiet = self.json.as_deref() == Some(Path::new("-"));
        let mut rows: Vec<Row> = Vec::new();
        if let Some(path) = &self.from {
            rows = read(path)?;
            scenarios.clear();
        }
        for one in &scenarios {
            let row = faults::run(one, &plan)?;
            if !quiet {
                println!("{}", summary(&row));
            }
            rows.push(row);
        }
        if let Some(path) = &self.json {
            let text =
                serde_json::to_string_pretty(&rows).map_err(|e| Error::Load(e.to_string()))?;
            if quiet {
                println!("{text}");
            } else {
                write(path, &(text + "\n"))?;
            }
        }
        if let Some(path) = &self.report {
            let about = report::About {
                date: crate::today(),
                machine: crate::machine(),
                command: "lab faults --report docs/reliability.md".into(),
                rates: [plan.rate, plan.bystanders, plan.mail],
            };
            let soak = match self.soak.exists() {
                true => soak::report::section(&read(&self.soak)?),
                false => format!(
                    "\n## Soak\n\nNo figures yet: `lab soak --minutes 60 --json {}`.\n",
                    self.soak.display()
                ),
            };
            let text = report::faults(&about, &rows) + &soak;
            write(path, &text)?;
        }
        Ok(())
    }
}

fn summary(row: &Row) -> String {
    let time = row
        .until_normal_s
        .map_or("never".to_owned(), |time| format!("{time:.1} s"));
    format!(
        "{:<20} normal after {time:>7}  mail {} of {}, {} tempfailed, {} unconnected; {} of {} listed ended; bans {} of {}; {}\n{:>20} {}",
        row.name,
        row.delivered,
        row.offered,
        row.tempfailed,
        row.unconnected,
        row.listed[1],
        row.listed[0],
        row.bans[1],
        row.bans[0],
        if row.complaints().is_empty() {
            "ok".to_owned()
        } else {
            row.complaints().join("; ")
        },
        "",
        row.said.join(", ")
    )
}

fn absolute(path: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(path).map_err(|error| Error::Load(format!("{}: {error}", path.display())))
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let text = fs::read_to_string(path).map_err(|source| Error::Io {
        operation: "read",
        object: path.display().to_string(),
        source,
    })?;
    serde_json::from_str(&text).map_err(|e| Error::Load(format!("{}: {e}", path.display())))
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(|source| Error::Io {
        operation: "write",
        object: path.display().to_string(),
        source,
    })
}
