//! rblfilter.toml(5) and docs/configuration.md: the text of each key stands in
//! manual/text/rblfilter.toml.5.md with an example, its default in the sample,
//! courierfilter/rblfilter.toml (which a test of the configuration holds against
//! what is in force without a file).

use std::fmt::Write as _;

use roff::{Roff, bold};

use crate::markup::{self, Block};
use crate::{Result, page};

const TEXT: &str = include_str!("../text/rblfilter.toml.5.md");
const SAMPLE: &str = include_str!("../../courierfilter/rblfilter.toml");

/// A key of the configuration.
struct Key {
    /// `ban.time`.
    path: String,
    /// As it may stand in the file.
    example: String,
    /// As it is where the file does not name it; of a list's keys the text tells it.
    default: Option<String>,
    text: Vec<String>,
}

impl Key {
    /// Without its table.
    fn name(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or(&self.path)
    }
}

/// A part of the text: what is as it stands there, or a key.
enum Part {
    Block(Block),
    Key(Key),
}

/// The parts of the text, each key with its default.
fn parts() -> Result<(markup::Title, Vec<Part>)> {
    let sample: toml::Table = toml::from_str(SAMPLE)?;
    let (title, blocks) = markup::parse(TEXT)?;
    let mut parts: Vec<Part> = Vec::new();
    for block in blocks {
        match (block, parts.last_mut()) {
            (Block::Heading(3, text), _) => {
                let (path, example) = text
                    .split_once(" = ")
                    .ok_or_else(|| format!("{text}: expected: ### KEY = EXAMPLE"))?;
                parts.push(Part::Key(Key {
                    path: path.to_owned(),
                    example: example.to_owned(),
                    default: default(&sample, path),
                    text: Vec::new(),
                }));
            }
            (Block::Paragraph(text), Some(Part::Key(key))) => key.text.push(text),
            (block, _) => parts.push(Part::Block(block)),
        }
    }
    Ok((title, parts))
}

/// What the sample has for `path`, as it is written there.
fn default(sample: &toml::Table, path: &str) -> Option<String> {
    let value = match path.split_once('.') {
        Some((table, key)) => sample.get(table)?.as_table()?.get(key)?,
        None => sample.get(path)?,
    };
    Some(value.to_string())
}

/// The manual page.
///
/// # Errors
/// Where text or sample are not as they should be.
pub fn page() -> Result<String> {
    let (title, parts) = parts()?;
    let mut page = Roff::new();
    page::title(&mut page, &title);
    for part in &parts {
        match part {
            Part::Block(block) => page::block(&mut page, block),
            Part::Key(key) => {
                let mut text = key.text.clone();
                let default = match &key.default {
                    Some(default) => format!("Default: {default}. "),
                    None => String::new(),
                };
                text.push(format!(
                    "{default}Example: {} = {}",
                    key.name(),
                    key.example
                ));
                page::item(&mut page, vec![bold(key.name())], &text);
            }
        }
    }
    Ok(page::render(&page))
}

/// docs/configuration.md.
///
/// # Errors
/// Where text or sample are not as they should be.
pub fn reference() -> Result<String> {
    let (_, parts) = parts()?;
    let mut text = String::from(
        "# The configuration\n\n<!-- Made from manual/text/rblfilter.toml.5.md and courierfilter/rblfilter.toml: cargo run -p rblfilter-manual -->\n",
    );
    let mut is_shown = false;
    for part in &parts {
        match part {
            // The page's name and neighbours are the page's alone.
            Part::Block(Block::Heading(1, heading)) => {
                is_shown = heading == "DESCRIPTION";
                if is_shown {
                    text.push_str("\n`/etc/courier/filters/rblfilter.toml`; rblfilter.toml(5) says the same.\n");
                }
            }
            Part::Block(_) if !is_shown => {}
            Part::Block(Block::Heading(_, heading)) => write!(text, "\n## {heading}\n")?,
            Part::Block(Block::Paragraph(paragraph)) => write!(text, "\n{}\n", wrapped(paragraph))?,
            Part::Block(Block::Code(lines)) => write!(text, "\n    {}\n", lines.join("\n    "))?,
            Part::Block(Block::Item(term, what)) => {
                write!(text, "\n{}\n", wrapped(&format!("{term}: {what}")))?;
            }
            Part::Block(Block::Made(what)) => {
                return Err(format!("@{what}@: nothing is made of that name").into());
            }
            Part::Key(key) => {
                write!(text, "\n### {}\n", key.path)?;
                for paragraph in &key.text {
                    write!(text, "\n{}\n", wrapped(paragraph))?;
                }
                text.push_str("\n```toml\n");
                if let Some(default) = &key.default {
                    writeln!(text, "{} = {default}  # default", key.name())?;
                }
                write!(text, "{} = {}\n```\n", key.name(), key.example)?;
            }
        }
    }
    Ok(text)
}

/// In lines of at most 118 characters.
fn wrapped(paragraph: &str) -> String {
    let mut text = String::new();
    let mut width = 0;
    for word in paragraph.split(' ') {
        let length = word.chars().count();
        if width > 0 && width + 1 + length > 118 {
            text.push('\n');
            width = 0;
        } else if width > 0 {
            text.push(' ');
            width += 1;
        }
        text.push_str(word);
        width += length;
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use toml::Value;

    use super::*;

    fn keys() -> Vec<Key> {
        let (_, parts) = parts().unwrap();
        let keys = parts.into_iter().filter_map(|part| match part {
            Part::Key(key) => Some(key),
            Part::Block(_) => None,
        });
        keys.collect()
    }

    #[test]
    fn each_key_of_the_sample_has_its_text_and_no_other_has() {
        let sample: toml::Table = toml::from_str(SAMPLE).unwrap();
        let mut shown = BTreeSet::new();
        for (name, value) in &sample {
            let tables: Vec<_> = match value {
                Value::Table(table) => vec![table],
                Value::Array(list) => list.iter().filter_map(Value::as_table).collect(),
                _ => Vec::new(),
            };
            if tables.is_empty() {
                shown.insert(name.clone());
            }
            for table in tables {
                shown.extend(table.keys().map(|key| format!("{name}.{key}")));
            }
        }
        let told: BTreeSet<_> = keys().into_iter().map(|key| key.path).collect();
        assert_eq!(told, shown);
    }

    #[test]
    fn each_example_is_one() {
        for key in keys() {
            let lists = "[[dnsbl]]\nzone = \"a.test\"\n[[dnsbl]]\nzone = \"b.test\"\n";
            let text = match key.path.split_once('.') {
                Some((list @ ("dnsbl" | "dnswl"), "zone")) => {
                    format!("[[{list}]]\nzone = {}\n", key.example)
                }
                Some((list @ ("dnsbl" | "dnswl"), name)) => {
                    format!("[[{list}]]\nzone = \"a.test\"\n{name} = {}\n", key.example)
                }
                _ => format!("{} = {}\n{lists}", key.path, key.example),
            };
            // A table of its own may stand beside a key with a dot alone.
            let parsed = rblfilter::config::parse(&text);
            assert!(parsed.is_ok(), "{text}{parsed:?}");
            assert_ne!(key.default.as_deref(), Some(&*key.example), "{}", key.path);
            assert!(!key.text.is_empty(), "{} has no text", key.path);
        }
    }
}
