//! The checked `[[dnsbl]]` and `[[dnswl]]` tables.

use std::net::{Ipv4Addr, Ipv6Addr};

use rblfilter_warden::policy::without_keys;
use toml::{Spanned, Value};

use super::error::Problem;
use super::file::{self, Codes as Written};
use super::model::{Check, printable};
use crate::dnsbl::{Codes, CodesError, MOST_RULES, Match, Rule, Score, Thresholds, Zone};
use crate::reply::Template;

/// The lists in `text`, those that speak for a client after the others;
/// `contact` is what `{contact}` stands for in their messages.
pub fn check(
    text: &str,
    dnsbls: Vec<file::Dnsbl>,
    dnswls: Vec<file::Dnswl>,
    thresholds: &Thresholds,
    contact: &str,
) -> Result<Vec<Zone>, Problem> {
    let check = Check { text };
    let mut zones: Vec<Zone> = Vec::new();
    for list in dnsbls {
        let zone = check.dnsbl(&list, thresholds.ban, contact)?;
        check.some_family("dnsbl", &zone, &list.zone)?;
        check.new_one(&zones, &zone, "dnsbl.zone", &list.zone)?;
        zones.push(zone);
    }
    for list in dnswls {
        let zone = check.dnswl(&list, thresholds.ban)?;
        check.some_family("dnswl", &zone, &list.zone)?;
        check.new_one(&zones, &zone, "dnswl.zone", &list.zone)?;
        zones.push(zone);
    }
    Ok(zones)
}

/// A number, written with or without a point.
pub fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Float(number) => Some(*number),
        Value::Integer(number) => i32::try_from(*number).ok().map(f64::from),
        _ => None,
    }
}

