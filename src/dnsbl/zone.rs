//! A DNS list: its domain, and what is known of its habits.

use std::fmt;
use std::net::IpAddr;

use hickory_resolver::proto::rr::Name;

use rblfilter_warden::policy::without_keys;

use super::{Codes, query};

/// A list to ask. Its domain may hold a secret key, so it is never shown; its
/// name is.
#[derive(Clone)]
pub struct Zone {
    origin: Name,
    name: String,
    codes: Codes,
    ipv4: bool,
    ipv6: bool,
    lookup_url: String,
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Zone")
            .field("name", &self.name)
            .field("codes", &self.codes)
            .field("ipv4", &self.ipv4)
            .field("ipv6", &self.ipv6)
            .field("lookup_url", &self.lookup_url)
            .finish_non_exhaustive()
    }
}

impl Zone {
    /// The list at `domain`; `None` where that is no domain name, or too long
    /// for an IPv6 client's query.
    #[must_use]
    pub fn new(domain: &str) -> Option<Self> {
        let label = |label: &str| {
            !label.is_empty()
                && !label.starts_with('-')
                && label
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        };
        let domain = domain
            .strip_suffix('.')
            .unwrap_or(domain)
            .to_ascii_lowercase();
        if !domain.contains('.') || !domain.split('.').all(label) {
            return None;
        }
        let origin = Name::from_ascii(format!("{domain}.")).ok()?;
        query::name(std::net::Ipv6Addr::UNSPECIFIED.into(), &origin)?;
        Some(Self {
            origin,
            name: without_keys(&domain),
            codes: Codes::default(),
            ipv4: true,
            ipv6: true,
            lookup_url: String::new(),
        })
    }

    /// The same list, shown as `name`.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// The same list, where only these answers mean "listed".
    #[must_use]
    pub fn with_codes(mut self, codes: Codes) -> Self {
        self.codes = codes;
        self
    }

    /// The same list, asked for these families alone.
    #[must_use]
    pub fn asked(mut self, ipv4: bool, ipv6: bool) -> Self {
        self.ipv4 = ipv4;
        self.ipv6 = ipv6;
        self
    }

    /// The same list, with the page where a person can look a client up.
    #[must_use]
    pub fn with_lookup_url(mut self, url: &str) -> Self {
        url.clone_into(&mut self.lookup_url);
        self
    }

    /// The list's domain, with its key if it has one: for queries alone.
    #[must_use]
    pub fn origin(&self) -> &Name {
        &self.origin
    }

    /// The list's name as it may be shown.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The answers that mean "listed".
    #[must_use]
    pub fn codes(&self) -> &Codes {
        &self.codes
    }

    /// Where a person can look a client up; may hold `{ip}`.
    #[must_use]
    pub fn lookup_url(&self) -> &str {
        &self.lookup_url
    }

    /// Whether this list knows addresses of `client`'s family.
    #[must_use]
    pub fn covers(&self, client: IpAddr) -> bool {
        if client.is_ipv4() {
            self.ipv4
        } else {
            self.ipv6
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_domain_names_are_zones() {
        for (domain, expected) in [
            ("bl.test", true),
            ("ZEN.spamhaus.org.", true),
            ("test", false),
            ("", false),
            (".", false),
            ("a..b", false),
            ("bl test.x", false),
            ("-a.b", false),
        ] {
            assert_eq!(Zone::new(domain).is_some(), expected, "{domain}");
        }
        assert!(
            Zone::new(&vec!["abcdefghi"; 20].join(".")).is_none(),
            "too long for IPv6"
        );
    }

    #[test]
    fn a_key_is_shown_nowhere() {
        let zone = Zone::new("abcdefghijklmnopqrstuvwxyz.zen.dq.spamhaus.net").unwrap();
        assert_eq!(zone.name(), "*.zen.dq.spamhaus.net");
        assert!(!format!("{zone:?}").contains("abcdef"));
        assert_eq!(zone.named("zen-dqs").name(), "zen-dqs");
    }
}
