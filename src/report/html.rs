//! The report as one page: charts and tables, light or dark as the reader's
//! system is, without a script and without a network. It is well-formed XML,
//! too, and whatever came from the log is escaped.

use std::fmt::Write as _;

use super::series::Series;
use super::summary::{Because, Moment, Report};
use super::svg::{Chart, top};
use super::text::{
    a_minute, bytes, estimate, length, many, nothing, number, outside, rate, stamp, time, totals,
    without,
};

/// Steps of a chart.
const STEPS: usize = 400;
/// Rows of a table.
const ROWS: usize = 25;
const STYLE: &str = include_str!("page.css");

/// Text for an element or an attribute. What XML has no place for is U+FFFD.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            character if character.is_control() => out.push('\u{fffd}'),
            character => out.push(character),
        }
    }
    out
}

/// The page.
#[must_use]
pub fn page(report: &Report) -> String {
    let mut out = String::from(
        "<!DOCTYPE html>\n<html lang=\"en\" xmlns=\"http://www.w3.org/1999/xhtml\">\n<head>\n\
         <meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <meta name=\"robots\" content=\"noindex\"/>\n\
         <title>rblfilter report</title>\n",
    );
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<header>\n<h1>Courier's mail log</h1>\n"
    );
    let period = report.period.map_or_else(
        || match outside(report) {
            Some(outside) => format!("{} {outside}", nothing(report)),
            None => nothing(report).to_owned(),
        },
        |(first, last)| {
            format!(
                "{} to {}, {}.",
                time(first, &report.zone, "%Y-%m-%d %H:%M:%S"),
                time(last, &report.zone, "%Y-%m-%d %H:%M:%S %Z"),
                length(last.0 - first.0 + 1)
            )
        },
    );
    let _ = writeln!(
        out,
        "<p>{} {}, {}; {} of them counted.{}</p>\n</header>",
        escaped(&period),
        many(report.lines, "line", "lines"),
        bytes(report.bytes),
        number(report.counted_lines),
        if report.anonymised {
            " Addresses are cut down to networks, domains to their last part."
        } else {
            ""
        }
    );
    sums(&mut out, report);
    if report.period.is_some() {
        charts(&mut out, report);
        refusals(&mut out, report);
        networks(&mut out, report);
        waves(&mut out, report);
        candidates(&mut out, report);
        rest(&mut out, report);
    }
    let _ = writeln!(
        out,
        "<p class=\"note\">rblfilter {}</p>\n</main>\n</body>\n</html>",
        env!("CARGO_PKG_VERSION")
    );
    out
}

fn sums(out: &mut String, report: &Report) {
    out.push_str("<dl class=\"sums\">\n");
    for (name, value, _) in totals(report) {
        let about = if name == "Addresses" && report.totals.addresses_estimated {
            "~"
        } else {
            ""
        };
        let _ = writeln!(
            out,
            "<div><dt>{}</dt><dd>{about}{}</dd></div>",
            escaped(name.trim()),
            number(value)
        );
    }
    let of = |slots: u32| {
        report.slots.all.map_or_else(
            || number(slots.into()),
            |all| {
                format!(
                    "{} <small>of {}</small>",
                    number(slots.into()),
                    number(all.into())
                )
            },
        )
    };
    let _ = writeln!(
        out,
        "<div><dt>Slots in use at most, estimated</dt><dd>{}</dd></div>",
        of(report.slots.most)
    );
    if report.slots.counted > 0 {
        let _ = writeln!(
            out,
            "<div><dt>The same by Courier's own count</dt><dd>{}</dd></div>",
            of(report.slots.counted)
        );
    }
    out.push_str("</dl>\n");
}

