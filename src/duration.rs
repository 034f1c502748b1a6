//! How long: a duration as an admin writes it, in the configuration and behind an
//! option of a command.

use std::time::Duration;

/// What can be written, for whoever wrote something else.
pub const EXPECTED: &str =
    "numbers with units (ms, s, m, h, days or weeks), for example \"90s\", \"1h 30m\" or \"7days\"";

/// The duration in `text`, as humantime reads it: `90s`, `1h 30m`, `1.5h`, `1 day`.
///
/// # Errors
/// What is wrong with it and what is expected, in words.
pub fn parse(text: &str) -> Result<Duration, String> {
    use humantime::DurationError;
    humantime::parse_duration(text).map_err(|error| {
        let wrong = match error {
            DurationError::NumberOverflow => "is too long a duration",
            DurationError::UnknownUnit { unit, .. } if unit.is_empty() => {
                "is a number without a unit"
            }
            DurationError::UnknownUnit { .. } => "is a duration in a unit that is not known",
            _ if text.contains(',') => "is no duration (a fraction has a point, \"1.5h\")",
            _ => "is no duration",
        };
        format!("{text:?} {wrong}, expected {EXPECTED}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_read() {
        for (text, seconds) in [
            ("90s", 90),
            ("1h 30m", 5400),
            ("1h30m", 5400),
            ("1.5h", 5400),
            ("1 d", 86_400),
            ("1day", 86_400),
            ("2 days", 172_800),
            ("1week", 604_800),
            ("0s", 0),
            ("0", 0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_the_units() {
        for (text, wrong) in [
            ("", "is no duration"),
            ("soon", "is no duration"),
            ("-1h", "is no duration"),
            ("h", "is no duration"),
            ("1,5h", "is no duration (a fraction has a point, \"1.5h\")"),
            ("5", "is a number without a unit"),
            ("1h 30", "is a number without a unit"),
            ("1h30", "is a number without a unit"),
            ("5 bananas", "is a duration in a unit that is not known"),
            ("99999999999999999999h", "is too long a duration"),
            ("é", "is no duration"),
        ] {
            let expected = format!("{text:?} {wrong}, expected {EXPECTED}");
            assert_eq!(parse(text), Err(expected));
        }
    }
}