impl Check<'_> {
    fn some_family(
        &self,
        table: &str,
        zone: &Zone,
        written: &Spanned<String>,
    ) -> Result<(), Problem> {
        if [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
            .iter()
            .any(|client| zone.covers(*client))
        {
            return Ok(());
        }
        let message = format!(
            "{table}: {} is asked for nobody with ipv4 = false and ipv6 = false (remove the list)",
            zone.name()
        );
        self.wrong(written.span(), message)
    }

    fn new_one(
        &self,
        zones: &[Zone],
        zone: &Zone,
        key: &str,
        written: &Spanned<String>,
    ) -> Result<(), Problem> {
        if zones.iter().all(|other| other.origin() != zone.origin()) {
            return Ok(());
        }
        let shown = without_keys(written.get_ref());
        self.wrong(
            written.span(),
            format!("{key}: {shown:?} stands here twice"),
        )
    }

    fn dnsbl(&self, list: &file::Dnsbl, ban: Score, contact: &str) -> Result<Zone, Problem> {
        let mut zone = self.zone("dnsbl", &list.zone, list.name.as_ref())?;
        if let Some(url) = &list.lookup_url {
            let text = url.get_ref();
            if !text.chars().all(printable) || text.len() > 200 {
                return self.wrong(
                    url.span(),
                    "dnsbl.lookup-url: expected at most 200 printable ASCII characters",
                );
            }
            if text.replace("{ip}", "").contains(['{', '}']) {
                return self.wrong(
                    url.span(),
                    "dnsbl.lookup-url: unknown placeholder, expected {ip} alone",
                );
            }
            zone = zone.with_lookup_url(url.get_ref());
        }
        if let Some(message) = list.message.as_ref().filter(|m| !m.get_ref().is_empty()) {
            match Template::parse(message.get_ref(), contact) {
                Ok(template) => zone = zone.with_message(template),
                Err(error) => {
                    return self.wrong(message.span(), format!("dnsbl.message: {error}"));
                }
            }
        }
        let score = match &list.score {
            None => ban,
            Some(written) => match self.score("dnsbl.score", written)? {
                score if score.is_negative() => {
                    return self.wrong(
                        written.span(),
                        "dnsbl.score: expected 0 or more (what speaks for a client is a [[dnswl]])",
                    );
                }
                score => score,
            },
        };
        let rules = self.rules("dnsbl", &list.codes, score)?;
        if rules.iter().any(|rule| rule.score.is_negative()) {
            return self.wrong(
                list.codes.span(),
                "dnsbl.codes: expected scores of 0 or more (what speaks for a client is a [[dnswl]])",
            );
        }
        if rules.iter().all(|rule| !rule.score.is_positive()) {
            let span = list.score.as_ref().map_or(list.codes.span(), Spanned::span);
            return self.wrong(
                span,
                "dnsbl.score: no answer of the list is worth anything, expected more than 0 (or remove the list)",
            );
        }
        if !list.self_test {
            zone = zone.without_self_test();
        }
        if let Some(most) = self.most_a_day("dnsbl", list.max_queries_per_day.as_ref())? {
            zone = zone.with_max_queries(most);
        }
        Ok(zone.with_rules(rules).asked(list.ipv4, list.ipv6))
    }

    fn dnswl(&self, list: &file::Dnswl, ban: Score) -> Result<Zone, Problem> {
        let mut zone = self
            .zone("dnswl", &list.zone, list.name.as_ref())?
            .allowing();
        let score = match &list.score {
            None => Score::ZERO - ban,
            Some(written) => self.score("dnswl.score", written)?,
        };
        let mut rules = Vec::new();
        match (&list.codes, &list.trust) {
            (Some(codes), _) => rules.extend(self.rules("dnswl", codes, score)?),
            (None, Some(_)) => {}
            (None, None) => rules.extend(self.rules("dnswl", &file::all_codes(), score)?),
        }
        if let Some(trust) = &list.trust {
            let levels = trust.get_ref();
            let points = [levels.none, levels.low, levels.medium, levels.high];
            for (points, level) in points.into_iter().zip(0..) {
                let Some(score) = Score::from_points(points) else {
                    return self.wrong(trust.span(), "dnswl.trust: expected numbers, -100000 to 0");
                };
                rules.push(Rule {
                    of: Match::Trust(level),
                    score,
                });
            }
        }
        if rules.iter().any(|rule| rule.score.is_positive()) {
            return self.wrong(
                list.trust
                    .as_ref()
                    .map_or_else(|| list.zone.span(), Spanned::span),
                "dnswl: expected scores of 0 or less (what speaks against a client is a [[dnsbl]])",
            );
        }
        if rules.len() > MOST_RULES {
            return self.wrong(list.zone.span(), "dnswl: expected at most 32 rules");
        }
        if !list.self_test {
            zone = zone.without_self_test();
        }
        if let Some(most) = self.most_a_day("dnswl", list.max_queries_per_day.as_ref())? {
            zone = zone.with_max_queries(most);
        }
        Ok(zone.with_rules(rules).asked(list.ipv4, list.ipv6))
    }

    /// The most queries a day; `None`: any.
    fn most_a_day(
        &self,
        table: &str,
        written: Option<&Spanned<i64>>,
    ) -> Result<Option<u64>, Problem> {
        let Some(written) = written else {
            return Ok(None);
        };
        match u64::try_from(*written.get_ref()) {
            Ok(most) => Ok((most > 0).then_some(most)),
            Err(_) => self.wrong(
                written.span(),
                format!(
                    "{table}.max-queries-per-day: {} is out of range, expected 0 (any) or more",
                    written.get_ref()
                ),
            ),
        }
    }

    fn zone(
        &self,
        table: &str,
        written: &Spanned<String>,
        name: Option<&Spanned<String>>,
    ) -> Result<Zone, Problem> {
        let domain = written.get_ref();
        let Some(zone) = Zone::new(domain) else {
            let shown = without_keys(domain);
            return self.wrong(
                written.span(),
                format!(
                    "{table}.zone: {shown:?} is no domain name, expected for example \"zen.spamhaus.org\""
                ),
            );
        };
        let Some(name) = name else { return Ok(zone) };
        let fits = |c: char| c.is_ascii_graphic() && !",[]".contains(c);
        if !(1..=64).contains(&name.get_ref().len()) || !name.get_ref().chars().all(fits) {
            return self.wrong(
                name.span(),
                format!(
                    "{table}.name: expected 1 to 64 printable ASCII characters without space, comma or bracket"
                ),
            );
        }
        Ok(zone.named(name.get_ref()))
    }

    /// The rules of a list: all that stands there without a score of its own is
    /// one, worth `score`.
    fn rules(&self, table: &str, codes: &Written, score: Score) -> Result<Vec<Rule>, Problem> {
        let written = codes.get_ref();
        if written.is_empty() && table == "dnsbl" {
            return self.wrong(
                codes.span(),
                "dnsbl.codes: expected at least one address or range",
            );
        }
        let key = format!("{table}.codes");
        let mut rules = Vec::new();
        let mut plain = Codes::default();
        let mut has_plain = false;
        for element in written {
            match element.get_ref() {
                Value::String(range) => {
                    self.range(&key, &mut plain, range, element)?;
                    has_plain = true;
                }
                Value::Table(rule) => rules.push(self.rule(&key, rule, element)?),
                _ => {
                    return self.wrong(
                        element.span(),
                        format!(
                            "{key}: expected a text in \" \" or {{ codes = \"127.0.0.2\", score = 2.0 }}"
                        ),
                    );
                }
            }
        }
        if has_plain {
            rules.push(Rule {
                of: Match::Codes(plain),
                score,
            });
        }
        if rules.len() > MOST_RULES {
            return self.wrong(
                codes.span(),
                format!("{key}: expected at most {MOST_RULES} rules"),
            );
        }
        Ok(rules)
    }

    fn rule(
        &self,
        key: &str,
        rule: &toml::Table,
        element: &Spanned<Value>,
    ) -> Result<Rule, Problem> {
        let form = || {
            self.wrong(
                element.span(),
                format!("{key}: expected {{ codes = \"127.0.0.2\", score = 2.0 }}"),
            )
        };
        if rule.keys().any(|key| key != "codes" && key != "score") {
            return form();
        }
        let score = rule.get("score").and_then(number);
        let Some(score) = score.and_then(Score::from_points) else {
            return form();
        };
        let mut codes = Codes::default();
        match rule.get("codes") {
            Some(Value::String(range)) => self.range(key, &mut codes, range, element)?,
            Some(Value::Array(ranges)) if !ranges.is_empty() => {
                for range in ranges {
                    let Some(range) = range.as_str() else {
                        return form();
                    };
                    self.range(key, &mut codes, range, element)?;
                }
            }
            _ => return form(),
        }
        Ok(Rule {
            of: Match::Codes(codes),
            score,
        })
    }

    fn range(
        &self,
        key: &str,
        codes: &mut Codes,
        text: &str,
        element: &Spanned<Value>,
    ) -> Result<(), Problem> {
        let Err(error) = codes.add(text) else {
            return Ok(());
        };
        let message = match error {
            CodesError::NoRange => format!(
                "{key}: {text:?} is no range of addresses in 127.0.0.0/8, expected for example \"127.0.0.2\" or \"127.0.0.4-127.0.0.7\""
            ),
            CodesError::Errors => format!(
                "{key}: {text:?} reaches into 127.255.255.0/24, which are errors and never listings, expected for example \"127.0.0.2\""
            ),
        };
        self.wrong(element.span(), message)
    }
}
