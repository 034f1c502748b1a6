//! The checked model: what the rest of the house works with.

use std::net::{IpAddr, SocketAddr};
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use hickory_resolver::proto::rr::Name;
use ipnetwork::IpNetwork;
use log::LevelFilter;
use rblfilter_warden::policy::{Layer, Sandbox};
use rblfilter_warden::protected::canonical;
use toml::Spanned;

use super::bans::{Ban, Firewall};
use super::error::Problem;
use super::file::{self, File};
use super::gate::Gate;
use super::lists;
use super::metrics::Metrics;
use crate::dnsbl::{Bounds, Score, Thresholds, Zone};
use crate::duration;
use crate::guard::plan::Marks;
use crate::reply::Template;

/// A configuration in which everything has been checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Whether sentences are carried out.
    pub mode: Mode,
    /// How sessions are seen when they connect.
    pub watch: Watch,
    /// The local TCP ports whose sessions are judged.
    pub ports: Vec<u16>,
    /// The environment variables that hold couriertcpd's verdicts.
    pub block_variables: Vec<String>,
    /// What a verdict in each of them is worth.
    pub block_scores: Vec<Score>,
    /// Recipients (lower case, local part or whole address) that are never refused.
    pub exempt_recipients: Vec<String>,
    /// When a refused session is ended.
    pub kill: KillPolicy,
    /// How long anything may be kept of an address that is not banned any longer,
    /// in whole seconds.
    pub retention: u32,
    /// Networks that are never judged.
    pub allow: Vec<IpNetwork>,
    /// Where the slot guard begins and leaves off; `None`: there is none.
    pub guard: Option<Marks>,
    /// The gate; `None`: there is none.
    pub gate: Option<Gate>,
    /// From how many points on a client is refused and banned.
    pub thresholds: Thresholds,
    /// Who is never banned.
    pub never_ban: NeverBan,
    /// How addresses are banned.
    pub ban: Ban,
    /// The rules that shut them out.
    pub firewall: Firewall,
    /// The text after `554 5.7.1`.
    pub reply: Template,
    /// How the lists are asked.
    pub resolver: Resolver,
    /// How long their answers are kept.
    pub cache: Bounds,
    /// Where what is counted can be read.
    pub metrics: Metrics,
    /// The least serious level that is logged.
    pub log_level: LevelFilter,
    /// Whether the filter reads this file again when it has changed.
    pub reload_on_change: bool,
    /// What worker and warden cannot do even where they wanted to.
    pub sandbox: Sandbox,
    /// The most lines of a kind in a second; what is beyond is summed up.
    pub log_lines: u32,
    /// The DNS lists, those that speak for a client at the end.
    pub zones: Vec<Zone>,
}

/// Who is refused with a text, but never ended or banned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NeverBan {
    /// Networks.
    pub relays: Vec<IpNetwork>,
    /// Domains whose SPF records' addresses are meant.
    pub spf: Vec<Name>,
}

/// Whether sentences are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Reject, kill and ban.
    Enforce,
    /// Decide and log alone.
    Observe,
}

/// How sessions are seen when they connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch {
    /// By what.
    pub by: WatchBy,
    /// How often couriertcpd's children are looked at, where they are polled.
    pub interval: Duration,
}

/// By what sessions are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchBy {
    /// The kernel's word where it gives it, else polling.
    Auto,
    /// The kernel's word; polling, with an error in the log, where it gives none.
    Events,
    /// Polling.
    Poll,
    /// Nothing: sessions are judged at the end of data alone.
    Off,
}

/// When a refused session is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillPolicy {
    /// At once.
    Always,
    /// At once while a fifth of the slots or more is in use; else the client
    /// has this long to read its 554.
    Pressure {
        /// The longest that the client is left.
        grace: Duration,
    },
}

/// How the lists are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolver {
    /// The longest that a message waits for all lists together.
    pub limit: Duration,
    /// The longest that one query is waited for; there are two tries.
    pub query_limit: Duration,
    /// The most queries that are open at the same time.
    pub in_flight: usize,
    /// Whether private addresses are looked up too.
    pub query_non_global: bool,
    /// Nameservers; none: those in `/etc/resolv.conf`.
    pub nameservers: Vec<SocketAddr>,
}

