//! What serde and the TOML parser say of a file, in words for its author: the key,
//! what is expected there, and an example.

use super::error::Problem;
use super::example;
use rblfilter_warden::policy::without_keys;

/// The problem behind a TOML error in `text`. Neither the line nor the value is
/// quoted, which may hold a key.
pub fn problem(text: &str, error: &toml::de::Error) -> Problem {
    let said = without_keys(error.message().lines().next().unwrap_or_default());
    let span = error.span();
    let at = span.clone().unwrap_or(0..0);
    let place = Place::of(text, at.start);
    let there = without_keys(text.get(at.clone()).unwrap_or_default());
    let problem = Problem::at(text, at, place.told(&said, &there));
    Problem {
        line: span.and(problem.line),
        ..problem
    }
}

/// Where in a file something stands.
#[derive(Debug, Default)]
struct Place<'a> {
    /// The table, as its header has it: `[ban]`.
    header: Option<&'a str>,
    /// The key that stands before, or in the line.
    key: Option<&'a str>,
    /// The line.
    line: &'a str,
}

/// Tables that stand once for each list.
const MANY: [&str; 2] = ["dnsbl", "dnswl"];

/// Something that is right, for who wrote no line of TOML at all.
const A_LINE: &str = "KEY = VALUE, or a table, for example [[dnsbl]]";

impl<'a> Place<'a> {
    fn of(text: &'a str, at: usize) -> Self {
        let mut place = Self::default();
        let mut start = 0;
        for line in text.split_inclusive('\n') {
            if start > at {
                break;
            }
            start += line.len();
            place.line = line.trim_start_matches('\u{feff}').trim();
            if let Some(header) = header(place.line) {
                place.header = Some(header);
                place.key = None;
            } else if let Some(key) = key(place.line) {
                place.key = Some(key);
            }
        }
        place
    }

