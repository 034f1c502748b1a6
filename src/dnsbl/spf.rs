//! The addresses that a domain says it sends from (SPF, RFC 7208): of big
//! providers whose pools are on some list now and then, and are never to be
//! banned.
//!
//! What is followed: `ip4`, `ip6`, `a`, `mx`, `include`, `redirect`. What is
//! not: macros, `exists`, `ptr`, and whatever a qualifier other than `+` takes
//! back; all of them name nobody here.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use hickory_resolver::proto::rr::Name;
use ipnetwork::IpNetwork;
use rblfilter_warden::protected::canonical;

use super::answer::Unknown;
use super::resolver::{Records, Resolver};

/// The most terms that cause a query (RFC 7208 §4.6.4), names of one `mx`, and
/// queries without an answer.
const MOST_LOOKUPS: usize = 10;
const MOST_EXCHANGERS: usize = 10;
const MOST_VOID: usize = 2;
/// The most networks that one domain may name, and the widest.
const MOST_NETWORKS: usize = 4096;
const WIDEST4: u8 = 8;
const WIDEST6: u8 = 16;
/// How long a record holds, whatever its TTL says.
const TTL_BOUNDS: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(24 * 3600));

/// What the nameservers say of a domain.
pub trait Records7208 {
    /// Its TXT records, each with its strings joined.
    fn texts(&self, name: &Name) -> impl Future<Output = Result<Records<Vec<u8>>, Unknown>> + Send;
    /// Its IPv4 addresses.
    fn addresses(
        &self,
        name: &Name,
    ) -> impl Future<Output = Result<Records<Ipv4Addr>, Unknown>> + Send;
    /// Its IPv6 addresses.
    fn ipv6_addresses(
        &self,
        name: &Name,
    ) -> impl Future<Output = Result<Records<Ipv6Addr>, Unknown>> + Send;
    /// Its mail exchangers.
    fn exchangers(
        &self,
        name: &Name,
    ) -> impl Future<Output = Result<Records<Name>, Unknown>> + Send;
}

impl Records7208 for Resolver {
    async fn texts(&self, name: &Name) -> Result<Records<Vec<u8>>, Unknown> {
        Self::texts(self, name).await
    }
    async fn addresses(&self, name: &Name) -> Result<Records<Ipv4Addr>, Unknown> {
        Self::addresses(self, name).await
    }
    async fn ipv6_addresses(&self, name: &Name) -> Result<Records<Ipv6Addr>, Unknown> {
        Self::ipv6_addresses(self, name).await
    }
    async fn exchangers(&self, name: &Name) -> Result<Records<Name>, Unknown> {
        Self::exchangers(self, name).await
    }
}

/// A domain's networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Senders {
    /// The networks.
    pub networks: Vec<IpNetwork>,
    /// When to look again.
    pub ttl: Duration,
}

/// Why they are not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The nameservers did not say.
    Unknown(Unknown),
    /// The domain, or one that it includes, has no SPF record, or several.
    NoRecord(Name),
    /// A term that cannot be read.
    Term(String),
    /// More than RFC 7208 §4.6.4 allows.
    Limit(&'static str),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(unknown) => write!(f, "{unknown}"),
            Self::NoRecord(name) => write!(f, "{name} has not exactly one SPF record"),
            Self::Term(term) => write!(f, "cannot read the term {term:?}"),
            Self::Limit(what) => write!(f, "more {what} than RFC 7208 §4.6.4 allows"),
        }
    }
}

/// One term that names senders.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Term {
    Network(IpNetwork),
    A(Option<Name>, u8, u8),
    Mx(Option<Name>, u8, u8),
    Include(Name),
    Redirect(Name),
    /// One that causes a query, and names nobody here.
    Passed,
}

/// The terms of an SPF record; `None` where the text is none.
fn parse(text: &[u8]) -> Option<Result<Vec<Term>, Error>> {
    let text = std::str::from_utf8(text).ok()?;
    let mut words = text.split_ascii_whitespace();
    if !words.next()?.eq_ignore_ascii_case("v=spf1") {
        return None;
    }
    let mut terms = Vec::new();
    let mut has_all = false;
    for word in words {
        has_all |= word
            .trim_start_matches(['+', '-', '~', '?'])
            .eq_ignore_ascii_case("all");
        match term(word) {
            Ok(term) => terms.extend(term),
            Err(error) => return Some(Err(error)),
        }
    }
    if has_all {
        // RFC 7208 §6.1.
        terms.retain(|term| !matches!(term, Term::Redirect(_)));
    }
    Some(Ok(terms))
}

