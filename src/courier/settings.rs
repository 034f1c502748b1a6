//! The shell assignments of Courier's configuration files (`esmtpd`, `courierd`,
//! …), as sh reads them where they are plain.
//!
//! What is not plain (`if`, `$(…)`) is not run: each assignment counts, whatever
//! stands around it, and what cannot be told stays as it was written, so that a
//! variable that is set to something is never taken for an empty one.

use std::collections::HashMap;

/// The most that `$NAME` in values makes of a file, in bytes; what is beyond
/// stays as it was written.
const MOST_EXPANDED: usize = 1 << 20;

/// The variables of one or more files.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    variables: HashMap<String, String>,
    expanded: usize,
}

impl Settings {
    /// Takes in the `NAME=value` lines of `text`; a later one replaces an earlier
    /// one.
    pub fn add(&mut self, text: &str) {
        let mut rest = text;
        while !rest.is_empty() {
            let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
            let trimmed = line.trim_start();
            let start = trimmed
                .strip_prefix("export ")
                .unwrap_or(trimmed)
                .trim_start();
            let named = start.split_once('=').filter(|(name, _)| is_name(name));
            let Some((name, _)) = named else {
                rest = after;
                continue;
            };
            // A quoted value may go on over the line's end.
            let at = start.as_ptr() as usize - rest.as_ptr() as usize + name.len() + 1;
            let (value, end) = self.value(&rest[at..]);
            self.variables.insert(name.to_owned(), value);
            rest = rest[at + end..]
                .split_once('\n')
                .map_or("", |(_, after)| after);
        }
    }

    /// A variable's value, where it is set.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// A variable's value; nothing where it is not set.
    #[must_use]
    pub fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }

    /// The variables and their values, in no order.
    pub fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        self.variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The word at the start of `text`, without its quotes, and where it ends.
    fn value(&mut self, text: &str) -> (String, usize) {
        let mut value = String::new();
        let mut quote = None;
        let mut escaped = false;
        let mut skip_to = 0;
        for (at, c) in text.char_indices() {
            if at < skip_to {
                continue;
            }
            match (quote, c) {
                _ if escaped => {
                    // A line that goes on.
                    if c != '\n' {
                        value.push(c);
                    }
                    escaped = false;
                }
                (None | Some('"'), '\\') => escaped = true,
                (Some(open), c) if c == open => quote = None,
                (None, '"' | '\'') => quote = Some(c),
                (None, ' ' | '\t' | '\n' | ';' | '#') => return (value, at),
                (None | Some('"'), '$') => match self.expansion(&text[at..]) {
                    Some((of, length)) => {
                        value.push_str(&of);
                        skip_to = at + length;
                    }
                    None => value.push(c),
                },
                (_, c) => value.push(c),
            }
        }
        (value, text.len())
    }

    /// What `$NAME` or `${NAME}` at the start of `text` stands for, where that is
    /// known, and its length.
    fn expansion(&mut self, text: &str) -> Option<(String, usize)> {
        let after = text.strip_prefix('$')?;
        let (name, length) = match after.strip_prefix('{') {
            Some(inner) => {
                let (name, _) = inner.split_once('}')?;
                (name, name.len() + 3)
            }
            None => {
                let end = after.find(|c: char| !fits_name(c)).unwrap_or(after.len());
                (&after[..end], end + 1)
            }
        };
        let value = self.variables.get(name)?;
        self.expanded = self.expanded.saturating_add(value.len());
        (self.expanded <= MOST_EXPANDED).then(|| (value.clone(), length))
    }
}

fn fits_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.chars().all(fits_name)
        && !name.starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(text: &str) -> Settings {
        let mut settings = Settings::default();
        settings.add(text);
        settings
    }

    #[test]
    fn values_are_read_as_sh_reads_them() {
        for (text, expected) in [
            ("A=1", "1"),
            ("A=1 # B=2", "1"),
            ("A=\"a b\"'c d'e", "a bc de"),
            ("A='$B'", "$B"),
            ("  export A=\"x\\\"y\"", "x\"y"),
            ("A=a\\\nb", "ab"),
            ("A=\"a\nb\"\n", "a\nb"),
            ("A=1\nA=2", "2"),
            ("#A=1\nA=", ""),
            ("B=b\nA=\"$B-${B}c\"", "b-bc"),
            ("A=a\nA=\"$A b\"", "a b"),
            // Not known, or not plain: it stays, and is not empty.
            ("A=$B", "$B"),
            ("A=${B:-c}", "${B:-c}"),
            ("A=`cat x`", "`cat"),
        ] {
            assert_eq!(of(text).get("A"), Some(expected), "{text}");
        }
        assert_eq!(of("1A=x\n=y\nA x=1").all().count(), 0);
        assert_eq!(of("").text("A"), "");
    }

    /// What doubles itself would be large after few lines.
    #[test]
    fn what_a_file_is_expanded_to_is_bounded() {
        let text = "A=0123456789\n".to_owned() + &"A=$A$A\n".repeat(100);
        let settings = of(&text);
        assert!(settings.text("A").len() <= MOST_EXPANDED + 100);
        assert!(!settings.text("A").is_empty());
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "([A-Z_]{1,8}=)?[\\PC\n\"'\\\\ ={}$]{0,80}") {
            of(&text);
        }

        #[test]
        fn what_is_quoted_comes_out_as_it_went_in(value in "[^']{0,40}", other in "[A-Z]{1,8}") {
            let settings = of(&format!("{other}=x\nexport A='{value}'\n"));
            prop_assert_eq!(settings.get("A"), Some(value.as_str()));
        }
    }
}
