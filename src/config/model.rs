//! The checked model: what the rest of the house works with.

use std::net::{IpAddr, SocketAddr};
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use ipnetwork::IpNetwork;
use log::LevelFilter;
use rblfilter_warden::policy::{MAX_BAN_SECONDS, MAX_SET_NAME, without_keys};
use toml::Spanned;

use super::error::Problem;
use super::file::{self, File};
use crate::dnsbl::{Codes, CodesError, Zone};
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
    /// Recipients (lower case, local part or whole address) that are never refused.
    pub exempt_recipients: Vec<String>,
    /// When a refused session is ended.
    pub kill: KillPolicy,
    /// Networks that are never judged.
    pub allow: Vec<IpNetwork>,
    /// Where the slot guard begins and leaves off; `None`: there is none.
    pub guard: Option<Marks>,
    /// How addresses are banned.
    pub ban: Ban,
    /// The text after `554 5.7.1`.
    pub reply: Template,
    /// How the lists are asked.
    pub resolver: Resolver,
    /// The least serious level that is logged.
    pub log_level: LevelFilter,
    /// The DNS lists.
    pub zones: Vec<Zone>,
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

/// How addresses are banned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    /// How long, in whole seconds.
    pub seconds: u32,
    /// The kernel's set of IPv4 addresses.
    pub set4: String,
    /// The kernel's set of IPv6 networks.
    pub set6: String,
    /// The prefix length that an IPv6 client is banned by.
    pub prefix6: u8,
}

/// How the lists are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolver {
    /// The longest that a message waits for all lists together.
    pub limit: Duration,
    /// Nameservers; none: those in `/etc/resolv.conf`.
    pub nameservers: Vec<SocketAddr>,
}

/// The longest `lookup.limit`: courieresmtpd's own client would not wait longer.
const MAX_LIMIT: Duration = Duration::from_secs(30);

/// Checks what serde could not.
pub fn check(text: &str, file: File) -> Result<Config, Problem> {
    let check = Check { text };
    let grace = check.duration(
        "grace",
        &file.grace,
        Duration::ZERO..=Duration::from_secs(60),
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
        block_variables: check.variables(&file.block_variables)?,
        exempt_recipients: check.recipients(&file.exempt_recipients)?,
        kill: check.one_of(
            "kill",
            &file.kill,
            &[
                ("always", KillPolicy::Always),
                ("pressure", KillPolicy::Pressure { grace }),
            ],
        )?,
        allow: file
            .allow
            .networks
            .iter()
            .map(|n| check.network(n))
            .collect::<Result<_, _>>()?,
        guard: check.guard(&file.guard)?,
        ban: check.ban(&file.ban)?,
        reply: check.reply(&file.reply)?,
        resolver: Resolver {
            limit: check.duration(
                "lookup.limit",
                &file.lookup.limit,
                Duration::from_millis(100)..=MAX_LIMIT,
            )?,
            nameservers: file
                .lookup
                .nameservers
                .iter()
                .map(|server| check.nameserver(server))
                .collect::<Result<_, _>>()?,
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
        zones: check.zones(file.dnsbl)?,
    })
}

/// The text that problems are located in.
struct Check<'a> {
    text: &'a str,
}

