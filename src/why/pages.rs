//! Where a person looks an address up, and asks for its removal, by list. What
//! the configuration says (`lookup-url`) goes before.

use std::net::IpAddr;

/// The domain that a list belongs to, and its page.
const PAGES: [(&str, &str); 17] = [
    ("spamhaus.org", "https://check.spamhaus.org/"),
    ("spamhaus.net", "https://check.spamhaus.org/"),
    ("spamcop.net", "https://www.spamcop.net/bl.shtml?{ip}"),
    (
        "barracudacentral.org",
        "https://www.barracudacentral.org/lookups",
    ),
    ("psbl.surriel.com", "https://psbl.org/listing?ip={ip}"),
    ("dronebl.org", "https://dronebl.org/lookup?ip={ip}"),
    ("mailspike.net", "https://mailspike.io/ip_verify"),
    ("mailspike.org", "https://mailspike.io/ip_verify"),
    (
        "uceprotect.net",
        "https://www.uceprotect.net/en/rblcheck.php",
    ),
    ("blocklist.de", "https://www.blocklist.de/en/search.html"),
    ("spamrats.com", "https://www.spamrats.com/lookup.php"),
    ("gbudb.net", "http://www.gbudb.com/truncate/"),
    ("invaluement.com", "https://www.invaluement.com/lookup/"),
    ("abusix.zone", "https://lookup.abusix.com/"),
    ("dnswl.org", "https://www.dnswl.org/s/?s={ip}"),
    ("s5h.net", "http://www.usenix.org.uk/content/rbl.html"),
    ("nordspam.com", "https://www.nordspam.com/delist/"),
];

/// The page for `client` of the list that is shown as `zone`; `configured` is
/// the configuration's, or empty.
#[must_use]
pub fn page(zone: &str, configured: &str, client: IpAddr) -> Option<String> {
    let is_of = |domain: &str| {
        let zone = zone.trim_end_matches('.');
        let end = zone.len().checked_sub(domain.len());
        end.is_some_and(|at| {
            zone.as_bytes()[at..].eq_ignore_ascii_case(domain.as_bytes())
                && (at == 0 || zone.as_bytes()[at - 1] == b'.')
        })
    };
    let known = PAGES.iter().find(|(domain, _)| is_of(domain));
    let page = match (configured, known) {
        ("", known) => known?.1,
        (configured, _) => configured,
    };
    Some(page.replace("{ip}", &client.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_known_by_the_end_of_its_name() {
        let client = "203.0.113.9".parse().unwrap();
        for (zone, configured, expected) in [
            ("zen.spamhaus.org", "", Some("https://check.spamhaus.org/")),
            (
                "*.zen.dq.spamhaus.net",
                "",
                Some("https://check.spamhaus.org/"),
            ),
            (
                "SPAMCOP.net.",
                "",
                Some("https://www.spamcop.net/bl.shtml?203.0.113.9"),
            ),
            ("notspamcop.net", "", None),
            ("bl.test", "", None),
            ("é.test", "", None),
            (
                "bl.test",
                "https://x.test/{ip}",
                Some("https://x.test/203.0.113.9"),
            ),
        ] {
            assert_eq!(
                page(zone, configured, client).as_deref(),
                expected,
                "{zone}"
            );
        }
    }
}