    /// The table's name.
    fn table(&self) -> Option<&'a str> {
        let name = |header: &'a str| header.trim_matches(['[', ']']).trim();
        self.header.map(name)
    }

    /// The full name of `key`, which stands here.
    fn full(&self, key: &str) -> String {
        let key = match self.table() {
            Some(table) => format!("{table}.{key}"),
            None => key.to_owned(),
        };
        without_keys(&key)
    }

    fn is_header(&self) -> bool {
        self.line.starts_with('[') && self.key.is_none()
    }

    fn told(&self, said: &str, there: &str) -> String {
        if let Some(rest) = said.strip_prefix("unknown field `") {
            // A date is a table of the parser's own to serde.
            return if rest.starts_with("$__toml") {
                self.wrong_kind()
            } else {
                unknown_key(rest)
            };
        }
        if let Some(rest) = said.strip_prefix("missing field `") {
            return self.missing(rest.trim_end_matches('`'));
        }
        if said.starts_with("invalid type: ") || said.starts_with("invalid value: ") {
            return self.wrong_kind();
        }
        self.syntax(said, there)
    }

    fn missing(&self, key: &str) -> String {
        let full = self.full(key);
        match example::of(&full) {
            Some(example) => format!("{full}: missing, expected for example {key} = {example}"),
            None => format!("{full}: missing"),
        }
    }

    /// A value, or a table, of the wrong kind.
    fn wrong_kind(&self) -> String {
        if let (Some(header), Some(table)) = (self.header, self.table()) {
            let is_many = MANY.contains(&table);
            if is_many != header.starts_with("[[") {
                let table = without_keys(table);
                return if is_many {
                    format!("[{table}]: expected [[{table}]], which stands once for each list")
                } else {
                    format!("[[{table}]]: expected [{table}], which stands once")
                };
            }
        }
        let Some(key) = self.key else {
            return format!("expected {A_LINE}");
        };
        let full = self.full(key);
        let first = full.split('.').next().unwrap_or_default();
        if self.header.is_none() && MANY.contains(&first) {
            return format!("{first}: expected [[{first}]], a table for each list");
        }
        self.expected().map_or_else(
            || format!("{full}: expected a table, [{full}]"),
            |expected| format!("{full}: {expected}"),
        )
    }

    /// What is expected of the value of the key that stands here.
    fn expected(&self) -> Option<String> {
        let full = self.full(self.key?);
        let example = example::of(&full)?;
        let name = full.rsplit('.').next().unwrap_or_default();
        Some(format!(
            "expected {}, for example {name} = {example}",
            example::kind(example)
        ))
    }

    /// What is no TOML.
    fn syntax(&self, said: &str, there: &str) -> String {
        let is_about = |starts: &[&str]| starts.iter().any(|start| said.starts_with(start));
        if is_about(&["duplicate key"]) {
            return match self.header {
                Some(header) if self.is_header() => {
                    format!(
                        "{} stands here twice, expected once, with all its keys",
                        without_keys(header)
                    )
                }
                _ => format!("{there} stands here twice, expected once"),
            };
        }
        if is_about(&["unclosed table", "unclosed array table"]) {
            return "a table's name without its closing bracket, expected for example [ban] or [[dnsbl]]".into();
        }
        if self.line.starts_with('[') && header(self.line).is_none() {
            return "cannot read the name of a table, expected for example [ban] or [[dnsbl]], alone in its line".into();
        }
        // What stands in the line is no key with a value.
        if is_about(&["key with no value", "unquoted keys cannot be empty"]) {
            let is_part = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            let word = self.line.split(|c| !is_part(c)).next().unwrap_or_default();
            let full = self.full(word);
            return match example::of(&full) {
                Some(example) => format!("{full}: expected {word} = {example}, with a ="),
                None => format!("expected {A_LINE}"),
            };
        }
        let value = self
            .line
            .split_once('=')
            .map_or("", |(_, value)| value.trim());
        let is_text = value.starts_with(['"', '\'']);
        let wrong = match said {
            _ if is_text
                && is_about(&[
                    "invalid basic string",
                    "invalid literal string",
                    "invalid multi-line",
                ]) =>
            {
                "a text without its closing quote"
            }
            _ if is_about(&["missing escaped value", "invalid escape", "invalid unicode"]) => {
                "a \\ in a text in \" \" begins an escape (\\\\ is one \\)"
            }
            _ if is_about(&["unclosed array"]) => "a list without its closing ]",
            _ if is_about(&["missing comma"]) => {
                "a comma or a closing ] is missing, here or in the line before"
            }
            _ if is_about(&["extra comma"]) => "a comma too many",
            _ if is_about(&["unexpected key or value"]) => {
                "cannot read what stands behind the value"
            }
            _ => "",
        };
        let full = self.key.map(|key| self.full(key)).unwrap_or_default();
        let words = [wrong.to_owned(), self.expected().unwrap_or_default()];
        let words: Vec<String> = words.into_iter().filter(|word| !word.is_empty()).collect();
        match (full.as_str(), words.is_empty()) {
            ("", _) | (_, true) => format!("cannot read this line, expected {A_LINE}"),
            (full, false) => format!("{full}: {}", words.join(", ")),
        }
    }
}

/// The header of a table that `line` is.
fn header(line: &str) -> Option<&str> {
    let code = line.split('#').next().unwrap_or_default().trim();
    let name = match code.strip_prefix("[[") {
        Some(rest) => rest.strip_suffix("]]")?,
        None => code.strip_prefix('[')?.strip_suffix(']')?,
    };
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let name = name.trim();
    (name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(is_part))
        .then_some(code)
}

/// The key that begins `line`.
fn key(line: &str) -> Option<&str> {
    let key = line.split_once('=')?.0.trim();
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (!key.is_empty() && key.chars().all(is_part)).then_some(key)
}

/// `rest` is "`unknown`, expected one of `known`, …" without its first quote.
fn unknown_key(rest: &str) -> String {
    let mut names = rest.split('`').step_by(2);
    let unknown = names.next().unwrap_or_default();
    let known: Vec<&str> = names.filter(|name| !name.is_empty()).collect();
    let nearest = known
        .iter()
        .map(|known| (strsim::jaro_winkler(unknown, known), known))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((_, known)) => format!("unknown key \"{unknown}\", did you mean \"{known}\"?"),
        None => format!(
            "unknown key \"{unknown}\", expected one of {}",
            known.join(", ")
        ),
    }
}
