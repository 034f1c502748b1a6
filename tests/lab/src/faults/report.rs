//! `docs/reliability.md`: the table of faults, the soak's figures, and what they mean.

use std::fmt::Write as _;

use super::Row;

/// What the report says beside its figures.
#[derive(Debug, Clone)]
pub struct About {
    /// The day, as `2026-11-24`.
    pub date: String,
    /// Processors and kernel, in general words.
    pub machine: String,
    /// How it is made.
    pub command: String,
    /// Listed clients, bystanders and messages each second.
    pub rates: [u32; 3],
}

/// The head of the table of faults.
const HEAD: &str = "\
| fault | left for, s | mended | messages | delivered | tempfailed | not connected | lost | duplicated \
| wrongly ended | normal after, s | bans kept | kept out |
|---|---|---|---|---|---|---|---|---|---|---|---|---|";

/// The report's first part, up to the soak.
#[must_use]
pub fn faults(about: &About, rows: &[Row]) -> String {
    let [listed, bystanders, mail] = about.rates;
    let mut text = format!(
        "# Reliability\n\n\
         Made by `{}` on {}; {}. It is not written by hand.\n\n\
         ## Faults\n\n\
         Each row is a real Courier with rblfilter in private namespaces. {listed} listed clients connect each second, each \
         from an address of its own, name a recipient and stay silent; {bystanders} others, whom no list names, stay for a \
         few seconds and are to be left alone; {mail} legitimate messages are sent each second, by 12 clients. When all is \
         normal, the fault happens. Where it does not end by itself, it is mended after a while, and when all is normal \
         again, the rest of the mail is awaited and counted.\n\n\
         Each message has a number; its sender tries again a second after a 4xx or a failed connection, as a real one does \
         after minutes. *Lost* are those that never arrived, *duplicated* those that arrived twice. *Wrongly ended* are \
         sessions of clients that no list names, by what the client saw (its connection closed without a reply) and by \
         what rblfilter's log says. *Normal* means that listed sessions are ended within a second and their addresses are \
         in the kernel's set a second later, and that messages are accepted at the first try within a second: nine of ten \
         for three seconds. *Normal after* is the time from the fault to the end of the last session or message for which that was not so: \
         what lasts 4 s and is normal after 0 s disturbed nobody. *Kept out*: at the end a banned client gets no answer.\n\n\
         {HEAD}\n",
        about.command, about.date, about.machine
    );
    for row in rows {
        let _ = writeln!(text, "{}", line(row));
    }
    let compared: Vec<&Row> = rows.iter().filter(|row| row.without.is_some()).collect();
    if !compared.is_empty() {
        text.push_str(
            "\nThe same without rblfilter, where Courier itself is away meanwhile (normal: the mail alone):\n\n\
             | fault | tempfailed | not connected | lost | duplicated | sessions closed | with rblfilter | normal after, s |\n|---|---|---|---|---|---|---|---|\n",
        );
        for row in compared {
            let Some(without) = row.without else { continue };
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} | {} |",
                row.title,
                without.tempfailed,
                without.unconnected,
                without.lost,
                without.duplicated,
                without.closed_by_courier,
                row.closed_by_courier,
                seconds(without.until_normal_s)
            );
        }
    }
    let [offered, delivered, lost, duplicated, wrong, bystanders] = rows
        .iter()
        .map(|row| {
            [
                row.offered,
                row.delivered,
                row.lost,
                row.duplicated,
                row.wrongly_ended.len(),
                row.bystanders,
            ]
        })
        .fold([0; 6], |sum, row| {
            std::array::from_fn(|place| sum[place] + row[place])
        });
    let _ = writeln!(
        text,
        "\nAll together: {offered} messages, {delivered} delivered, {lost} lost, {duplicated} duplicated; of these and \
         {bystanders} bystanders {wrong} wrongly ended.\n\n\
         What the log says of rblfilter's state meanwhile (docs/logging.md):\n"
    );
    for row in rows.iter().filter(|row| !row.said.is_empty()) {
        let _ = writeln!(text, "- {}: {}", row.title, row.said.join(", "));
    }
    let bad: Vec<String> = rows
        .iter()
        .filter(|row| !row.complaints().is_empty())
        .map(|row| format!("- {}: {}\n", row.title, row.complaints().join("; ")))
        .collect();
    if !bad.is_empty() {
        let _ = write!(text, "\nWhat is not as it should be:\n\n{}", bad.concat());
    }
    text
}

fn line(row: &Row) -> String {
    let [had, kept] = row.bans;
    let cells = [
        row.title.clone(),
        row.lasted_s
            .map_or("–".to_owned(), |time| format!("{time:.1}")),
        if row.mended { "by hand" } else { "by itself" }.to_owned(),
        row.offered.to_string(),
        row.delivered.to_string(),
        row.tempfailed.to_string(),
        row.unconnected.to_string(),
        row.lost.to_string(),
        row.duplicated.to_string(),
        if row.unaware > 0 {
            format!(
                "{} (and {}, see below)",
                row.wrongly_ended.len(),
                row.unaware
            )
        } else {
            row.wrongly_ended.len().to_string()
        },
        seconds(row.until_normal_s),
        if row.lifts {
            format!("lifted: {kept} of {had}")
        } else {
            format!("{kept} of {had}")
        },
        row.kept_out
            .map_or("–", |kept| if kept { "yes" } else { "no" })
            .to_owned(),
    ];
    format!("| {} |", cells.join(" | "))
}

fn seconds(time: Option<f64>) -> String {
    time.map_or("never".to_owned(), |time| format!("{time:.1}"))
}
