//! What to do where it was wrong, and what to tell the sender.

use std::net::IpAddr;

use super::facts::Facts;
use super::pages::page;
use super::story::Line;
use crate::control::shown;

/// The commands, and what each does.
pub fn if_wrong(facts: &Facts, client: IpAddr) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut command = |command: String, what: &str| lines.push(Line::Command(command, what.into()));
    let banned = facts.held().is_some_and(|held| !held.bans.is_empty())
        || matches!(facts.kernel, Some(Ok(true)));
    let allowed = facts.held().and_then(|held| held.allowed.first());
    let traced = facts.traced();
    let count = |kind: &str| traced.map_or(0, |traced| traced.count(kind));
    let judged = ["ban", "kill", "reject", "drop", "observed"];
    let condemned = banned
        || judged.into_iter().any(|kind| count(kind) > 0)
        || facts
            .expected()
            .is_some_and(|forecast| forecast.sentence != "pass");
    if banned {
        command(
            format!("rblfilter unban {client}"),
            "ends the ban now, and lets it in for 24 h whatever the lists say",
        );
    }
    // Who is let in needs no way in; what lasts is for who is judged without it.
    match allowed {
        Some(allow) => command(
            format!("rblfilter allow {client} --for 0s"),
            &if shown(allow.network) == client.to_string() {
                "ends that it is let in by hand: it is judged again, as anybody".to_owned()
            } else {
                format!(
                    "ends that {} is let in by hand: it is judged again, as anybody",
                    shown(allow.network)
                )
            },
        ),
        None if condemned && !banned => command(
            format!("rblfilter allow {client}"),
            "lets it in for 24 h whatever the lists say (--for 7days: longer)",
        ),
        None => {}
    }
    if condemned && (allowed.is_none() || banned) {
        command(
            format!("allow.networks = [\"{client}\"]"),
            &format!(
                "in {}, then rblfilter reload: it is never judged again; add it to the list that stands there",
                facts.path.display()
            ),
        );
        command(
            format!("never-ban.relays = [\"{client}\"]"),
            "there: it passes on others' mail, so a listing refuses its message with a text that the sender reads, and neither ends nor bans it",
        );
    }
    let by_courier = traced.is_some_and(|traced| {
        let moments = traced.moments.iter();
        moments
            .into_iter()
            .any(|moment| moment.text.starts_with("refused: 511"))
    });
    if by_courier {
        command(
            format!("{client}<tab>allow,BLOCK"),
            "a line of a file in Courier's smtpaccess folder, then makesmtpaccess: Courier's own lists, which said 511, no longer count for it",
        );
    }
    if count("shed") > 0 {
        lines.push(Line::Text(
            "It was shed because the slots ran short, not for what it is: a mail server tries again by itself. More slots (MAXDAEMONS), or a higher guard.high-water, make that rarer.".into(),
        ));
    }
    if count("turned-away") > 0 {
        lines.push(Line::Text(
            "It was turned away by Courier's MAXPERIP or MAXPERC (/etc/courier/esmtpd): one that may connect so often needs a higher one there, or in smtpaccess.".into(),
        ));
    }
    lines
}

