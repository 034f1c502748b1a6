//! The addresses by which a list says "listed" (RFC 5782 §2.1, §2.3).

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

/// Ranges of addresses in 127.0.0.0/8.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Codes(Vec<RangeInclusive<Ipv4Addr>>);

/// Why a range is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodesError {
    /// No range of addresses in 127.0.0.0/8.
    NoRange,
    /// It reaches into the addresses that lists use for errors.
    Errors,
}

/// Whether `code` is no listing, whoever answers it: outside 127.0.0.0/8, or
/// in 127.255.255.0/24, which lists use for errors of the client (typing
/// error, public resolver, too many queries).
#[must_use]
pub fn is_error(code: Ipv4Addr) -> bool {
    !code.is_loopback() || code.octets()[..3] == [127, 255, 255]
}

/// Whether `code` is an error by custom: 127.0.0.1, which no list may answer
/// (RFC 5782 §2.1), and 127.0.0.255, dnswl.org's word for "too many queries".
/// A code that is named alone in the configuration overrides that.
#[must_use]
pub fn is_error_by_custom(code: Ipv4Addr) -> bool {
    matches!(code.octets(), [127, 0, 0, 1 | 255])
}

impl Codes {
    /// Adds `A.B.C.D` or `A.B.C.D-E.F.G.H`.
    ///
    /// # Errors
    /// Where that is no range, or one that could never be a listing.
    pub fn add(&mut self, text: &str) -> Result<(), CodesError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let parse = |text: &str| {
            text.trim()
                .parse::<Ipv4Addr>()
                .map_err(|_| CodesError::NoRange)
        };
        let (first, last) = (parse(first)?, parse(last)?);
        if first > last || !first.is_loopback() || !last.is_loopback() {
            return Err(CodesError::NoRange);
        }
        // The errors are the top of 127.0.0.0/8, so the last one tells.
        if is_error(last) {
            return Err(CodesError::Errors);
        }
        self.0.push(first..=last);
        Ok(())
    }

    /// Whether `code` means "listed".
    #[must_use]
    pub fn contains(&self, code: Ipv4Addr) -> bool {
        !is_error(code)
            && self.0.iter().any(|range| range.contains(&code))
            && (!is_error_by_custom(code) || self.names(code))
    }

    /// Whether `code` is named alone, not in a range.
    fn names(&self, code: Ipv4Addr) -> bool {
        self.0.contains(&(code..=code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_their_ends_and_never_an_error() {
        let mut codes = Codes::default();
        codes.add("127.0.0.2").unwrap();
        codes.add("127.0.0.4 - 127.0.0.7").unwrap();
        for (code, expected) in [
            ("127.0.0.1", false),
            ("127.0.0.2", true),
            ("127.0.0.3", false),
            ("127.0.0.4", true),
            ("127.0.0.7", true),
            ("127.0.0.8", false),
            ("127.255.255.254", false),
            ("10.0.0.2", false),
        ] {
            assert_eq!(codes.contains(code.parse().unwrap()), expected, "{code}");
        }
    }

    #[test]
    fn an_error_by_custom_is_a_listing_only_where_it_is_named_alone() {
        for code in ["127.0.0.1", "127.0.0.255"] {
            let address = code.parse().unwrap();
            let mut codes = Codes::default();
            codes.add("127.0.0.0-127.0.1.255").unwrap();
            assert!(!codes.contains(address), "{code}");
            codes.add(code).unwrap();
            assert!(codes.contains(address), "{code}");
        }
    }

    #[test]
    fn a_range_that_could_hold_an_error_is_refused() {
        for (text, error) in [
            ("127.0.0.2-127.255.255.0", CodesError::Errors),
            ("127.255.255.255", CodesError::Errors),
            ("128.0.0.2", CodesError::NoRange),
            ("127.0.0.3-127.0.0.2", CodesError::NoRange),
            ("126.0.0.1-127.0.0.2", CodesError::NoRange),
            ("127.0.0", CodesError::NoRange),
            ("", CodesError::NoRange),
        ] {
            assert_eq!(Codes::default().add(text), Err(error), "{text}");
        }
    }
}
