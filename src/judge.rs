//! Evidence in, sentence out. No clock, no I/O, no memory.

use std::fmt;

use rblfilter_warden::protected::Protection;

use crate::config::Config;
use crate::courier::control_file::Envelope;
use crate::courier::session::{Session, Verdict};
use crate::dnsbl::{Evidence, Level, Listing, Score, Thresholds};
use crate::log::Event;

/// Why a message passes whatever the lists say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exemption {
    /// The admin trusts the client: `RELAYCLIENT` (smtpaccess).
    RelayClient,
    /// The client logged in.
    Authenticated,
    /// The client connected to a port that is not judged.
    Port(u16),
    /// One of the host's own addresses.
    OwnAddress,
    /// In the configuration's `allow.networks`.
    Allowlisted,
    /// couriertcpd's `-allow`, or smtpaccess, emptied this variable.
    CourierAllows(String),
}

impl fmt::Display for Exemption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RelayClient => f.write_str("relayclient"),
            Self::Authenticated => f.write_str("authenticated"),
            Self::Port(port) => write!(f, "port-{port}"),
            Self::OwnAddress => f.write_str("own-address"),
            Self::Allowlisted => f.write_str("allowlisted"),
            Self::CourierAllows(variable) => write!(f, "courier-allows-{variable}"),
        }
    }
}

/// What happens to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sentence {
    /// Nothing.
    Pass,
    /// Its message is refused with a text at the end of data.
    Reject(Conviction),
    /// It is refused and its session ended, at connect already; its address is
    /// banned where the conviction says so.
    Ban(Conviction),
}

/// Why, and what for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conviction {
    /// The weightiest list that names the client.
    pub listing: Listing,
    /// The others' names.
    pub also: Vec<String>,
    /// All points together.
    pub score: Score,
    /// Whether its session is ended.
    pub end: bool,
    /// Whether its address is banned.
    pub ban: bool,
    /// The lists, by their place in the configuration, without any of which it
    /// would not be banned.
    pub rests_on: Vec<usize>,
    /// Whether the configuration's lists alone speak against it, which can be
    /// asked again; couriertcpd's cannot.
    pub own: bool,
}

impl Conviction {
    /// `event`, with the lists that name the client.
    #[must_use]
    pub fn told(&self, event: Event) -> Event {
        let event = event.field("zone", &self.listing.zone);
        let event = match self.listing.code {
            Some(code) => event.field("code", code),
            None => event,
        };
        let event = event.field("score", self.score);
        if self.also.is_empty() {
            event
        } else {
            event.field("also", self.also.join("+"))
        }
    }

    /// What would be done, in a word for the log.
    #[must_use]
    pub fn action(&self) -> &'static str {
        match (self.end, self.ban) {
            (_, true) => "ban",
            (true, false) => "kill",
            (false, false) => "reject",
        }
    }
}

/// Whether Courier itself says in the control file that it trusts the client.
#[must_use]
pub fn trusted(envelope: &Envelope) -> Option<Exemption> {
    if envelope.authenticated.is_some() {
        Some(Exemption::Authenticated)
    } else {
        envelope.relay_client.then_some(Exemption::RelayClient)
    }
}

/// Whether the message passes without a look at the lists. (A listed client's
/// message for exempt recipients alone passes too; whether it is one is asked
/// last, as that may take a look at Courier's aliases.)
#[must_use]
pub fn exemption(
    session: &Session,
    envelope: &Envelope,
    protection: Option<Protection>,
    config: &Config,
) -> Option<Exemption> {
    if let Some(exemption) = trusted(envelope) {
        return Some(exemption);
    }
    if session.relay_client {
        return Some(Exemption::RelayClient);
    }
    if !config.ports.contains(&session.local_port) {
        return Some(Exemption::Port(session.local_port));
    }
    match protection {
        Some(Protection::Own) => return Some(Exemption::OwnAddress),
        Some(Protection::Allowlisted) => return Some(Exemption::Allowlisted),
        None => {}
    }
    match &session.verdict {
        Verdict::Allowed(variable) => Some(Exemption::CourierAllows(variable.clone())),
        _ => None,
    }
}

/// couriertcpd's verdict as listings, with the scores of the configuration; and
/// with the list of ours that it asked, where it is one.
#[must_use]
pub fn courier_listings(session: &Session, config: &Config) -> Vec<Listing> {
    let Verdict::Listed(listed) = &session.verdict else {
        return Vec::new();
    };
    let scores = config.block_variables.iter().zip(&config.block_scores);
    listed
        .iter()
        .filter_map(|listed| {
            let (_, score) = scores
                .clone()
                .find(|(variable, _)| **variable == listed.variable)?;
            Some(Listing {
                zone: listed.zone.clone(),
                code: listed.code,
                lookup_url: String::new(),
                message: None,
                score: *score,
                list: config
                    .zones
                    .iter()
                    .position(|zone| !zone.allows() && zone.is_called(&listed.zone)),
            })
        })
        .collect()
}

