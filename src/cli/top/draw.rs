//! How the model looks, at any size, with or without colours and characters
//! beyond ASCII.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::bar;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Clear, Paragraph, RenderDirection, Sparkline, Wrap};

use super::model::{Model, Pane};
use super::rows::{self, Row};
use crate::cli::status::units::{duration, micros, share, short, shown};
use crate::report::number;
use crate::status::{Counted, Sentences, Status};

/// The smallest terminal that something can be seen on.
const LEAST: (u16, u16) = (20, 5);
/// Columns of the numbers left of the chart.
const SCALE: u16 = 8;

/// What the terminal can do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Look {
    /// Colours.
    pub colour: bool,
    /// Block characters and lines, else ASCII.
    pub unicode: bool,
}

const ASCII_BARS: bar::Set<'_> = bar::Set {
    full: "#",
    seven_eighths: "#",
    three_quarters: "+",
    five_eighths: "+",
    half: "=",
    three_eighths: "-",
    one_quarter: ":",
    one_eighth: ".",
    empty: " ",
};

impl Look {
    fn colour(self, colour: Color) -> Style {
        if self.colour {
            Style::new().fg(colour)
        } else {
            Style::new()
        }
    }

    fn bad(self) -> Style {
        self.colour(Color::Red).add_modifier(Modifier::BOLD)
    }

    fn faint(self) -> Style {
        if self.colour {
            Style::new().add_modifier(Modifier::DIM)
        } else {
            Style::new()
        }
    }

    fn rule(self) -> &'static str {
        if self.unicode { "─" } else { "-" }
    }
}

/// Draws all of it.
pub fn draw(frame: &mut Frame<'_>, model: &Model, look: Look) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        frame.render_widget(Paragraph::new("too small (q: quit)"), area);
        return;
    }
    let chart = match area.height {
        0..12 => 0,
        12..18 => 4,
        18..40 => 7,
        height => height / 4,
    };
    let counts = if area.height < 10 { 0 } else { 2 };
    let [top, slots, counted, tabs, table, bottom] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(chart),
        Constraint::Length(counts),
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(1),
    ])
    .areas(area);
    title(frame, top, model, look);
    if chart > 0 {
        draw_slots(frame, slots, model, look);
    }
    if let Some(status) = &model.status {
        draw_counted(frame, counted, status);
    }
    draw_tabs(frame, tabs, model, look);
    draw_table(frame, table, model, look);
    draw_bottom(frame, bottom, model, look);
    if model.help {
        draw_help(
            frame,
            table.union(bottom).union(tabs).union(counted).union(slots),
        );
    }
    if let Some(question) = &model.question {
        draw_question(frame, area, &question.text, look);
    }
}

fn title(frame: &mut Frame<'_>, area: Rect, model: &Model, look: Look) {
    let mut spans = vec![Span::styled(
        "rblfilter",
        Style::new().add_modifier(Modifier::BOLD),
    )];
    if model.paused {
        spans.push(Span::styled(
            "  PAUSED",
            look.colour(Color::Yellow).add_modifier(Modifier::REVERSED),
        ));
    }
    match &model.status {
        None => spans.push("  asking the filter".into()),
        Some(status) => {
            let gate = match status.gate.state.as_str() {
                "off" | "" => String::new(),
                state => format!(", gate {}", shown(state)),
            };
            spans.push(
                format!(
                    "  {} {}, running for {}, watching by {}{gate}",
                    shown(&status.version),
                    shown(&status.mode),
                    duration(status.uptime),
                    shown(&status.watch)
                )
                .into(),
            );
        }
    }
    frame.render_widget(Line::from(spans), area);
}