fn term(word: &str) -> Result<Option<Term>, Error> {
    let wrong = || Error::Term(word.chars().take(64).collect());
    if let Some(domain) = strip(word, "redirect=") {
        return Ok(Some(target(domain)?.map_or(Term::Passed, Term::Redirect)));
    }
    let positive = word.strip_prefix('+').unwrap_or(word);
    if positive.starts_with(['-', '~', '?']) {
        return Ok(None);
    }
    let (name, rest) = positive
        .find([':', '/', '='])
        .map_or((positive, ""), |at| positive.split_at(at));
    let value = rest.strip_prefix(':');
    Ok(match name.to_ascii_lowercase().as_str() {
        "ip4" | "ip6" => {
            let network: IpNetwork = value
                .and_then(|value| value.parse().ok())
                .ok_or_else(wrong)?;
            let network =
                IpNetwork::new(network.network(), network.prefix()).map_err(|_| wrong())?;
            // Clients are looked for as IPv4 where they are IPv4.
            let network = canonical(network);
            is_narrow(network).then_some(Term::Network(network))
        }
        "include" => Some(target(value.ok_or_else(wrong)?)?.map_or(Term::Passed, Term::Include)),
        kind @ ("a" | "mx") => {
            let (domain, lengths) = match value {
                Some(value) => value.find('/').map_or((value, ""), |at| value.split_at(at)),
                None => ("", rest),
            };
            let (four, six) = prefixes(lengths).ok_or_else(wrong)?;
            let domain = match domain {
                "" => None,
                domain => match target(domain)? {
                    None => return Ok(Some(Term::Passed)),
                    some => some,
                },
            };
            Some(match kind {
                "a" => Term::A(domain, four, six),
                _ => Term::Mx(domain, four, six),
            })
        }
        "exists" | "ptr" => Some(Term::Passed),
        _ => None,
    })
}

/// `/24`, `//64`, `/24//64` or nothing.
fn prefixes(lengths: &str) -> Option<(u8, u8)> {
    let (four, six) = lengths
        .split_once("//")
        .map_or((lengths, None), |(four, six)| (four, Some(six)));
    let four = match four.strip_prefix('/') {
        Some(length) => length.parse().ok().filter(|length| *length <= 32)?,
        None if four.is_empty() => 32,
        None => return None,
    };
    let six = match six {
        Some(length) => length.parse().ok().filter(|length| *length <= 128)?,
        None => 128,
    };
    Some((four, six))
}

/// The domain of a term; `None` where it holds a macro.
fn target(text: &str) -> Result<Option<Name>, Error> {
    if text.contains('%') {
        return Ok(None);
    }
    let mut name =
        Name::from_ascii(text).map_err(|_| Error::Term(text.chars().take(64).collect()))?;
    name.set_fqdn(true);
    Ok(Some(name))
}

fn strip<'a>(word: &'a str, prefix: &str) -> Option<&'a str> {
    let head = word.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix)
        .then(|| &word[prefix.len()..])
}

/// A record that names the world names nobody.
fn is_narrow(network: IpNetwork) -> bool {
    let widest = if network.is_ipv4() { WIDEST4 } else { WIDEST6 };
    network.prefix() >= widest
}

/// The networks that `domain`'s SPF record names.
///
/// # Errors
/// Where it has none, it cannot be read, or the nameservers do not say.
pub async fn senders(domain: &Name, dns: &impl Records7208) -> Result<Senders, Error> {
    let mut walk = Walk {
        dns,
        lookups: 0,
        void: 0,
        ttl: TTL_BOUNDS.1,
        networks: HashSet::new(),
    };
    let mut pending = vec![domain.clone()];
    while let Some(domain) = pending.pop() {
        for term in walk.record(&domain).await? {
            let own = || domain.clone();
            match term {
                Term::Network(network) => walk.add(network)?,
                Term::Passed => walk.count()?,
                Term::Include(target) | Term::Redirect(target) => {
                    walk.count()?;
                    pending.push(target);
                }
                Term::A(name, four, six) => {
                    walk.count()?;
                    walk.hosts(&name.unwrap_or_else(own), four, six).await?;
                }
                Term::Mx(name, four, six) => {
                    walk.count()?;
                    walk.exchangers(&name.unwrap_or_else(own), four, six)
                        .await?;
                }
            }
        }
    }
    let mut networks: Vec<IpNetwork> = walk.networks.into_iter().collect();
    networks.sort();
    Ok(Senders {
        networks,
        ttl: walk.ttl.max(TTL_BOUNDS.0),
    })
}

struct Walk<'a, D> {
    dns: &'a D,
    lookups: usize,
    void: usize,
    ttl: Duration,
    networks: HashSet<IpNetwork>,
}

