//! Numbers, durations and rows of them, as a person reads them.

use std::time::Duration;

use crate::report::number;

/// The largest two units of a duration in seconds.
#[must_use]
pub fn duration(seconds: u64) -> String {
    let text = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    let parts: Vec<&str> = text.split(' ').take(2).collect();
    parts.join(" ")
}

/// Microseconds: `80 us`, `1.2 ms`, `35 ms`, `2.5 s`; `-` where there are none.
#[must_use]
pub fn micros(micros: Option<u64>) -> String {
    let Some(micros) = micros else {
        return "-".into();
    };
    match micros {
        0..1000 => format!("{micros} us"),
        // Of 9,950 it would be 10.0.
        1000..9950 => format!("{:.1} ms", micros as f64 / 1e3),
        9950..999_500 => format!("{:.0} ms", micros as f64 / 1e3),
        999_500..100_000_000 => format!("{:.1} s", micros as f64 / 1e6),
        _ => format!("{} s", short(micros / 1_000_000)),
    }
}

/// A number in nine characters at most: `9,999,999`, `12.3M`, `18.4E`.
#[must_use]
pub fn short(value: u64) -> String {
    if value < 10_000_000 {
        return number(value);
    }
    let mut scaled = value as f64 / 1e6;
    let mut units = "MGTPE".chars();
    while let Some(unit) = units.next() {
        if scaled < 999.95 || units.as_str().is_empty() {
            return format!("{scaled:.1}{unit}");
        }
        scaled /= 1000.0;
    }
    number(value)
}

/// A share as a person reads it: `0 %`, `<1 %`, `34 %`; `-` of nothing.
#[must_use]
pub fn share(part: u64, all: u64) -> String {
    match (u128::from(part) * 100).checked_div(u128::from(all)) {
        None => "-".into(),
        Some(0) if part > 0 => "<1 %".into(),
        Some(share) => format!("{share} %"),
    }
}

/// A text from elsewhere, without what a terminal would act on. Quotes are for
/// people to read.
#[must_use]
pub fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\'' => shown.push(c),
            _ => shown.extend(c.escape_debug()),
        }
    }
    shown
}

/// `values` as one row of at most `width` characters, of which each stands for
/// as many values and shows the largest; as high as its share of `most`. What is
/// not nothing is seen.
#[must_use]
pub fn sparks(values: &[u32], most: u64, width: usize, unicode: bool) -> String {
    let levels: &[char] = if unicode {
        &[' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█']
    } else {
        &[' ', '.', ':', '-', '=', '+', '*', '#', '@']
    };
    let each = values.len().div_ceil(width.max(1)).max(1);
    // The newest are whole groups, so that the row does not flicker.
    let groups = values.rchunks(each).rev();
    groups
        .map(|group| {
            let value = u64::from(group.iter().copied().max().unwrap_or(0));
            let top = levels.len() as u64 - 1;
            let level = (value.saturating_mul(top)).div_ceil(most.max(1)).min(top);
            // It is one of them.
            usize::try_from(level).map_or(' ', |level| levels[level])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_enough_for_their_columns() {
        for (value, expected) in [
            (0, "0"),
            (1, "1"),
            (1_000_000, "1,000,000"),
            (9_999_999, "9,999,999"),
            (12_345_678, "12.3M"),
            (999_949_999, "999.9M"),
            (999_999_999, "1.0G"),
            (u64::MAX, "18.4E"),
        ] {
            assert_eq!(short(value), expected);
            assert!(short(value).len() <= 9);
        }
    }

    #[test]
    fn durations_have_three_figures_at_most() {
        for (value, expected) in [
            (None, "-"),
            (Some(0), "0 us"),
            (Some(999), "999 us"),
            (Some(1234), "1.2 ms"),
            (Some(9_949), "9.9 ms"),
            (Some(9_950), "10 ms"),
            (Some(999_499), "999 ms"),
            (Some(999_500), "1.0 s"),
            (Some(61_000_000), "61.0 s"),
            (Some(100_000_000), "100 s"),
        ] {
            assert_eq!(micros(value), expected);
        }
        assert_eq!(duration(3 * 3600 + 125), "3h 2m");
    }

    #[test]
    fn shares_of_little_and_of_nothing_are_told() {
        for (part, all, expected) in [
            (0, 0, "-"),
            (0, 7, "0 %"),
            (1, 1000, "<1 %"),
            (7, 7, "100 %"),
            (u64::MAX, u64::MAX, "100 %"),
        ] {
            assert_eq!(share(part, all), expected);
        }
    }

    #[test]
    fn a_row_shows_the_largest_of_each_group() {
        assert_eq!(sparks(&[], 8, 60, true), "");
        assert_eq!(sparks(&[0, 1, 4, 8, 9], 8, 60, true), " ▁▄██");
        assert_eq!(sparks(&[0, 1, 1000], 1000, 60, false), " .@");
        // Three of two each, the oldest group is one alone.
        assert_eq!(sparks(&[1, 0, 8, 4, 4], 8, 3, true), "▁█▄");
        assert_eq!(sparks(&[7; 600], 7, 60, true).chars().count(), 60);
        assert_eq!(sparks(&[7; 601], 7, 60, true).chars().count(), 55);
        assert_eq!(sparks(&[3], 0, 0, true), "█");
    }
}