/// The longest `lookup.limit`: courieresmtpd's own client would not wait longer.
pub const MAX_LIMIT: Duration = Duration::from_secs(30);

const LAYER: &[(&str, Layer)] = &[("auto", Layer::Auto), ("off", Layer::Off)];

/// Checks what serde could not; `included` are the lists of the file that
/// `include` names.
pub fn check(text: &str, file: File, included: Vec<Zone>) -> Result<Config, Problem> {
    let check = Check { text };
    let mut thresholds = check.thresholds(&file.score, file.never_ban.dnswl)?;
    let reply = check.reply(&file.reply)?;
    let blocks = check.variables(&file.block_variables, thresholds.ban)?;
    let mut zones = lists::check(
        text,
        file.dnsbl,
        file.dnswl,
        &thresholds,
        file.reply.contact.get_ref(),
    )?;
    for zone in included {
        if zones.iter().any(|other| other.origin() == zone.origin()) {
            let message = format!("include: {} stands in both files", zone.name());
            return check.wrong(file.include.span(), message);
        }
        zones.push(zone);
    }
    // In the order of the files, with those that speak for a client at the end.
    zones.sort_by_key(Zone::allows);
    let against =
        zones.iter().filter(|zone| !zone.allows()).count() + usize::from(!blocks.is_empty());
    if thresholds.ban_needs > against.max(1) {
        return check.wrong(
            file.score.ban_needs.span(),
            format!(
                "score.ban-needs: {} lists must agree, but there are {against} (couriertcpd's are one): nobody would ever be banned",
                thresholds.ban_needs
            ),
        );
    }
    thresholds.ban_needs = thresholds.ban_needs.max(1);
    let limit = check.duration(
        "lookup.limit",
        &file.lookup.limit,
        Duration::from_millis(100)..=MAX_LIMIT,
    )?;
    let grace = check.duration(
        "grace",
        &file.grace,
        Duration::ZERO..=Duration::from_secs(60),
    )?;
    let day = Duration::from_secs(24 * 3600);
    // As humantime counts it.
    let year = day * 365 + day / 4;
    let retention = check.duration("retention", &file.retention, day..=year)?;
    // In range by the check above.
    let retention = u32::try_from(retention.as_secs()).unwrap_or(u32::MAX);
    let kill = check.one_of(
        "kill",
        &file.kill,
        &[
            ("always", KillPolicy::Always),
            ("pressure", KillPolicy::Pressure { grace }),
        ],
    )?;
    Ok(Config {
        mode: check.one_of(
            "mode",
            &file.mode,
            &[("enforce", Mode::Enforce), ("observe", Mode::Observe)],
        )?,
        watch: Watch {
            by: check.one_of(
                "watch",
                &file.watch,
                &[
                    ("auto", WatchBy::Auto),
                    ("events", WatchBy::Events),
                    ("poll", WatchBy::Poll),
                    ("off", WatchBy::Off),
                ],
            )?,
            interval: check.duration(
                "poll-interval",
                &file.poll_interval,
                Duration::from_millis(1)..=Duration::from_secs(10),
            )?,
        },
        ports: check.ports(&file.ports)?,
        block_variables: blocks.iter().map(|(name, _)| name.clone()).collect(),
        block_scores: blocks.iter().map(|(_, score)| *score).collect(),
        exempt_recipients: check.recipients(&file.exempt_recipients)?,
        kill,
        retention,
        allow: file
            .allow
            .networks
            .iter()
            .map(|n| check.network("allow.networks", n))
            .collect::<Result<_, _>>()?,
        guard: check.guard(&file.guard)?,
        gate: check.gate(&file.gate, kill, &zones)?,
        thresholds,
        never_ban: NeverBan {
            relays: file
                .never_ban
                .relays
                .iter()
                .map(|n| check.network("never-ban.relays", n))
                .collect::<Result<_, _>>()?,
            spf: file
                .never_ban
                .spf
                .iter()
                .map(|domain| check.domain("never-ban.spf", domain))
                .collect::<Result<_, _>>()?,
        },
        ban: check.ban(&file.ban, retention)?,
        firewall: check.firewall(&file.firewall)?,
        reply,
        resolver: Resolver {
            limit,
            query_limit: check
                .duration(
                    "lookup.query-limit",
                    &file.lookup.query_limit,
                    Duration::from_millis(50)..=MAX_LIMIT,
                )?
                .min(limit / 2),
            in_flight: check.within("lookup.in-flight", &file.lookup.in_flight, 1..=16_384)?,
            query_non_global: file.lookup.query_non_global,
            nameservers: file
                .lookup
                .nameservers
                .iter()
                .map(|server| check.nameserver(server))
                .collect::<Result<_, _>>()?,
        },
        cache: check.cache(&file.cache, retention)?,
        metrics: check.metrics(&file.metrics)?,
        reload_on_change: file.reload.on_change,
        sandbox: Sandbox {
            seccomp: check.one_of("sandbox.seccomp", &file.sandbox.seccomp, LAYER)?,
            landlock: check.one_of("sandbox.landlock", &file.sandbox.landlock, LAYER)?,
        },
        log_level: check.one_of(
            "log.level",
            &file.log.level,
            &[
                ("error", LevelFilter::Error),
                ("warn", LevelFilter::Warn),
                ("info", LevelFilter::Info),
                ("debug", LevelFilter::Debug),
            ],
        )?,
        log_lines: check.number(
            "log.lines-per-second",
            &file.log.lines_per_second,
            1..=100_000,
        )?,
        zones,
    })
}