impl<D: Records7208> Walk<'_, D> {
    fn count(&mut self) -> Result<(), Error> {
        self.lookups += 1;
        if self.lookups > MOST_LOOKUPS {
            return Err(Error::Limit("lookups"));
        }
        Ok(())
    }

    fn add(&mut self, network: IpNetwork) -> Result<(), Error> {
        if is_narrow(network) {
            self.networks.insert(network);
        }
        if self.networks.len() > MOST_NETWORKS {
            return Err(Error::Limit("networks"));
        }
        Ok(())
    }

    fn seen<T>(&mut self, found: &Result<Records<T>, Unknown>) {
        if let Ok(Records { ttl: Some(ttl), .. }) = found {
            self.ttl = self.ttl.min(*ttl);
        }
    }

    async fn record(&mut self, domain: &Name) -> Result<Vec<Term>, Error> {
        let texts = self.dns.texts(domain).await;
        self.seen(&texts);
        let texts = texts.map_err(Error::Unknown)?;
        let mut records = texts.data.iter().filter_map(|text| parse(text));
        match (records.next(), records.next()) {
            (Some(record), None) => record,
            _ => Err(Error::NoRecord(domain.clone())),
        }
    }

    async fn exchangers(&mut self, name: &Name, four: u8, six: u8) -> Result<(), Error> {
        let found = self.dns.exchangers(name).await;
        self.seen(&found);
        let found = found.map_err(Error::Unknown)?.data;
        if found.is_empty() {
            return self.nothing();
        }
        if found.len() > MOST_EXCHANGERS {
            return Err(Error::Limit("mail exchangers"));
        }
        for host in found {
            self.hosts(&host, four, six).await?;
        }
        Ok(())
    }

    async fn hosts(&mut self, name: &Name, four: u8, six: u8) -> Result<(), Error> {
        let v4 = self.dns.addresses(name).await;
        let v6 = self.dns.ipv6_addresses(name).await;
        self.seen(&v4);
        self.seen(&v6);
        let (v4, v6) = (
            v4.map_err(Error::Unknown)?.data,
            v6.map_err(Error::Unknown)?.data,
        );
        if v4.is_empty() && v6.is_empty() {
            return self.nothing();
        }
        let v4 = v4.into_iter().map(|ip| (IpAddr::V4(ip), four));
        let v6 = v6.into_iter().map(|ip| (IpAddr::V6(ip), six));
        for (ip, prefix) in v4.chain(v6) {
            // The prefixes were checked when they were read.
            if let Ok(network) = IpNetwork::new(ip, prefix)
                .and_then(|network| IpNetwork::new(network.network(), prefix))
            {
                self.add(network)?;
            }
        }
        Ok(())
    }

    fn nothing(&mut self) -> Result<(), Error> {
        self.void += 1;
        if self.void > MOST_VOID {
            return Err(Error::Limit("queries without an answer"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[derive(Default)]
    struct Zonefile {
        texts: HashMap<String, Vec<&'static str>>,
        addresses: HashMap<String, Vec<&'static str>>,
        exchangers: HashMap<String, Vec<String>>,
    }

    fn records<T>(data: Vec<T>) -> Result<Records<T>, Unknown> {
        let ttl = Some(Duration::from_secs(600));
        Ok(Records { data, ttl })
    }

    impl Zonefile {
        fn of<A: std::str::FromStr>(&self, name: &Name) -> Vec<A> {
            let texts = self.addresses.get(&name.to_ascii()).into_iter().flatten();
            texts.filter_map(|text| text.parse().ok()).collect()
        }
    }

    impl Records7208 for Zonefile {
        async fn texts(&self, name: &Name) -> Result<Records<Vec<u8>>, Unknown> {
            let texts = self.texts.get(&name.to_ascii()).into_iter().flatten();
            records(texts.map(|text| text.as_bytes().to_vec()).collect())
        }
        async fn addresses(&self, name: &Name) -> Result<Records<Ipv4Addr>, Unknown> {
            records(self.of(name))
        }
        async fn ipv6_addresses(&self, name: &Name) -> Result<Records<Ipv6Addr>, Unknown> {
            records(self.of(name))
        }
        async fn exchangers(&self, name: &Name) -> Result<Records<Name>, Unknown> {
            let names = self.exchangers.get(&name.to_ascii()).into_iter().flatten();
            records(names.map(|name| Name::from_ascii(name).unwrap()).collect())
        }
    }

    fn networks(zonefile: &Zonefile) -> Result<Vec<String>, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let domain = Name::from_ascii("a.test.").unwrap();
        let senders = runtime.block_on(senders(&domain, zonefile))?;
        Ok(senders.networks.iter().map(ToString::to_string).collect())
    }

    fn spf(records: &[(&str, &'static str)]) -> Zonefile {
        Zonefile {
            texts: records
                .iter()
                .map(|(name, text)| ((*name).to_owned(), vec![*text, "other=1"]))
                .collect(),
            ..Zonefile::default()
        }
    }

    #[test]
    fn every_mechanism_that_names_senders_is_followed() {
        let mut zonefile = spf(&[
            (
                "a.test.",
                "v=spf1 ip4:198.51.100.0/24 ip6:2001:db8::/32 a mx:m.test/24 include:b.test -ip4:203.0.113.0/24 ~all",
            ),
            ("b.test.", "V=SPF1 +a:h.test//64 redirect=c.test"),
            (
                "c.test.",
                "v=spf1 ip4:203.0.113.7 ip4:0.0.0.0/0 exists:%{i}.x.test -all",
            ),
        ]);
        for (name, addresses) in [
            ("a.test.", vec!["198.18.0.1"]),
            ("h.test.", vec!["2001:db8:1::5", "198.18.0.2"]),
            ("mail.m.test.", vec!["198.18.7.9"]),
        ] {
            zonefile.addresses.insert(name.into(), addresses);
        }
        zonefile
            .exchangers
            .insert("m.test.".into(), vec!["mail.m.test.".into()]);
        assert_eq!(
            networks(&zonefile).unwrap(),
            [
                "198.18.0.1/32",
                "198.18.0.2/32",
                "198.18.7.0/24",
                "198.51.100.0/24",
                "203.0.113.7/32",
                "2001:db8::/32",
                "2001:db8:1::/64",
            ]
        );
    }

    #[test]
    fn an_ipv4_network_that_is_written_as_ipv6_is_one() {
        let mapped = spf(&[(
            "a.test.",
            "v=spf1 ip6:::ffff:198.51.100.0/120 ip6:::ffff:0:0/96 -all",
        )]);
        assert_eq!(networks(&mapped).unwrap(), ["198.51.100.0/24"]);
    }

    fn networks_in(text: &'static str) -> Result<Vec<String>, Error> {
        networks(&spf(&[("a.test.", text)]))
    }

    #[test]
    fn the_limits_of_rfc_7208() {
        let round = spf(&[("a.test.", "v=spf1 include:a.test ip4:198.51.100.1 -all")]);
        assert_eq!(networks(&round), Err(Error::Limit("lookups")));
        let void = spf(&[("a.test.", "v=spf1 a:x.test a:y.test a:z.test -all")]);
        assert_eq!(
            networks(&void),
            Err(Error::Limit("queries without an answer"))
        );
        let record = |networks: u32| {
            let terms = (0..networks).map(|n| format!(" ip4:{}", Ipv4Addr::from(0xc612_0000 + n)));
            let text = format!("v=spf1{} -all", terms.collect::<String>());
            networks_in(Box::leak(text.into_boxed_str()))
        };
        let most = u32::try_from(MOST_NETWORKS).unwrap();
        assert_eq!(record(most).unwrap().len(), MOST_NETWORKS);
        assert_eq!(record(most + 1), Err(Error::Limit("networks")));
        let mut many = spf(&[("a.test.", "v=spf1 mx -all")]);
        let names = (0..11).map(|n| format!("m{n}.test.")).collect();
        many.exchangers.insert("a.test.".into(), names);
        assert_eq!(networks(&many), Err(Error::Limit("mail exchangers")));
    }

    #[test]
    fn no_record_two_records_and_bad_terms_name_nobody() {
        let none = spf(&[("a.test.", "v=spf10 ip4:198.51.100.1")]);
        assert!(matches!(networks(&none), Err(Error::NoRecord(_))));
        let mut two = spf(&[]);
        let texts = vec!["v=spf1 -all", "v=spf1 ip4:198.51.100.1 -all"];
        two.texts.insert("a.test.".into(), texts);
        assert!(matches!(networks(&two), Err(Error::NoRecord(_))));
        for bad in [
            "v=spf1 ip4:x",
            "v=spf1 a/33",
            "v=spf1 include",
            "v=spf1 ip4",
        ] {
            let bad = spf(&[("a.test.", bad)]);
            assert!(matches!(networks(&bad), Err(Error::Term(_))));
        }
        let all = spf(&[("a.test.", "v=spf1 redirect=b.test all")]);
        assert_eq!(networks(&all), Ok(vec![]), "all comes before redirect");
    }

    proptest::proptest! {
        #[test]
        fn no_record_does_harm(words in "(v=spf1|[+?~-]?(ip4|ip6|a|mx|include|redirect|exists|all|ptr)([:=/]{0,2}[a-z0-9.:%/{}]{0,20})?| |\\PC){0,12}") {
            let _ = parse(words.as_bytes());
            let _ = parse(format!("v=spf1 {words}").as_bytes());
        }
    }
}