/// What its sender can do.
pub fn for_sender(facts: &Facts, client: IpAddr) -> Vec<Line> {
    // What each list is called, and its page as configured.
    let mut zones: Vec<(String, String)> = Vec::new();
    let mut add = |name: &str, url: &str| {
        if !name.is_empty() && !zones.iter().any(|(known, _)| known == name) {
            zones.push((name.to_owned(), url.to_owned()));
        }
    };
    let now = facts.expected();
    let lists = now.iter().flat_map(|forecast| &forecast.lists);
    for list in lists.clone().filter(|list| list.against) {
        add(&list.name, &list.lookup_url);
    }
    let url = |name: &str| {
        let list = lists.clone().find(|list| list.name == name);
        list.map_or("", |list| list.lookup_url.as_str())
    };
    for ban in facts.held().iter().flat_map(|held| &held.bans) {
        for zone in &ban.zones {
            add(zone, url(zone));
        }
    }
    let traced = [facts.traced(), facts.message()];
    for sentence in traced
        .iter()
        .flatten()
        .filter_map(|traced| traced.sentence.as_ref())
    {
        for zone in std::iter::once(&sentence.zone).chain(&sentence.also) {
            add(zone, url(zone));
        }
    }
    if zones.is_empty() {
        return Vec::new();
    }
    let listed_now = |name: &str| {
        let list = lists.clone().find(|list| list.name == name);
        list.map(|list| list.against)
    };
    let mut lines: Vec<Line> = zones
        .iter()
        .map(|(name, url)| {
            let page = page(name, url, client);
            let text = match (listed_now(name), page) {
                (Some(false), _) => {
                    "does not list it any longer: send the message again".to_owned()
                }
                (_, Some(page)) => {
                    format!("lists {client}: look it up, and ask for removal, at {page}")
                }
                (_, None) => format!("lists {client}: its operator's pages say how to be removed"),
            };
            Line::Pair(name.clone(), text)
        })
        .collect();
    lines.push(Line::Text(format!(
        "The server at {client} sent, or may have sent, spam: its admin should see that it does not, before asking for removal. Once no list names it, messages come through without our doing. Meanwhile the sender can use another server."
    )));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Entry, What};
    use crate::why::{Forecast, Held, Logs, Subject};

    fn facts(held: Held) -> Facts {
        let client: IpAddr = "203.0.113.9".parse().unwrap();
        Facts {
            subject: Subject::Client(client),
            client: Some(client),
            now: 1_800_000_000,
            filter: None,
            file: Some(Ok(held)),
            kernel: None,
            configured: None,
            path: "/etc/courier/filters/rblfilter.toml".into(),
            log: Ok(Logs::default()),
            forecast: Some(Ok(Forecast {
                sentence: "ban".into(),
                ..Forecast::default()
            })),
        }
    }

    fn commands(held: Held) -> Vec<String> {
        let client = "203.0.113.9".parse().unwrap();
        let lines = if_wrong(&facts(held), client);
        let command = |line| match line {
            Line::Command(command, _) => Some(command),
            _ => None,
        };
        lines.into_iter().filter_map(command).collect()
    }

    #[test]
    fn who_is_let_in_is_told_how_that_ends_and_no_way_in() {
        let entry = |network: &str| Entry::allowed(network.parse().unwrap(), 3600);
        let allowed = |network: &str| Held {
            allowed: vec![entry(network)],
            ..Held::default()
        };
        let ends = "rblfilter allow 203.0.113.9 --for 0s";
        assert_eq!(commands(allowed("203.0.113.9/32")), [ends]);
        assert_eq!(commands(allowed("203.0.113.0/24")), [ends]);
        let text = crate::why::text(&crate::why::story(
            &facts(allowed("203.0.113.0/24")),
            &jiff::tz::TimeZone::UTC,
            false,
        ));
        for told in [
            "203.0.113.9 is let in by hand until 09:00:00 (",
            "whatever the lists say (rblfilter allow 203.0.113.9 --for 0s ends that, for all of 203.0.113.0/24).",
            "ends that 203.0.113.0/24 is let in by hand",
        ] {
            let told = told.split_whitespace().collect::<Vec<_>>().join(" ");
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(text.contains(&told), "{told}: {text}");
        }
        let way_in = "rblfilter allow 203.0.113.9";
        assert_eq!(commands(Held::default())[0], way_in);
        // By force, though it is let in.
        let both = Held {
            bans: vec![Entry {
                what: What::Ban,
                ..entry("203.0.113.9/32")
            }],
            ..allowed("203.0.113.9/32")
        };
        assert_eq!(commands(both)[..2], ["rblfilter unban 203.0.113.9", ends]);
    }
}