fn charts(out: &mut String, report: &Report) {
    let span = report.period.map_or(0, |(first, last)| last.0 - first.0);
    let least = if span > 3600 { 60 } else { 1 };
    let series = report.series.of_at_most(STEPS).of_at_least(least);
    let width = series.width();
    let format = stamp(report.period, width);
    let when = |at: i64| time(Moment(at), &report.zone, format);

    let of = |count: u64| a_minute(count, width);
    let connections: Vec<f64> = series.steps().map(|(_, s)| of(s.connections)).collect();
    let refused: Vec<f64> = series
        .steps()
        .map(|(_, s)| of(s.listed + s.refused))
        .collect();
    let listed: Vec<f64> = series.steps().map(|(_, s)| of(s.listed)).collect();
    let titles = series
        .steps()
        .map(|(at, step)| {
            format!(
                "{}: {} connections a minute, {} refused because of a list, {} for other reasons",
                when(at),
                rate(of(step.connections)),
                rate(of(step.listed)),
                rate(of(step.refused)),
            )
        })
        .collect();
    section(
        out,
        &format!("Connections a minute, in steps of {}", length(width)),
        &[
            ("all", "all"),
            ("bad", "refused because of a list"),
            ("other", "refused for other reasons"),
        ],
    );
    let chart = Chart {
        label: "connections a minute over time",
        top: top(largest(&connections).max(largest(&refused))),
        areas: vec![("all", connections), ("other", refused), ("bad", listed)],
        dots: Vec::new(),
        line: None,
        titles,
    };
    drawn(out, &chart, &series, when);
    out.push_str("</section>\n");

    slots(out, report, &series, when);

    let mail: Vec<f64> = series.steps().map(|(_, s)| of(s.accepted)).collect();
    let titles = series
        .steps()
        .map(|(at, step)| format!("{}: {} a minute", when(at), rate(of(step.accepted))))
        .collect();
    section(out, "Messages accepted a minute", &[]);
    let chart = Chart {
        label: "messages accepted a minute over time",
        top: top(largest(&mail)),
        areas: vec![("mail", mail)],
        dots: Vec::new(),
        line: None,
        titles,
    };
    drawn(out, &chart, &series, when);
    out.push_str("</section>\n");
}

fn slots(out: &mut String, report: &Report, series: &Series, when: impl Fn(i64) -> String) {
    let width = series.width();
    let most = |slots: u32| report.slots.all.map_or(slots, |all| slots.min(all));
    let slots: Vec<f64> = series
        .steps()
        .map(|(_, step)| f64::from(most(step.most(width))))
        .collect();
    let dots: Vec<(&str, usize, f64)> = series
        .steps()
        .enumerate()
        .filter(|(_, (_, step))| step.counted > 0)
        .map(|(index, (_, step))| ("dot", index, f64::from(step.counted)))
        .collect();
    let mut legend = vec![("all", "estimated")];
    if !dots.is_empty() {
        legend.push(("max", "Courier's own count (dots)"));
    }
    let line = report.slots.all.map(f64::from);
    if line.is_some() {
        legend.push(("max", "all slots (dashed)"));
    }
    let titles = series
        .steps()
        .map(|(at, step)| {
            let counted = if step.counted > 0 {
                format!(", {} by Courier's count", number(step.counted.into()))
            } else {
                String::new()
            };
            let most = most(step.most(width));
            format!("{}: {} slots{counted}", when(at), number(most.into()))
        })
        .collect();
    section(out, "Slots in use at most", &legend);
    let counted = f64::from(report.slots.counted);
    let chart = Chart {
        label: "slots in use over time",
        top: top(largest(&slots).max(counted).max(line.unwrap_or(0.0)) * 1.02),
        areas: vec![("all", slots)],
        dots,
        line: line.map(|all| ("max", all)),
        titles,
    };
    drawn(out, &chart, series, when);
    let _ = writeln!(
        out,
        "<p class=\"note\">{}</p>\n</section>",
        escaped(&estimate(report))
    );
}

