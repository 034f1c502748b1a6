//! A manual page: what [`markup`](crate::markup) says, in roff.

use roff::{Inline, Roff, bold, italic, roman};

use crate::markup::{Block, Title, spans};

/// The page's first line.
pub fn title(page: &mut Roff, title: &Title) {
    let source = concat!("rblfilter ", env!("CARGO_PKG_VERSION"));
    let name = title.name.to_uppercase();
    let words = [&*name, &title.section, &title.date, source, &title.manual];
    page.control("TH", words);
}

/// The page as a file: its first paragraph needs no break after a heading, and its
/// lines are no longer than 80 bytes.
pub fn render(page: &Roff) -> String {
    let mut text = String::new();
    let (mut after_heading, mut is_filled) = (false, true);
    for line in page.render().lines() {
        match line {
            ".PP" if after_heading => {}
            _ if is_filled && !line.starts_with('.') => text.push_str(&wrapped(line)),
            _ => text.extend([line, "\n"]),
        }
        is_filled = line == ".fi" || is_filled && line != ".nf";
        after_heading = line.starts_with(".SH") || line.starts_with(".SS");
    }
    text
}

/// `line` in lines of at most 74 bytes; none that is not a
/// request can be taken for one.
fn wrapped(line: &str) -> String {
    let mut text = String::new();
    let mut width = 0;
    for word in line.split(' ') {
        if width > 0 && width + 1 + word.len() > 74 {
            text.push('\n');
            width = 0;
            if word.starts_with(['.', '\'']) {
                text.push_str("\\&");
            }
        } else if width > 0 {
            text.push(' ');
            width += 1;
        }
        text.push_str(word);
        width += word.len();
    }
    text.push('\n');
    text
}

/// A block that needs nothing that is made.
pub fn block(page: &mut Roff, block: &Block) {
    match block {
        Block::Heading(1, text) => {
            page.control("SH", [&**text]);
        }
        Block::Heading(_, text) => {
            page.control("SS", [&**text]);
        }
        Block::Paragraph(text) => {
            page.control("PP", []);
            page.text(inlines(text));
        }
        Block::Item(term, text) => item(page, inlines(term), [text]),
        Block::Code(lines) => {
            page.control("PP", []);
            verbatim(page, lines);
        }
        Block::Made(_) => {}
    }
}

/// Lines that stay as they are.
pub fn verbatim<'a>(page: &mut Roff, lines: impl IntoIterator<Item = &'a String>) {
    page.control("RS", ["4"]).control("nf", []);
    for line in lines {
        page.text([roman(line)]);
    }
    page.control("fi", []).control("RE", []);
}

/// A term, and paragraphs that say what it means.
pub fn item<'a>(
    page: &mut Roff,
    term: Vec<Inline>,
    paragraphs: impl IntoIterator<Item = &'a String>,
) {
    page.control("TP", []);
    page.text(term);
    for (number, text) in paragraphs.into_iter().enumerate() {
        if number > 0 {
            page.control("IP", []);
        }
        page.text(inlines(text));
    }
}

/// A paragraph: code is bold, a path in italics, `name(8)` has its number in roman.
pub fn inlines(text: &str) -> Vec<Inline> {
    let mut inlines = Vec::new();
    for (part, is_code) in spans(text) {
        match part.split_once('(') {
            _ if !is_code => inlines.push(roman(part)),
            _ if part.starts_with('/') => inlines.push(italic(part)),
            Some((name, section)) if section.len() == 2 => {
                inlines.extend([bold(name), roman(format!("({section}"))]);
            }
            _ => inlines.push(bold(part)),
        }
    }
    inlines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paragraph_cannot_be_taken_for_a_request() {
        let mut page = Roff::new();
        let text = ".so it's `a-b` of `/etc/x`, see `ipset(8)`";
        block(&mut page, &Block::Paragraph(text.into()));
        assert!(page.render().ends_with(
            ".PP\n\\&.so it\\*(Aqs \\fBa\\-b\\fR of \\fI/etc/x\\fR, see \\fBipset\\fR(8)\n"
        ));
    }
}