/// The slots of one listener over time, the maximum as a line above.
fn draw_slots(frame: &mut Frame<'_>, area: Rect, model: &Model, look: Look) {
    let [head, chart] = Layout::vertical([Constraint::Length(1), Constraint::Min(1)]).areas(area);
    let Some(listener) = model.shown_listener() else {
        if model.status.is_some() {
            frame.render_widget(Line::from("no couriertcpd runs"), head);
        }
        return;
    };
    let looks = &listener.each_second;
    let peak = looks.iter().copied().max().unwrap_or(0);
    let used = number(listener.used as u64);
    let name = shown(&listener.name);
    let of = listener.slots.map_or_else(String::new, |slots| {
        let share = share(listener.used as u64, slots as u64);
        format!(" of {} ({share})", number(slots as u64))
    });
    let text = format!(
        "slots of {name}: {used}{of}, {} at most in {}",
        number(peak.into()),
        duration(looks.len() as u64)
    );
    let full = listener.slots.is_some_and(|slots| listener.used >= slots);
    let style = if full { look.bad() } else { Style::new() };
    frame.render_widget(Line::styled(text, style), head);
    let most = match listener.slots {
        Some(slots) => slots as u64,
        None => u64::from(peak),
    }
    .max(1);
    let [scale, right] =
        Layout::horizontal([Constraint::Length(SCALE), Constraint::Min(1)]).areas(chart);
    let [line, bars] = Layout::vertical([Constraint::Length(1), Constraint::Min(1)]).areas(right);
    let rule = look.rule().repeat(usize::from(line.width));
    let maximum = look.colour(Color::Red);
    frame.render_widget(Line::styled(rule, maximum), line);
    let label = |value: u64| format!("{:>7} ", short(value));
    let mut labels = vec![Line::from(Span::styled(label(most), maximum))];
    // The rows of the bars; the middle one has its number too.
    for row in 1..=bars.height {
        let text = if row == bars.height {
            label(0)
        } else if row == bars.height / 2 + 1 && bars.height > 3 {
            label(most / 2)
        } else {
            String::new()
        };
        labels.push(Line::from(text));
    }
    frame.render_widget(Paragraph::new(labels), scale);
    let columns = columns(looks, usize::from(bars.width));
    let row = Sparkline::default()
        .data(columns.into_iter().rev().collect::<Vec<u64>>())
        .direction(RenderDirection::RightToLeft)
        .max(most)
        .bar_set(if look.unicode {
            bar::NINE_LEVELS
        } else {
            ASCII_BARS
        })
        .style(look.colour(Color::Cyan));
    frame.render_widget(row, bars);
}

/// The looks in at most `width` columns, the largest of each group.
fn columns(looks: &[u32], width: usize) -> Vec<u64> {
    let each = looks.len().div_ceil(width.max(1)).max(1);
    let groups = looks.rchunks(each).rev();
    groups
        .map(|group| u64::from(group.iter().copied().max().unwrap_or(0)))
        .collect()
}

/// What was counted in the last minute, and since the start.
fn draw_counted(frame: &mut Frame<'_>, area: Rect, status: &Status) {
    let wide = area.width >= 72;
    let line = |name: &str, counted: &Counted| {
        let sum = |it: fn(&Sentences) -> u64| {
            let all = [&counted.at_gate, &counted.at_connect, &counted.at_message];
            all.into_iter().map(it).fold(0, u64::saturating_add)
        };
        let text = format!(
            "{name} sessions {}, mail {}, reject {}, ban {}",
            short(counted.sessions),
            short(counted.messages),
            short(sum(|it| it.reject)),
            short(sum(|it| it.ban)),
        );
        let more = if wide && counted.to_sentence.count > 0 {
            format!(", verdicts in {}", micros(counted.to_sentence.median_us))
        } else {
            String::new()
        };
        Line::from(text + &more)
    };
    let lines = vec![
        line("last minute:", &status.minute),
        line("since start:", &status.counted),
    ];
    frame.render_widget(Paragraph::new(lines), area);
}

fn draw_tabs(frame: &mut Frame<'_>, area: Rect, model: &Model, look: Look) {
    let status = model.status.as_ref();
    let troubles = model.rows(Pane::Troubles);
    let mut line = Line::default();
    for (number, pane) in (1..).zip(Pane::ALL) {
        let (name, count) = match pane {
            Pane::Sessions => ("Sessions", model.sessions.total),
            Pane::Bans => ("Bans", status.map_or(0, |status| status.bans)),
            Pane::Lists => ("Lists", model.rows(pane)),
            Pane::Troubles => ("Troubles", troubles),
        };
        let text = if area.width < 60 {
            format!("{number}{name}")
        } else {
            format!(" {number} {name} {} ", short(count as u64))
        };
        let mut style = Style::new();
        if pane == Pane::Troubles && troubles > 0 {
            style = look.bad();
        }
        if pane == model.pane {
            style = style.add_modifier(Modifier::REVERSED);
        }
        line.push_span(Span::styled(text, style));
        line.push_span(" ");
    }
    frame.render_widget(line, area);
}

