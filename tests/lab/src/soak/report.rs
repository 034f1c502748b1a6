//! The second part of `docs/reliability.md`.

use std::fmt::Write as _;

use super::flat::Trend;
use super::{Figures, SAMPLE};

/// The soak's part of the report.
#[must_use]
pub fn section(figures: &Figures) -> String {
    let mut text = format!(
        "\n## Soak\n\n\
         {:.0} minutes on {} ({}), by `lab soak`: 18 spammers a second of all kinds, over IPv4 and IPv6, nine of ten of them \
         listed, from 260 addresses; bans of 20 to 30 s, so that they end and come again; a DNS server that is away for 5 s \
         and slow for 5 s in each minute ({} times); {} bans and unbans by hand; {}; two legitimate messages a second. \
         Every {} s it is written down what the filter's processes hold: their memory, and the least number of descriptors \
         and threads that they had meanwhile.\n\n\
         | part | what | first | middle | last | most | growth in the second half | in an hour |\n\
         |---|---|---|---|---|---|---|---|\n",
        figures.minutes,
        figures.date,
        figures.machine,
        figures.dns,
        figures.by_hand,
        if figures.reloads > 0 {
            format!("{} reloads", figures.reloads)
        } else {
            "no reloads".to_owned()
        },
        SAMPLE.as_secs()
    );
    for (name, part) in &figures.parts {
        for (what, trend) in [
            ("RSS, KiB", part.rss_kib),
            ("PSS, KiB", part.pss_kib),
            ("descriptors", part.descriptors),
            ("threads", part.threads),
        ] {
            let _ = writeln!(text, "| {name} | {what} | {} |", cells(&trend));
        }
    }
    let [offered, delivered, lost, duplicated] = figures.mail;
    let _ = write!(
        text,
        "\n*Growth* is the rise of the straight line (least squares) through the samples of the second half. It is flat when \
         neither the line nor the mean of the last tenth against that of the middle one rises by more than 1 MiB of RSS or a \
         twentieth, 8 descriptors, 4 threads.\n\n\
         {} of {} spammers' connections were ended by the server, and most of the rest got no answer; {} addresses were \
         banned at the most at a time. {offered} messages, {delivered} delivered, {lost} lost, {duplicated} duplicated, {} \
         replies of 4xx. Processes replaced: {}. Zombies and orphans, in two samples in a row: {} and {}. Left after the stop: {}. \
         Panics: {}.\n\n{}\n",
        figures.spam[1],
        figures.spam[0],
        figures.banned,
        figures.tempfailed,
        figures.replaced,
        figures.zombies,
        figures.orphans,
        figures.left,
        figures.bugs,
        if figures.complaints().is_empty() {
            "All of it is flat.".to_owned()
        } else {
            format!(
                "What is not as it should be: {}.",
                figures.complaints().join("; ")
            )
        }
    );
    text
}

fn cells(trend: &Trend) -> String {
    let Trend {
        first,
        middle,
        last,
        most,
        growth,
        per_hour,
    } = trend;
    format!("{first:.0} | {middle:.0} | {last:.0} | {most:.0} | {growth:+.1} | {per_hour:+.1}")
}