/// The sentence for a client that nothing exempts. `never_ban`: it is one of
/// those that are refused with a text, but never ended or banned.
///
/// The packets of a proxied session come from the proxy, so a ban of the client
/// would stop nothing, and one of the proxy everything.
#[must_use]
pub fn sentence(
    session: &Session,
    evidence: &Evidence,
    never_ban: bool,
    thresholds: &Thresholds,
) -> Sentence {
    let tally = evidence.tally;
    let level = match evidence.level(thresholds) {
        Level::Ban if never_ban => Level::Reject,
        level => level,
    };
    let against = evidence.against();
    // Without a list there are no points.
    let (Some((listing, others)), true) = (against.split_first(), level > Level::Pass) else {
        return Sentence::Pass;
    };
    let rests_on = |listing: &&&Listing| {
        let without = thresholds.level(tally.without(listing.score));
        listing.list.filter(|_| without < Level::Ban)
    };
    let conviction = Conviction {
        listing: (*listing).clone(),
        also: others.iter().map(|other| other.zone.clone()).collect(),
        score: tally.score,
        end: level == Level::Ban,
        ban: level == Level::Ban && !session.proxied,
        rests_on: against.iter().filter_map(|l| rests_on(&l)).collect(),
        own: against.iter().all(|listing| listing.list.is_some()),
    };
    match level {
        Level::Ban => Sentence::Ban(conviction),
        _ => Sentence::Reject(conviction),
    }
}

