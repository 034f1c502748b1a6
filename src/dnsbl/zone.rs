//! A DNS list: its domain, and what is known of its habits.

use std::fmt;
use std::net::IpAddr;

use hickory_resolver::proto::rr::Name;

use rblfilter_warden::policy::without_keys;

use super::query;
use super::rule::Rule;
use crate::reply::Template;

/// A list to ask. Its domain may hold a secret key, so it is never shown; its
/// name is.
#[derive(Clone)]
pub struct Zone {
    origin: Name,
    name: String,
    allows: bool,
    rules: Vec<Rule>,
    ipv4: bool,
    ipv6: bool,
    lookup_url: String,
    message: Option<Template>,
    self_test: bool,
    max_queries: Option<u64>,
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Zone")
            .field("name", &self.name)
            .field("allows", &self.allows)
            .field("rules", &self.rules)
            .field("ipv4", &self.ipv4)
            .field("ipv6", &self.ipv6)
            .field("lookup_url", &self.lookup_url)
            .field("message", &self.message)
            .field("self_test", &self.self_test)
            .field("max_queries", &self.max_queries)
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
            allows: false,
            rules: Vec::new(),
            ipv4: true,
            ipv6: true,
            lookup_url: String::new(),
            message: None,
            self_test: true,
            max_queries: None,
        })
    }

    /// The same list, shown as `name`.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// The same list, whose answers are worth this.
    #[must_use]
    pub fn with_rules(mut self, rules: Vec<Rule>) -> Self {
        self.rules = rules;
        self
    }

    /// The same list as one of those who speak for a client.
    #[must_use]
    pub fn allowing(mut self) -> Self {
        self.allows = true;
        self
    }

    /// The same list, whose listings are told of with this text.
    #[must_use]
    pub fn with_message(mut self, message: Template) -> Self {
        self.message = Some(message);
        self
    }

    /// The same list, without self-tests: its operator breaks RFC 5782.
    #[must_use]
    pub fn without_self_test(mut self) -> Self {
        self.self_test = false;
        self
    }

    /// The same list, asked at most so often a day.
    #[must_use]
    pub fn with_max_queries(mut self, most: u64) -> Self {
        self.max_queries = Some(most);
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

    /// Whether its domain may hold a secret key.
    #[must_use]
    pub fn holds_key(&self) -> bool {
        let domain = self.origin.to_ascii();
        without_keys(&domain) != domain
    }

    /// Whether couriertcpd means this list by `zone`, which is without keys.
    #[must_use]
    pub fn is_called(&self, zone: &str) -> bool {
        let domain = without_keys(&self.origin.to_ascii());
        let bare = |text: &str| text.trim_end_matches('.').to_ascii_lowercase();
        bare(&domain) == bare(zone)
    }

    /// What its answers are worth.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Whether it speaks for clients.
    #[must_use]
    pub fn allows(&self) -> bool {
        self.allows
    }

    /// What a client is told that it lists, where that is not `reply.text`.
    #[must_use]
    pub fn message(&self) -> Option<&Template> {
        self.message.as_ref()
    }

    /// Whether it is tested by RFC 5782 §5.
    #[must_use]
    pub fn self_test(&self) -> bool {
        self.self_test
    }

    /// The most queries a day.
    #[must_use]
    pub fn max_queries(&self) -> Option<u64> {
        self.max_queries
    }

    /// A number that stands for this list, with these rules, from one start to
    /// the next: what was kept of another one is not this one's. (FNV-1a, of
    /// which a key cannot be told.)
    #[must_use]
    pub fn number(&self) -> u32 {
        let text = format!("{} {} {:?}", self.name, self.origin, self.rules);
        text.bytes().fold(0x811c_9dc5, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        })
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
    fn another_domain_under_the_same_name_is_another_list() {
        let number = |domain| Zone::new(domain).unwrap().named("zen").number();
        assert_eq!(number("bl.test"), number("BL.test."));
        assert_ne!(number("bl.test"), number("wl.test"));
    }

    #[test]
    fn a_key_is_shown_nowhere() {
        let zone = Zone::new("abcdefghijklmnopqrstuvwxyz.zen.dq.spamhaus.net").unwrap();
        assert_eq!(zone.name(), "*.zen.dq.spamhaus.net");
        assert!(!format!("{zone:?}").contains("abcdef"));
        assert_eq!(zone.named("zen-dqs").name(), "zen-dqs");
    }
}