/// The points at which a client is refused and banned.
pub fn thresholds(text: &str, score: &file::Score, dnswl: bool) -> Result<Thresholds, Problem> {
    Check { text }.thresholds(score, dnswl)
}

/// The text that problems are located in.
pub(super) struct Check<'a> {
    pub(super) text: &'a str,
}

impl Check<'_> {
    pub(super) fn wrong<T>(
        &self,
        span: Range<usize>,
        message: impl Into<String>,
    ) -> Result<T, Problem> {
        Err(Problem::at(self.text, span, message))
    }

    pub(super) fn one_of<T: Copy>(
        &self,
        key: &str,
        value: &Spanned<String>,
        choices: &[(&str, T)],
    ) -> Result<T, Problem> {
        if let Some((_, choice)) = choices.iter().find(|(name, _)| name == value.get_ref()) {
            return Ok(*choice);
        }
        let names: Vec<String> = choices
            .iter()
            .map(|(name, _)| format!("\"{name}\""))
            .collect();
        let (last, rest) = names
            .split_last()
            .map_or(("", &[][..]), |(l, r)| (l.as_str(), r));
        let expected = format!("{} or {last}", rest.join(", "));
        self.wrong(
            value.span(),
            format!(
                "{key}: unknown value {:?}, expected {expected}",
                value.get_ref()
            ),
        )
    }

    pub(super) fn duration(
        &self,
        key: &str,
        value: &Spanned<String>,
        range: RangeInclusive<Duration>,
    ) -> Result<Duration, Problem> {
        let duration = duration::parse(value.get_ref())
            .or_else(|error| self.wrong(value.span(), format!("{key}: {error}")))?;
        if range.contains(&duration) {
            return Ok(duration);
        }
        self.wrong(
            value.span(),
            format!(
                "{key}: {} is out of range, expected {} to {}",
                value.get_ref(),
                humantime::format_duration(*range.start()),
                humantime::format_duration(*range.end())
            ),
        )
    }

    fn ports(&self, ports: &Spanned<Vec<Spanned<i64>>>) -> Result<Vec<u16>, Problem> {
        if ports.get_ref().is_empty() {
            return self.wrong(
                ports.span(),
                "ports: expected at least one TCP port, for example [25]",
            );
        }
        // The firewall's rule names them (iptables-extensions(8), multiport).
        if ports.get_ref().len() > 15 {
            return self.wrong(ports.span(), "ports: expected at most 15 TCP ports");
        }
        let port = |written: &Spanned<i64>| {
            let number = *written.get_ref();
            let port = u16::try_from(number).ok().filter(|port| *port > 0);
            port.map_or_else(
                || {
                    let message = format!("ports: {number} is no TCP port, expected 1 to 65535");
                    self.wrong(written.span(), message)
                },
                Ok,
            )
        };
        ports.get_ref().iter().map(port).collect()
    }

    fn thresholds(&self, score: &file::Score, dnswl: bool) -> Result<Thresholds, Problem> {
        let positive = |key: &str, value: &Spanned<f64>| match self.score(key, value)? {
            score if score.is_positive() => Ok(score),
            _ => self.wrong(value.span(), format!("{key}: expected more than 0")),
        };
        let reject = positive("score.reject", &score.reject)?;
        let ban = positive("score.ban", &score.ban)?;
        if reject > ban {
            let span = if score.ban.span().is_empty() {
                score.reject.span()
            } else {
                score.ban.span()
            };
            let message =
                format!("score.ban: {ban} is less than score.reject, expected {reject} or more");
            return self.wrong(span, message);
        }
        Ok(Thresholds {
            reject,
            ban,
            ban_needs: self.within("score.ban-needs", &score.ban_needs, 1..=100)?,
            vouched_never_ban: dnswl,
        })
    }

    pub(super) fn score(&self, key: &str, value: &Spanned<f64>) -> Result<Score, Problem> {
        match Score::from_points(*value.get_ref()) {
            Some(score) => Ok(score),
            None => self.wrong(
                value.span(),
                format!("{key}: expected a number, -100000 to 100000"),
            ),
        }
    }

    pub(super) fn within(
        &self,
        key: &str,
        value: &Spanned<i64>,
        range: RangeInclusive<usize>,
    ) -> Result<usize, Problem> {
        let number = *value.get_ref();
        if let Some(number) = usize::try_from(number).ok().filter(|n| range.contains(n)) {
            return Ok(number);
        }
        let (least, most) = (range.start(), range.end());
        self.wrong(
            value.span(),
            format!("{key}: {number} is out of range, expected {least} to {most}"),
        )
    }

    fn cache(&self, cache: &file::Cache, retention: u32) -> Result<Bounds, Problem> {
        let week = Duration::from_secs(7 * 24 * 3600);
        let second = Duration::from_secs(1);
        let retention = Duration::from_secs(retention.into());
        let min_ttl = self.duration("cache.min-ttl", &cache.min_ttl, second..=week)?;
        let bounds = Bounds {
            entries: self.within("cache.entries", &cache.entries, 1000..=100_000_000)?,
            min_ttl,
            max_ttl: self.duration("cache.max-ttl", &cache.max_ttl, min_ttl..=week)?,
            max_negative_ttl: self.duration(
                "cache.max-negative-ttl",
                &cache.max_negative_ttl,
                min_ttl..=week,
            )?,
            stale: self.duration("cache.stale", &cache.stale, Duration::ZERO..=week)?,
        };
        // Answers go with all else that is kept of an address.
        let max_ttl = bounds.max_ttl.min(retention);
        let max_negative_ttl = bounds.max_negative_ttl.min(retention);
        Ok(Bounds {
            min_ttl: bounds.min_ttl.min(retention),
            max_ttl,
            max_negative_ttl,
            stale: bounds.stale.min(retention - max_ttl.max(max_negative_ttl)),
            ..bounds
        })
    }

    fn domain(&self, key: &str, value: &Spanned<String>) -> Result<Name, Problem> {
        let text = value.get_ref();
        Zone::new(text)
            .map(|zone| zone.origin().clone())
            .map_or_else(
                || {
                    let message = format!(
                        "{key}: {text:?} is no domain name, expected for example \"example.org\""
                    );
                    self.wrong(value.span(), message)
                },
                Ok,
            )
    }

    /// The variables in a list, worth a ban each, or in a table with their
    /// scores.
    fn variables(
        &self,
        variables: &Spanned<toml::Value>,
        ban: Score,
    ) -> Result<Vec<(String, Score)>, Problem> {
        let wrong = || {
            self.wrong(
                variables.span(),
                "block-variables: expected a list of names, [\"BLOCK\"], or a table of scores, { BLOCK = 10, BLOCK2 = 5 }",
            )
        };
        let mut all = Vec::new();
        match variables.get_ref() {
            toml::Value::Array(names) => {
                for name in names {
                    let Some(name) = name.as_str() else {
                        return wrong();
                    };
                    all.push((name.to_owned(), ban));
                }
            }
            toml::Value::Table(table) => {
                for (name, value) in table {
                    let score = lists::number(value).and_then(Score::from_points);
                    let Some(score) = score.filter(|score| !score.is_negative()) else {
                        return self.wrong(
                            variables.span(),
                            format!("block-variables: {name}: expected a number, 0 to 100000, for example {{ BLOCK = 10 }}"),
                        );
                    };
                    all.push((name.clone(), score));
                }
            }
            _ => return wrong(),
        }
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
        for (name, _) in &all {
            if name.is_empty() || !name.chars().all(fits) {
                return self.wrong(
                    variables.span(),
                    format!("block-variables: {name:?} is no name of an environment variable, expected for example \"BLOCK\""),
                );
            }
        }
        Ok(all)
    }

    fn recipients(&self, recipients: &[Spanned<String>]) -> Result<Vec<String>, Problem> {
        for recipient in recipients {
            let name = recipient.get_ref();
            let domain = name.split_once('@').map(|(_, domain)| domain);
            let fits = |c: char| c.is_ascii_graphic() || !c.is_ascii();
            if name.is_empty()
                || name.starts_with('@')
                || domain.is_some_and(|domain| domain.is_empty() || domain.contains('@'))
                || !name.chars().all(fits)
            {
                return self.wrong(
                    recipient.span(),
                    format!("exempt-recipients: {name:?} is no recipient, expected for example \"postmaster\" or \"abuse@example.org\""),
                );
            }
        }
        Ok(recipients
            .iter()
            .map(|recipient| recipient.get_ref().to_lowercase())
            .collect())
    }

    fn network(&self, key: &str, value: &Spanned<String>) -> Result<IpNetwork, Problem> {
        let text = value.get_ref();
        let Ok(network) = text.parse::<IpNetwork>() else {
            return self.wrong(
                value.span(),
                format!(
                    "{key}: {text:?} is no network, expected for example \"10.0.0.0/8\" or \"2001:db8::1\""
                ),
            );
        };
        if network.ip() == network.network() {
            return Ok(canonical(network));
        }
        self.wrong(
            value.span(),
            format!(
                "{key}: {text:?} has host bits set, expected \"{}/{}\"",
                network.network(),
                network.prefix()
            ),
        )
    }

    fn guard(&self, guard: &file::Guard) -> Result<Option<Marks>, Problem> {
        let (high, low) = (*guard.high_water.get_ref(), *guard.low_water.get_ref());
        if !(20..=94).contains(&high) {
            return self.wrong(
                guard.high_water.span(),
                format!("guard.high-water: {high} is out of range, expected 20 to 94 (percent)"),
            );
        }
        if !(10..high).contains(&low) {
            return self.wrong(
                guard.low_water.span(),
                format!(
                    "guard.low-water: {low} is out of range, expected 10 to {} (percent, below guard.high-water)",
                    high - 1
                ),
            );
        }
        let marks = Marks {
            high: percent(high),
            low: percent(low),
        };
        Ok(guard.enabled.then_some(marks))
    }

    fn reply(&self, reply: &file::Reply) -> Result<Template, Problem> {
        let contact = reply.contact.get_ref();
        if !contact.chars().all(printable) || contact.len() > 100 {
            return self.wrong(
                reply.contact.span(),
                "reply.contact: expected at most 100 printable ASCII characters",
            );
        }
        Template::parse(reply.text.get_ref(), contact)
            .or_else(|error| self.wrong(reply.text.span(), format!("reply.text: {error}")))
    }

    fn nameserver(&self, value: &Spanned<String>) -> Result<SocketAddr, Problem> {
        let text = value.get_ref();
        text.parse::<IpAddr>()
            .map(|ip| SocketAddr::new(ip, 53))
            .or_else(|_| text.parse())
            .or_else(|_| {
                self.wrong(
                    value.span(),
                    format!(
                        "lookup.nameservers: {text:?} is no address, expected for example \"127.0.0.1\" or \"[::1]:5353\""
                    ),
                )
            })
    }
}

/// A percentage that was checked.
fn percent(number: i64) -> usize {
    usize::try_from(number).unwrap_or(100)
}

pub(super) fn printable(c: char) -> bool {
    c == ' ' || c.is_ascii_graphic()
}