impl Check<'_> {
    fn wrong<T>(&self, span: Range<usize>, message: impl Into<String>) -> Result<T, Problem> {
        Err(Problem::at(self.text, span, message))
    }

    fn one_of<T: Copy>(
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

    fn duration(
        &self,
        key: &str,
        value: &Spanned<String>,
        range: RangeInclusive<Duration>,
    ) -> Result<Duration, Problem> {
        let Ok(duration) = humantime::parse_duration(value.get_ref()) else {
            return self.wrong(
                value.span(),
                format!(
                    "{key}: {:?} is no duration, expected for example \"1h\", \"90s\" or \"1h 30m\"",
                    value.get_ref()
                ),
            );
        };
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

    fn ports(&self, ports: &Spanned<Vec<u16>>) -> Result<Vec<u16>, Problem> {
        if ports.get_ref().is_empty() {
            return self.wrong(ports.span(), "ports: expected at least one TCP port");
        }
        if ports.get_ref().contains(&0) {
            return self.wrong(ports.span(), "ports: 0 is no TCP port, expected 1 to 65535");
        }
        // The firewall's rule names them (iptables-extensions(8), multiport).
        if ports.get_ref().len() > 15 {
            return self.wrong(ports.span(), "ports: expected at most 15 TCP ports");
        }
        Ok(ports.get_ref().clone())
    }

    fn variables(&self, variables: &[Spanned<String>]) -> Result<Vec<String>, Problem> {
        for variable in variables {
            let name = variable.get_ref();
            let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if name.is_empty() || !name.chars().all(fits) {
                return self.wrong(
                    variable.span(),
                    format!("block-variables: {name:?} is no name of an environment variable"),
                );
            }
        }
        Ok(variables
            .iter()
            .map(|variable| variable.get_ref().clone())
            .collect())
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

    fn network(&self, value: &Spanned<String>) -> Result<IpNetwork, Problem> {
        let text = value.get_ref();
        let Ok(network) = text.parse::<IpNetwork>() else {
            return self.wrong(
                value.span(),
                format!(
                    "allow.networks: {text:?} is no network, expected for example \"10.0.0.0/8\" or \"2001:db8::1\""
                ),
            );
        };
        if network.ip() == network.network() {
            return Ok(network);
        }
        self.wrong(
            value.span(),
            format!(
                "allow.networks: {text:?} has host bits set, expected \"{}/{}\"",
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
            high: high.into(),
            low: low.into(),
        };
        Ok(guard.enabled.then_some(marks))
    }

    fn ban(&self, ban: &file::Ban) -> Result<Ban, Problem> {
        let longest = Duration::from_secs(MAX_BAN_SECONDS.into());
        let time = self.duration("ban.time", &ban.time, Duration::from_secs(1)..=longest)?;
        for (key, set) in [("set4", &ban.set4), ("set6", &ban.set6)] {
            let name = set.get_ref();
            let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if !(1..=MAX_SET_NAME).contains(&name.len()) || !name.chars().all(fits) {
                return self.wrong(
                    set.span(),
                    format!(
                        "ban.{key}: {name:?} is no name of a set, expected 1 to {MAX_SET_NAME} letters, digits, '-', '_' or '.'"
                    ),
                );
            }
        }
        if ban.set4.get_ref() == ban.set6.get_ref() {
            return self.wrong(
                ban.set6.span(),
                format!(
                    "ban.set6: {:?} is the name of the IPv4 set already, expected another",
                    ban.set6.get_ref()
                ),
            );
        }
        let prefix6 = *ban.prefix6.get_ref();
        if !(48..=128).contains(&prefix6) {
            return self.wrong(
                ban.prefix6.span(),
                format!("ban.prefix6: {prefix6} is out of range, expected 48 to 128"),
            );
        }
        Ok(Ban {
            // In range by the check above.
            seconds: u32::try_from(time.as_secs()).unwrap_or(MAX_BAN_SECONDS),
            set4: ban.set4.get_ref().clone(),
            set6: ban.set6.get_ref().clone(),
            prefix6,
        })
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

    fn zones(&self, lists: Vec<file::Dnsbl>) -> Result<Vec<Zone>, Problem> {
        let mut zones: Vec<Zone> = Vec::new();
        for list in lists {
            let written = list.zone.get_ref();
            let Some(mut zone) = Zone::new(written) else {
                let shown = without_keys(written);
                return self.wrong(
                    list.zone.span(),
                    format!("dnsbl.zone: {shown:?} is no domain name"),
                );
            };
            if zones.iter().any(|other| other.origin() == zone.origin()) {
                let shown = without_keys(written);
                return self.wrong(
                    list.zone.span(),
                    format!("dnsbl.zone: {shown:?} stands here twice"),
                );
            }
            if let Some(name) = &list.name {
                let fits = |c: char| c.is_ascii_graphic() && !",[]".contains(c);
                if !(1..=64).contains(&name.get_ref().len()) || !name.get_ref().chars().all(fits) {
                    return self.wrong(
                        name.span(),
                        "dnsbl.name: expected 1 to 64 printable ASCII characters without space, comma or bracket",
                    );
                }
                zone = zone.named(name.get_ref());
            }
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
            zones.push(
                zone.with_codes(self.codes(&list.codes)?)
                    .asked(list.ipv4, list.ipv6),
            );
        }
        Ok(zones)
    }

    fn codes(&self, codes: &Spanned<Vec<Spanned<String>>>) -> Result<Codes, Problem> {
        if codes.get_ref().is_empty() {
            return self.wrong(
                codes.span(),
                "dnsbl.codes: expected at least one address or range",
            );
        }
        let mut all = Codes::default();
        for code in codes.get_ref() {
            let text = code.get_ref();
            if let Err(error) = all.add(text) {
                let message = match error {
                    CodesError::NoRange => format!(
                        "dnsbl.codes: {text:?} is no range of addresses in 127.0.0.0/8, expected for example \"127.0.0.2\" or \"127.0.0.4-127.0.0.7\""
                    ),
                    CodesError::Errors => format!(
                        "dnsbl.codes: {text:?} reaches into 127.255.255.0/24, which are errors and never listings"
                    ),
                };
                return self.wrong(code.span(), message);
            }
        }
        Ok(all)
    }
}

fn printable(c: char) -> bool {
    c == ' ' || c.is_ascii_graphic()
}
