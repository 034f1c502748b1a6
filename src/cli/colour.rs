//! What the terminal at standard output takes: colours, and characters beyond
//! ASCII. The one place where that is decided.

use std::io;

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};

/// Whether to write colours: on a terminal alone that is not dumb, and where
/// nobody is against it (`NO_COLOR`, no-color.org; `CLICOLOR`).
#[must_use]
pub fn wanted() -> bool {
    AutoStream::choice(&io::stdout()) != ColorChoice::Never
}

/// Whether the locale has block characters and the like.
#[must_use]
pub fn has_unicode() -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set);
    let locale = locale.map(|name| name.to_string_lossy().to_ascii_lowercase());
    locale.is_some_and(|name| name.contains("utf-8") || name.contains("utf8"))
}

/// What a text is, for which it has its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ink {
    /// The head of a line or a table.
    Head,
    /// As it should be.
    Good,
    /// To be looked at.
    Warning,
    /// Not as it should be.
    Bad,
    /// Beside the point.
    Faint,
}

impl Ink {
    /// How it is written.
    #[must_use]
    pub fn style(self) -> Style {
        match self {
            Self::Head => Style::new().bold(),
            Self::Good => AnsiColor::Green.on_default(),
            Self::Warning => AnsiColor::Yellow.on_default(),
            Self::Bad => AnsiColor::Red.on_default().bold(),
            Self::Faint => Style::new().dimmed(),
        }
    }

    /// The text in its colour, where colours are wanted.
    #[must_use]
    pub fn paint(self, text: &str, colour: bool) -> String {
        if !colour || text.is_empty() {
            return text.to_owned();
        }
        let style = self.style();
        format!("{style}{text}{style:#}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_its_colour_only_where_that_is_wanted() {
        assert_eq!(Ink::Bad.paint("down", false), "down");
        assert_eq!(Ink::Bad.paint("", true), "");
        let painted = Ink::Bad.paint("down", true);
        assert!(painted.contains("\u{1b}[31m") && painted.ends_with("\u{1b}[0m"));
    }
}
