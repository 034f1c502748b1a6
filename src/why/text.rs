//! The story for people: plain lines of at most 80 columns.

use super::story::{Line, Story};

/// Columns.
const WIDTH: usize = 80;

/// Writes it.
#[must_use]
pub fn text(story: &Story) -> String {
    let mut out = String::new();
    let wrap = |out: &mut String, first: &str, rest: &str, text: &str| {
        wrap(out, (first, rest), text, WIDTH);
    };
    for sentence in &story.summary {
        wrap(&mut out, "", "", sentence);
    }
    for part in &story.parts {
        out.push('\n');
        wrap(&mut out, "", "  ", &part.heading);
        let names = part.lines.iter().filter_map(|line| match line {
            Line::Pair(name, _) => Some(name.len()),
            _ => None,
        });
        // A list's name may be long.
        let width = names.max().unwrap_or(0).min(24);
        for line in &part.lines {
            match line {
                Line::Text(text) => wrap(&mut out, "  ", "  ", text),
                Line::Pair(name, text) if name.len() > width => {
                    wrap(&mut out, "  ", "  ", name);
                    let begin = " ".repeat(width + 4);
                    wrap(&mut out, &begin, &begin, text);
                }
                Line::Pair(name, text) => {
                    let begin = format!("  {name:width$}  ");
                    wrap(&mut out, &begin, &" ".repeat(width + 4), text);
                }
                Line::Day(day) => wrap(&mut out, "  ", "  ", day),
                Line::Moment(time, text) => {
                    wrap(&mut out, &format!("  {time}  "), &" ".repeat(12), text);
                }
                Line::Command(command, what) => {
                    wrap(&mut out, "  ", "    ", command);
                    wrap(&mut out, "      ", "      ", what);
                }
            }
        }
    }
    out
}

/// A paragraph, broken at spaces, and within words that are too long; its first
/// line begins with `first`, the others with `rest`.
pub fn wrap(out: &mut String, (first, rest): (&str, &str), text: &str, width: usize) {
    let mut line = first.to_owned();
    let mut fresh = true;
    let break_line = |out: &mut String, line: &mut String| {
        out.push_str(line.trim_end());
        out.push('\n');
        rest.clone_into(line);
    };
    for word in text.split_whitespace() {
        let mut word = word;
        let space = usize::from(!fresh);
        if columns(&line) + space + columns(word) > width && !fresh {
            break_line(out, &mut line);
            fresh = true;
        }
        if !fresh {
            line.push(' ');
        }
        while columns(&line) + columns(word) > width {
            let room = width.saturating_sub(columns(&line)).max(1);
            let at = word
                .char_indices()
                .nth(room)
                .map_or(word.len(), |(at, _)| at);
            line.push_str(&word[..at]);
            word = &word[at..];
            break_line(out, &mut line);
        }
        line.push_str(word);
        fresh = false;
    }
    out.push_str(line.trim_end());
    out.push('\n');
}

fn columns(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::why::Part;

    #[test]
    fn no_line_is_wider_than_a_terminal() {
        let story = Story {
            summary: vec!["word ".repeat(60)],
            parts: vec![Part {
                heading: "Heading".into(),
                lines: vec![
                    Line::Text("y".repeat(300)),
                    Line::Pair("name".into(), "x".repeat(300)),
                    Line::Pair("n".repeat(100), "a b".into()),
                    Line::Moment("10:00:00".into(), format!("some words {}", "z".repeat(200))),
                    Line::Command(format!("rblfilter {}", "c".repeat(100)), "does it".into()),
                ],
            }],
        };
        let text = text(&story);
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "{line:?}");
            assert!(line == line.trim_end(), "{line:?}");
        }
        assert!(text.contains("\nHeading\n"), "{text}");
    }

    #[test]
    fn words_are_broken_at_spaces() {
        let mut out = String::new();
        wrap(&mut out, ("  a  ", "     "), &"word ".repeat(20), WIDTH);
        let expected = format!(
            "  a  {}\n     {}\n",
            ["word"; 15].join(" "),
            ["word"; 5].join(" ")
        );
        assert_eq!(out, expected);
    }
}
