//! The rows of each pane, as text.

use super::model::{Model, Pane};
use crate::cli::status::units::{duration, micros, share, short, shown};
use crate::control::{Entry, What, shown as network};
use crate::sessions::{Session, State, Verdict};
use crate::status::{Degraded, Health, Status, Zone};

/// How much a row matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// As any other.
    Plain,
    /// Beside the point.
    Faint,
    /// To be looked at.
    Warning,
    /// Not as it should be.
    Bad,
}

/// A row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What is written there.
    pub text: String,
    /// How much it matters.
    pub weight: Weight,
    /// The number of what it is of: a trouble has several rows.
    pub of: usize,
}

/// The head of the pane that is shown, and its rows, for so many columns.
#[must_use]
pub fn of(model: &Model, width: usize) -> (String, Vec<Row>) {
    let empty = Status::default();
    let status = model.status.as_ref().unwrap_or(&empty);
    match model.pane {
        Pane::Sessions => sessions(model),
        Pane::Bans => bans(&model.bans, status.bans),
        Pane::Lists => lists(status),
        Pane::Troubles => troubles(&status.degraded, width),
    }
}

/// A name of at most `width` characters, padded.
fn name(text: &str, width: usize) -> String {
    let text = shown(text);
    if text.chars().count() <= width {
        format!("{text:width$}")
    } else {
        let cut: String = text.chars().take(width - 2).collect();
        format!("{cut}..")
    }
}

fn rows<T>(of: &[T], row: impl Fn(&T) -> (String, Weight)) -> Vec<Row> {
    let rows = of.iter().map(row).enumerate();
    rows.map(|(of, (text, weight))| Row { text, weight, of })
        .collect()
}

/// A line that tells that there are more than are shown; of none of them.
fn rest(rows: &mut Vec<Row>, all: usize) {
    let shown = rows.len();
    if all > shown {
        rows.push(Row {
            text: format!("and {} more", short((all - shown) as u64)),
            weight: Weight::Faint,
            of: usize::MAX,
        });
    }
}

fn sessions(model: &Model) -> (String, Vec<Row>) {
    let head = format!(
        "{:<25} {:>5} {:>4} {:>8} {:<8} {:<8} {}",
        "client", "port", "to", "age", "state", "verdict", "list"
    );
    let mut all = rows(&model.sessions.sessions, session);
    rest(&mut all, model.sessions.total);
    (head, all)
}

fn session(session: &Session) -> (String, Weight) {
    let state = match session.state {
        State::Found => "found",
        State::Open => "open",
        State::Message => "message",
        State::Ending => "ending",
    };
    let (verdict, weight) = match session.verdict {
        Verdict::Judging => ("judging", Weight::Plain),
        Verdict::Exempt => ("exempt", Weight::Faint),
        Verdict::Pass => ("pass", Weight::Plain),
        Verdict::Reject => ("reject", Weight::Warning),
        Verdict::Ban => ("ban", Weight::Bad),
    };
    let text = format!(
        "{} {:>5} {:>4} {:>8} {state:<8} {verdict:<8} {}",
        name(&session.client.to_string(), 25),
        session.port,
        session.local_port,
        duration(session.age),
        shown(&session.zone)
    );
    (text, weight)
}

fn bans(entries: &[Entry], all: usize) -> (String, Vec<Row>) {
    let head = format!(
        "{:<27} {:<6} {:>8} {:>7} {:<10} {}",
        "network", "", "left", "offence", "by", "lists, reason"
    );
    let mut rows = rows(entries, entry);
    let banned = entries.iter().filter(|it| it.what == What::Ban).count();
    let allowed = entries.len() - banned;
    rest(&mut rows, all.max(banned).saturating_add(allowed));
    (head, rows)
}

fn entry(entry: &Entry) -> (String, Weight) {
    let (what, weight) = match entry.what {
        What::Ban => ("banned", Weight::Plain),
        What::Allow => ("let in", Weight::Faint),
    };
    let offence = entry.offence.map_or_else(|| "-".into(), |n| n.to_string());
    let why = if entry.zones.is_empty() {
        shown(&entry.reason)
    } else {
        shown(&entry.zones.join(" "))
    };
    let text = format!(
        "{} {what} {:>8} {offence:>7} {} {why}",
        name(&network(entry.network), 27),
        duration(entry.left.into()),
        name(&entry.by, 10),
    );
    (text, weight)
}

fn lists(status: &Status) -> (String, Vec<Row>) {
    let head = format!(
        "{:<22} {:<8} {:>9} {:>9} {:>5} {:>7} {:>7} {:>6}",
        "list", "health", "asked", "cached", "lists", "failed", "median", "p99"
    );
    let row = |zone: &Zone| {
        // The worst of its families.
        let of = status.lists.iter().filter(|list| list.name == zone.name);
        let health = of
            .map(|list| list.health)
            .max_by_key(|health| match health {
                Health::Believed => 0,
                Health::Silent => 1,
                Health::Testing => 2,
                Health::Down => 3,
            });
        let (health, weight) = match health {
            Some(Health::Believed) => ("believed", Weight::Plain),
            Some(Health::Silent) => ("silent", Weight::Warning),
            Some(Health::Testing) => ("testing", Weight::Warning),
            Some(Health::Down) => ("DOWN", Weight::Bad),
            None => ("", Weight::Plain),
        };
        let said = &zone.counted;
        let text = format!(
            "{} {health:<8} {:>9} {:>9} {:>5} {:>7} {:>7} {:>6}",
            name(&zone.name, 22),
            short(said.asked),
            short(said.hits),
            share(said.listed, said.answers),
            short(said.timeouts.saturating_add(said.errors)),
            micros(said.took.median_us),
            micros(said.took.p99_us)
        );
        (text, weight)
    };
    (head, rows(&status.zones, row))
}

fn troubles(troubles: &[Degraded], width: usize) -> (String, Vec<Row>) {
    let mut all = Vec::new();
    for (of, trouble) in troubles.iter().enumerate() {
        let name = [&*trouble.what, &*trouble.name].join(" ");
        let what = format!(
            "{}, for {}: {}",
            shown(name.trim()),
            duration(trouble.age),
            shown(&trouble.reason)
        );
        let todo = format!("  {}", shown(&trouble.advice));
        for (text, weight) in [(what, Weight::Bad), (todo, Weight::Plain)] {
            let lines = crate::cli::status::wrapped(&text, width.max(10));
            all.extend(lines.into_iter().map(|text| Row { text, weight, of }));
        }
    }
    ("what does not work, why, and what to do".into(), all)
}