fn largest(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

/// The chart with its labels.
fn drawn(out: &mut String, chart: &Chart<'_>, series: &Series, when: impl Fn(i64) -> String) {
    out.push_str("<div class=\"chart\"><div class=\"ticks\">");
    for quarter in 0..4_u8 {
        let value = chart.top * f64::from(4 - quarter) / 4.0;
        let shown = if value.fract() == 0.0 || value >= 100.0 {
            rate(value.round()).trim_end_matches(".0").to_owned()
        } else {
            format!("{value:.2}").trim_end_matches('0').to_owned()
        };
        let _ = write!(
            out,
            "<span style=\"top:{}%\">{shown}</span>",
            u32::from(quarter) * 25
        );
    }
    let _ = write!(
        out,
        "<span style=\"top:100%\">0</span></div>\n{}\n<div class=\"times\">",
        chart.svg()
    );
    let begins: Vec<i64> = series.steps().map(|(at, _)| at).collect();
    let mut shown: Vec<usize> = (0..4).map(|part| begins.len() * part / 4).collect();
    shown.dedup();
    for index in shown {
        if let Some(at) = begins.get(index) {
            let _ = write!(out, "<span>{}</span>", escaped(&when(*at)));
        }
    }
    if let Some(at) = begins.last() {
        let end = at + series.width();
        let _ = write!(out, "<span>{}</span>", escaped(&when(end)));
    }
    out.push_str("</div></div>\n");
}

/// Opens a section, with a legend for its chart.
fn section(out: &mut String, title: &str, legend: &[(&str, &str)]) {
    let _ = writeln!(out, "<section>\n<h2>{}</h2>", escaped(title));
    if legend.is_empty() {
        return;
    }
    out.push_str("<ul class=\"legend\">");
    for (class, name) in legend {
        let _ = write!(out, "<li class=\"key-{class}\">{}</li>", escaped(name));
    }
    out.push_str("</ul>\n");
}

/// Opens a table; the names of columns that hold words are marked by `left`.
fn table(out: &mut String, columns: &[&str]) {
    out.push_str("<div class=\"wide\"><table>\n<thead><tr>");
    for name in columns {
        let (name, class) = match name.strip_prefix('<') {
            Some(name) => (name, " class=\"left\""),
            None => (*name, ""),
        };
        let _ = write!(out, "<th{class}>{}</th>", escaped(name));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
}

fn end_of_table(out: &mut String) {
    out.push_str("</tbody>\n</table></div>\n");
}

/// A bar in a cell, `bad` of it in the colour of refusals.
fn bar(value: u64, bad: u64, most: u64) -> String {
    #[allow(clippy::cast_precision_loss)] // pixels
    let percent = |part: u64, all: u64| {
        if all == 0 {
            0.0
        } else {
            (part as f64 * 100.0 / all as f64).min(100.0)
        }
    };
    let class = if bad == 0 { " class=\"none\"" } else { "" };
    format!(
        "<td class=\"bar\"><div style=\"width:{:.1}%\"><div{class} style=\"width:{:.1}%\"></div></div></td>",
        percent(value, most),
        percent(bad, value)
    )
}

fn refusals(out: &mut String, report: &Report) {
    for (by, title, column) in [
        ("rblfilter", "Refused by rblfilter, by list", "verdicts"),
        ("courier", "Courier's replies of refusal", "replies"),
    ] {
        let rows: Vec<_> = report.refusals.iter().filter(|one| one.by == by).collect();
        let Some(most) = rows.iter().map(|one| one.times).max() else {
            continue;
        };
        section(out, title, &[]);
        let ours = by == "rblfilter";
        if ours {
            table(out, &["list", column, "bans", ""]);
        } else {
            table(out, &["reply", column, ""]);
        }
        for one in rows.into_iter().take(ROWS) {
            let bans = if ours {
                format!("<td>{}</td>", number(one.bans))
            } else {
                String::new()
            };
            let _ = writeln!(
                out,
                "<tr><td class=\"long\">{}</td><td>{}</td>{bans}{}</tr>",
                escaped(&one.what),
                number(one.times),
                bar(one.times, one.times, most)
            );
        }
        end_of_table(out);
        out.push_str("</section>\n");
    }
}

fn networks(out: &mut String, report: &Report) {
    let Some(most) = report.networks.iter().map(|one| one.connections).max() else {
        return;
    };
    section(
        out,
        "Networks with the most connections",
        &[("all", "connections"), ("bad", "of them refused")],
    );
    table(
        out,
        &["network", "connections", "refused", "bans", "mail", ""],
    );
    for one in report.networks.iter().take(ROWS) {
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>{}</tr>",
            escaped(&one.network),
            number(one.connections),
            number(one.refused),
            number(one.bans),
            number(one.accepted),
            bar(one.connections, one.refused.min(one.connections), most)
        );
    }
    end_of_table(out);
    out.push_str("</section>\n");
}

fn waves(out: &mut String, report: &Report) {
    section(out, &format!("Waves: {}", number(report.waves_found)), &[]);
    if !report.waves.is_empty() {
        table(
            out,
            &[
                "begin",
                "length",
                "peak a minute",
                "connections",
                "addresses",
                "refused",
                "slots",
            ],
        );
        let mut largest: Vec<_> = report.waves.iter().collect();
        largest.sort_by_key(|wave| std::cmp::Reverse(wave.connections));
        largest.truncate(ROWS);
        largest.sort_by_key(|wave| wave.begin);
        for wave in largest {
            let _ = writeln!(
                out,
                "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                escaped(&time(wave.begin, &report.zone, "%Y-%m-%d %H:%M:%S")),
                length(wave.seconds),
                number(wave.peak_a_minute),
                number(wave.connections),
                number(wave.addresses),
                number(wave.refused),
                number(wave.slots.into()),
            );
        }
        end_of_table(out);
    }
    let _ = writeln!(
        out,
        "<p class=\"note\">A wave: 10 s with at least 10 connections and four times the usual \
         (now {} a minute), until a minute with less than half of that.</p>\n</section>",
        rate(report.usual)
    );
}

fn candidates(out: &mut String, report: &Report) {
    section(
        out,
        &format!(
            "Refused, and perhaps legitimate: {}",
            number(report.candidates_found)
        ),
        &[],
    );
    if !report.candidates.is_empty() {
        table(
            out,
            &[
                "client",
                "refused",
                "delivered",
                "<why",
                "<sender's domain",
                "<first refused",
            ],
        );
        for one in report.candidates.iter().take(ROWS) {
            let why = match one.because {
                Because::BeforeAndAfter => "it delivered before and after",
                Because::Before => "it delivered before",
                Because::After => "it delivered after",
                Because::Network => "its network delivered",
                Because::Domain => "the domain delivered from elsewhere",
            };
            let _ = writeln!(
                out,
                "<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"left\">{why}</td><td class=\"left long\">{}</td><td class=\"left\">{}</td></tr>",
                escaped(&one.client),
                number(one.refused),
                number(one.delivered),
                escaped(one.domain.as_deref().unwrap_or("")),
                escaped(&time(one.first, &report.zone, "%Y-%m-%d %H:%M:%S")),
            );
        }
        end_of_table(out);
    }
    out.push_str(
        "<p class=\"note\">Clients refused because of a list, of which mail was delivered by \
         the same address, by its network (/24, /64), or for its sender's domain from \
         elsewhere (weak: senders are forged).</p>\n</section>\n",
    );
}

fn rest(out: &mut String, report: &Report) {
    let sentences = without(report);
    if !sentences.is_empty() {
        section(out, "What rblfilter would have done", &[]);
        for sentence in sentences {
            let _ = writeln!(out, "<p>{}</p>", escaped(&sentence));
        }
        out.push_str("</section>\n");
    }
    if !report.troubles.is_empty() {
        section(out, "What did not work", &[]);
        table(out, &["what", "times"]);
        for trouble in report.troubles.iter().take(ROWS) {
            let _ = writeln!(
                out,
                "<tr><td class=\"long\">{}</td><td>{}</td></tr>",
                escaped(&trouble.what),
                number(trouble.times)
            );
        }
        end_of_table(out);
        out.push_str("</section>\n");
    }
    if !report.limits.is_empty() || report.no_stamp > 0 {
        section(out, "Not complete", &[]);
        for limit in &report.limits {
            let _ = writeln!(out, "<p>{}</p>", escaped(limit));
        }
        if report.no_stamp > 0 {
            let _ = writeln!(
                out,
                "<p>{} with no time that is known.</p>",
                many(report.no_stamp, "line", "lines")
            );
        }
        out.push_str("</section>\n");
    }
}
