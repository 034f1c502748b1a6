//! The markup of manual/text: the little of Markdown that both a manual page and
//! docs/ can show.
//!
//! `#` and `##` headings, paragraphs, `` `code` ``, blocks that are indented by four
//! spaces, and items: a line, and below it `: ` and its text. A paragraph
//! `@NAME@` stands for what is made. The first line is the page's title.

use crate::Result;

/// A piece of a text, from top to bottom.
#[derive(Debug, PartialEq, Eq)]
pub enum Block {
    Heading(usize, String),
    Paragraph(String),
    /// A term and what it means.
    Item(String, String),
    /// Lines that stay as they are.
    Code(Vec<String>),
    /// `@NAME@`.
    Made(String),
}

/// A page's name, section, date and manual.
#[derive(Debug)]
pub struct Title {
    pub name: String,
    pub section: String,
    pub date: String,
    pub manual: String,
}

/// The title and the blocks of `text`.
///
/// # Errors
/// Where there is no title.
pub fn parse(text: &str) -> Result<(Title, Vec<Block>)> {
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    let mut words = first.strip_prefix("% ").unwrap_or_default().splitn(4, ' ');
    let mut word = || {
        words
            .next()
            .map(str::to_owned)
            .ok_or("no title, expected: % NAME SECTION DATE MANUAL")
    };
    let title = Title {
        name: word()?,
        section: word()?,
        date: word()?,
        manual: word()?,
    };
    Ok((title, blocks(rest)))
}

/// The blocks of a text without a title.
pub fn blocks(text: &str) -> Vec<Block> {
    text.split("\n\n")
        .map(|piece| piece.trim_matches('\n'))
        .filter(|piece| !piece.trim().is_empty())
        .map(block)
        .collect()
}

fn block(piece: &str) -> Block {
    let level = piece.bytes().take_while(|byte| *byte == b'#').count();
    if level > 0 {
        return Block::Heading(level, piece[level..].trim().to_owned());
    }
    if let Some(name) = piece
        .strip_prefix('@')
        .and_then(|rest| rest.strip_suffix('@'))
    {
        return Block::Made(name.to_owned());
    }
    if piece.lines().all(|line| line.starts_with("    ")) {
        return Block::Code(piece.lines().map(|line| line[4..].to_owned()).collect());
    }
    if let Some((term, text)) = piece.split_once("\n: ") {
        return Block::Item(joined(term), joined(text));
    }
    Block::Paragraph(joined(piece))
}

/// A paragraph as one line.
fn joined(piece: &str) -> String {
    piece.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The parts of a paragraph, and whether each is code.
pub fn spans(text: &str) -> impl Iterator<Item = (&str, bool)> {
    text.split('`')
        .enumerate()
        .map(|(number, part)| (part, number % 2 == 1))
        .filter(|(part, _)| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_these_blocks() {
        let text = "% x 8 2026-11-24 System Administration\n\n# NAME\n\nfirst\nsecond `a`\n\n`term`\n: its\ntext\n\n    code\n      more\n\n@commands@\n";
        let (title, blocks) = parse(text).unwrap();
        assert_eq!(title.manual, "System Administration");
        assert_eq!(
            blocks,
            [
                Block::Heading(1, "NAME".into()),
                Block::Paragraph("first second `a`".into()),
                Block::Item("`term`".into(), "its text".into()),
                Block::Code(vec!["code".into(), "  more".into()]),
                Block::Made("commands".into()),
            ]
        );
        assert!(parse("# NAME").is_err());
    }
}
