//! What to do where it was wrong, and what to tell the sender.

use std::net::IpAddr;

use super::facts::Facts;
use super::pages::page;
use super::story::Line;

/// The commands, and what each does.
pub fn if_wrong(facts: &Facts, client: IpAddr) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut command = |command: String, what: &str| lines.push(Line::Command(command, what.into()));
    let banned = facts.held().is_some_and(|held| !held.bans.is_empty())
        || matches!(facts.kernel, Some(Ok(true)));
    let let_in = facts.held().is_some_and(|held| !held.allowed.is_empty());
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
    } else if condemned && !let_in {
        command(
            format!("rblfilter allow {client}"),
            "lets it in for 24 h whatever the lists say (--for 7days: longer)",
        );
    }
    if let_in {
        command(
            format!("rblfilter allow {client} --for 0s"),
            "ends that it is let in by hand",
        );
    }
    if condemned {
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