/// The rows of the pane, so far that the chosen one is seen.
fn draw_table(frame: &mut Frame<'_>, area: Rect, model: &Model, look: Look) {
    let (head, rows) = rows::of(model, usize::from(area.width));
    let [first, body] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
    frame.render_widget(
        Line::styled(head, Style::new().add_modifier(Modifier::UNDERLINED)),
        first,
    );
    if rows.is_empty() {
        let text = if model.status.is_none() { "" } else { "none" };
        frame.render_widget(Line::from(text), body);
        return;
    }
    let fits = usize::from(body.height).max(1);
    // The first row whose place keeps the chosen one on the screen.
    let chosen = rows.iter().position(|row| row.of == model.row());
    let last = rows.iter().rposition(|row| row.of == model.row());
    let from = last.unwrap_or(0).saturating_sub(fits - 1);
    let from = from.min(chosen.unwrap_or(0));
    let lines: Vec<Line<'_>> = rows
        .into_iter()
        .skip(from)
        .take(fits)
        .map(|row| styled(row, model, look, usize::from(body.width)))
        .collect();
    frame.render_widget(Paragraph::new(lines), body);
}

fn styled(row: Row, model: &Model, look: Look, width: usize) -> Line<'static> {
    let style = match row.weight {
        rows::Weight::Bad => look.bad(),
        rows::Weight::Warning => look.colour(Color::Yellow),
        rows::Weight::Faint => look.faint(),
        rows::Weight::Plain => Style::new(),
    };
    let style = if row.of == model.row() {
        style.add_modifier(Modifier::REVERSED)
    } else {
        style
    };
    // The chosen one as wide as the screen.
    Line::styled(format!("{:width$}", row.text), style)
}

fn draw_bottom(frame: &mut Frame<'_>, area: Rect, model: &Model, look: Look) {
    let line = match (model.trouble(), &model.message) {
        (Some(trouble), _) => Line::styled(shown(&trouble), look.bad()),
        (None, Some((text, true))) => Line::styled(shown(text), look.colour(Color::Green)),
        (None, Some((text, false))) => Line::styled(shown(text), look.bad()),
        (None, None) if area.width < 60 => Line::from("?: keys  q: quit"),
        (None, None) => {
            let keys = match model.pane {
                Pane::Sessions => "e: end  b: ban  a: let in  u: unban  ",
                Pane::Bans => "u: unban  a: let in  ",
                Pane::Lists | Pane::Troubles => "",
            };
            Line::styled(
                format!("{keys}Tab: next pane  p: pause  ?: keys  q: quit"),
                look.faint(),
            )
        }
    };
    frame.render_widget(line, area);
}

const HELP: &str = "\
Keys
  Tab, Left, Right, 1-4   the other panes
  Up, Down, j, k          the row before, and the next
  Page Up, Page Down      ten rows; Home, End: the first, the last
  e   end the session     b   ban its client
  u   unban, for 24 h     a   let in for 24 h
  l   the next listener's slots
  p   pause, and go on    ?   these keys
  q   quit (Ctrl-C too)
Each that changes something asks first. (Any key closes this.)";

fn draw_help(frame: &mut Frame<'_>, area: Rect) {
    frame.render_widget(Clear, area);
    let help = Paragraph::new(HELP).wrap(Wrap { trim: false });
    frame.render_widget(help, area);
}

/// A question in the middle, between two rules.
fn draw_question(frame: &mut Frame<'_>, area: Rect, text: &str, look: Look) {
    let text = format!("{}  (y/n)", shown(text));
    let height = 4.min(area.height);
    let middle = Rect {
        y: area.y + (area.height - height) / 2,
        height,
        ..area
    };
    frame.render_widget(Clear, middle);
    let rule = look.rule().repeat(usize::from(area.width));
    let [first, words, last] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(1),
    ])
    .areas(middle);
    frame.render_widget(Line::from(rule.clone()), first);
    let style = look.colour(Color::Yellow).add_modifier(Modifier::BOLD);
    let words_in = Paragraph::new(text).style(style).wrap(Wrap { trim: true });
    frame.render_widget(words_in, words);
    frame.render_widget(Line::from(rule), last);
}

#[cfg(test)]
#[path = "draw_tests.rs"]
mod tests;
