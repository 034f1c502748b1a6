//! An example of each key's value: the one that the manual page shows.

/// The manual page's source, where each key's heading is `### KEY = EXAMPLE`.
const MANUAL: &str = include_str!("../../manual/text/rblfilter.toml.5.md");

/// An example of the value of `key`, a full name such as `ban.time`.
pub fn of(key: &str) -> Option<&'static str> {
    let heading = |key: &str| {
        let mut lines = MANUAL.lines();
        lines.find_map(|line| {
            let (name, example) = line.strip_prefix("### ")?.split_once(" = ")?;
            (name == key).then_some(example)
        })
    };
    match key.strip_prefix("dnswl.") {
        // What speaks for a client.
        Some("score") => Some("-5.0"),
        // The page does not tell twice what both have.
        Some(name) => heading(key).or_else(|| heading(&format!("dnsbl.{name}"))),
        None => heading(key),
    }
}

/// What kind of value `example` is, in words.
pub fn kind(example: &str) -> &'static str {
    match example.as_bytes() {
        [b'"', ..] => "a text in \" \"",
        [b'[', b'"', ..] => "a list in [ ] of texts, each in \" \"",
        [b'[', ..] => "a list in [ ] of whole numbers",
        [b'{', ..] => "a table in { }",
        [b't' | b'f', ..] => "true or false",
        number if number.contains(&b'.') => "a number",
        _ => "a whole number",
    }
}