/// Whether a ban has outlived its reason: the lists that were asked again say
/// no longer that the client is to be banned. What is not known frees nobody.
#[must_use]
pub fn has_lapsed(evidence: &Evidence, thresholds: &Thresholds) -> bool {
    evidence.unknown.is_empty() && thresholds.level(evidence.tally) < Level::Ban
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::courier::session::Listed;
    use crate::dnsbl::{Answer, Got};
    use std::time::Instant;

    fn session() -> Session {
        Session {
            client: "127.66.1.2".parse().unwrap(),
            client_port: 4711,
            local: None,
            local_port: 25,
            relay_client: false,
            may_log_in: false,
            proxied: false,
            slots: Some(300),
            verdict: Verdict::None,
        }
    }

    fn listing(list: Option<usize>, points: f64) -> Listing {
        Listing {
            zone: format!("bl{points}.test"),
            code: None,
            lookup_url: String::new(),
            message: None,
            score: Score::from_points(points).unwrap(),
            list,
        }
    }

    /// Our lists 0, 1, … with these points.
    fn evidence(points: &[f64]) -> Evidence {
        let listings: Vec<Listing> = (0..)
            .zip(points)
            .map(|(list, points)| listing(Some(list), *points))
            .collect();
        let tally = listings
            .iter()
            .fold(Evidence::default().tally, |tally, l| tally.with(l.score));
        Evidence {
            listings,
            tally,
            ..Evidence::default()
        }
    }

    fn sentence_of(session: &Session, evidence: &Evidence, never_ban: bool) -> Sentence {
        let config = config::parse("").unwrap();
        sentence(session, evidence, never_ban, &config.thresholds)
    }

    #[test]
    fn whoever_is_trusted_is_exempt() {
        let config = config::parse("").unwrap();
        let plain = Envelope::default();
        let listed = Session {
            verdict: Verdict::Listed(vec![Listed {
                variable: "BLOCK".into(),
                zone: "bl.test".into(),
                code: None,
            }]),
            ..session()
        };
        let relay = Session {
            relay_client: true,
            ..listed.clone()
        };
        let msa = Session {
            local_port: 587,
            ..listed.clone()
        };
        let allowed = Session {
            verdict: Verdict::Allowed("BLOCK".into()),
            ..session()
        };
        let user = Envelope {
            authenticated: Some("alice".into()),
            ..plain.clone()
        };
        for (session, envelope, protection, expected) in [
            (&listed, &plain, None, None),
            (&session(), &plain, None, None),
            (&relay, &plain, None, Some(Exemption::RelayClient)),
            (&listed, &user, None, Some(Exemption::Authenticated)),
            (&msa, &plain, None, Some(Exemption::Port(587))),
            (
                &listed,
                &plain,
                Some(Protection::Own),
                Some(Exemption::OwnAddress),
            ),
            (
                &listed,
                &plain,
                Some(Protection::Allowlisted),
                Some(Exemption::Allowlisted),
            ),
            (
                &allowed,
                &plain,
                None,
                Some(Exemption::CourierAllows("BLOCK".into())),
            ),
        ] {
            assert_eq!(exemption(session, envelope, protection, &config), expected);
        }
    }

    #[test]
    fn the_score_makes_the_sentence() {
        for (points, expected) in [
            (&[][..], "pass"),
            (&[4.0], "pass"),
            (&[5.0], "reject"),
            (&[5.0, 5.0], "ban"),
            (&[10.0], "ban"),
            (&[10.0, -1.0], "reject"),
            (&[10.0, -6.0], "pass"),
            (&[-5.0], "pass"),
        ] {
            let action = match sentence_of(&session(), &evidence(points), false) {
                Sentence::Pass => "pass",
                Sentence::Reject(conviction) | Sentence::Ban(conviction) => conviction.action(),
            };
            assert_eq!(action, expected, "{points:?}");
        }
    }

    #[test]
    fn a_proxied_client_is_never_banned() {
        let proxied = Session {
            proxied: true,
            ..session()
        };
        let Sentence::Ban(conviction) = sentence_of(&proxied, &evidence(&[10.0]), false) else {
            panic!("its session is ended");
        };
        assert_eq!((conviction.end, conviction.ban), (true, false));
    }

    #[test]
    fn who_is_never_to_be_banned_is_refused_with_a_text() {
        let sentence = sentence_of(&session(), &evidence(&[99.0]), true);
        assert!(
            matches!(&sentence, Sentence::Reject(c) if c.action() == "reject"),
            "{sentence:?}"
        );
    }

    #[test]
    fn a_ban_rests_on_each_list_that_it_needs() {
        for (points, expected) in [
            (&[10.0][..], &[0][..]),
            (&[5.0, 5.0], &[0, 1]),
            (&[10.0, 10.0], &[]),
            (&[10.0, 5.0], &[0]),
        ] {
            let Sentence::Ban(conviction) = sentence_of(&session(), &evidence(points), false)
            else {
                panic!("{points:?}");
            };
            assert_eq!(conviction.rests_on, expected, "{points:?}");
        }
    }

    /// Where couriertcpd asked one of ours, it is no second list that agrees, and
    /// the ban is lifted with those that rest on it.
    #[test]
    fn a_ban_rests_on_a_list_of_ours_that_couriertcpd_asked() {
        let config = config::parse("score.ban-needs = 2\n[[dnsbl]]\nzone = \"other.test\"\n[[dnsbl]]\nzone = \"bl.test\"\n").unwrap();
        let named = |zone: &str| {
            let session = Session {
                verdict: Verdict::Listed(vec![Listed {
                    variable: "BLOCK".into(),
                    zone: zone.into(),
                    code: None,
                }]),
                ..session()
            };
            courier_listings(&session, &config)
        };
        let lists = ["BL.test.", "x.bl.test"].map(|zone| named(zone)[0].list);
        assert_eq!(lists, [Some(1), None]);
        let code = [std::net::Ipv4Addr::new(127, 0, 0, 2)];
        for (zone, needs, expected) in [
            ("bl.test", 2, None),
            ("third.test", 2, Some(vec![1])),
            ("bl.test", 1, Some(vec![1])),
        ] {
            let now = Instant::now();
            let mut evidence = Evidence::of_courier(named(zone), now);
            let answer = Answer::from_addresses(&code, config.zones[1].rules());
            evidence.add(1, &config.zones[1], answer, Got::at(now));
            let thresholds = Thresholds {
                ban_needs: needs,
                ..config.thresholds
            };
            let rests_on = match sentence(&session(), &evidence, false, &thresholds) {
                Sentence::Ban(conviction) => Some(conviction.rests_on),
                _ => None,
            };
            assert_eq!(rests_on, expected, "{zone}, {needs}");
        }
    }

    #[test]
    fn a_ban_lapses_once_the_lists_say_less_and_all_of_them_say_something() {
        let config = config::parse("").unwrap();
        let lapsed = |evidence: &Evidence| has_lapsed(evidence, &config.thresholds);
        assert!(!lapsed(&evidence(&[10.0])));
        assert!(lapsed(&evidence(&[5.0])) && lapsed(&evidence(&[])));
        for points in [&[][..], &[5.0], &[10.0]] {
            let unknown = Evidence {
                unknown: vec![(0, crate::dnsbl::Unknown::Timeout)],
                ..evidence(points)
            };
            assert!(!lapsed(&unknown), "{points:?}");
        }
    }

    #[test]
    fn who_couriertcpd_names_too_cannot_be_looked_up_again() {
        for (list, own) in [(Some(1), true), (None, false)] {
            let mut evidence = evidence(&[10.0]);
            evidence.listings.push(listing(list, 1.0));
            let Sentence::Ban(conviction) = sentence_of(&session(), &evidence, false) else {
                panic!("{list:?}");
            };
            assert_eq!(conviction.own, own);
        }
    }

    #[test]
    fn couriers_verdict_is_worth_what_its_variable_is() {
        let config = config::parse("block-variables = { BLOCK = 3, BLOCK2 = 4.5 }").unwrap();
        let listed = |variables: &[&str]| {
            let listed = variables.iter().map(|variable| Listed {
                variable: (*variable).into(),
                zone: "bl.test".into(),
                code: None,
            });
            let session = Session {
                verdict: Verdict::Listed(listed.collect()),
                ..session()
            };
            Evidence::of_courier(courier_listings(&session, &config), Instant::now())
                .tally
                .score
                .points()
        };
        assert!((listed(&["BLOCK2"]) - 4.5).abs() < 1e-9);
        assert!((listed(&["BLOCK", "BLOCK2"]) - 7.5).abs() < 1e-9);
        let default = config::parse("").unwrap();
        assert_eq!(default.block_scores, [default.thresholds.ban; 2]);
    }
}
