//! Tables for spreadsheets, one a file.

use std::io::{self, Write};

use clap::ValueEnum;
use csv::WriterBuilder;
use serde::Serialize;

use super::summary::Report;

/// Which table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Table {
    /// The counts over time
    Time,
    /// Refusals by list or reply
    Refusals,
    /// The networks with the most connections
    Networks,
    /// Waves
    Waves,
    /// Refused clients that may be legitimate
    Candidates,
}

impl Table {
    /// Writes it, with a line of names even where it is empty.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(self, report: &Report, out: impl Write) -> io::Result<()> {
        match self {
            Self::Time => rows(
                out,
                &[
                    "begin",
                    "seconds",
                    "connections",
                    "accepted",
                    "listed",
                    "refused",
                    "bans",
                    "shed",
                    "slots_mean",
                    "slots_most",
                    "slots_counted",
                ],
                report.points(),
            ),
            Self::Refusals => rows(out, &["by", "what", "times", "bans"], &report.refusals),
            Self::Networks => rows(
                out,
                &["network", "connections", "refused", "bans", "accepted"],
                &report.networks,
            ),
            Self::Waves => rows(
                out,
                &[
                    "begin",
                    "seconds",
                    "connections",
                    "peak_a_minute",
                    "peak_at",
                    "addresses",
                    "refused",
                    "slots",
                ],
                &report.waves,
            ),
            Self::Candidates => rows(
                out,
                &[
                    "client",
                    "domain",
                    "because",
                    "refused",
                    "delivered",
                    "first",
                    "last",
                ],
                &report.candidates,
            ),
        }
    }
}

fn rows<R: Serialize>(
    out: impl Write,
    names: &[&str],
    rows: impl IntoIterator<Item = R>,
) -> io::Result<()> {
    let mut writer = WriterBuilder::new().has_headers(false).from_writer(out);
    writer.write_record(names)?;
    for row in rows {
        // A row of another length than the names is an error, too.
        writer.serialize(row)?;
    }
    writer.flush()
}
