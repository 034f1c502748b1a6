//! An SMTP session, as the environment of its `courieresmtpd` tells it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::{error, fmt};

use rblfilter_warden::policy::without_keys;

use crate::dnsbl::is_error;

/// Who is connected, and what couriertcpd already knows of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The client's address; an IPv4 client's as IPv4.
    pub client: IpAddr,
    /// The client's port.
    pub client_port: u16,
    /// The address that the client connected to, where it is told.
    pub local: Option<IpAddr>,
    /// The port that the client connected to.
    pub local_port: u16,
    /// `RELAYCLIENT` is set, be it empty: a client the admin trusts.
    pub relay_client: bool,
    /// A client may log in on this port: `ESMTPAUTH` or `ESMTPAUTH_TLS` is set
    /// and not empty.
    pub may_log_in: bool,
    /// The address is what a proxy told; the packets come from the proxy.
    pub proxied: bool,
    /// How many sessions couriertcpd serves at once, `MAXDAEMONS`.
    pub slots: Option<usize>,
    /// couriertcpd's own verdict.
    pub verdict: Verdict,
}

/// What couriertcpd's lists say (`-block` and `-allow`, couriertcpd(8)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was not asked, or found nothing.
    None,
    /// Allow-listed in this variable.
    Allowed(String),
    /// Listed, in each of these variables.
    Listed(Vec<Listed>),
}

/// One of couriertcpd's listings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The variable that tells of it.
    pub variable: String,
    /// The list's name as it may be shown; the variable's where it is not told.
    pub zone: String,
    /// The address that the list answered, where it is known.
    pub code: Option<Ipv4Addr>,
}

/// More than any `MAXDAEMONS`; what is beyond counts as unknown.
const MOST_SLOTS: usize = 1_000_000;

/// Why an environment is no session's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The variable is not there; just after exec, none is.
    Missing(&'static str),
    /// The variable's value is not what it should be.
    Malformed(&'static str),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(variable) => write!(f, "{variable} is not set"),
            Self::Malformed(variable) => write!(f, "{variable} has a value that cannot be"),
        }
    }
}

impl error::Error for Error {}

/// A process's environment at its exec.
#[derive(Debug)]
pub struct Environment<'a>(HashMap<&'a [u8], &'a [u8]>);

impl<'a> Environment<'a> {
    /// Reads the `NAME=VALUE` words of `/proc/PID/environ` (proc(5)), each ended
    /// by a NUL. Words without `=` are passed over; of two with the same name
    /// the first counts, as with getenv(3).
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Self {
        let mut variables = HashMap::with_capacity(96);
        for word in bytes.split(|byte| *byte == 0) {
            if let Some(at) = word.iter().position(|byte| *byte == b'=') {
                variables.entry(&word[..at]).or_insert(&word[at + 1..]);
            }
        }
        Self(variables)
    }

    fn get(&self, name: &str) -> Option<Cow<'a, str>> {
        self.0
            .get(name.as_bytes())
            .map(|value| String::from_utf8_lossy(value))
    }

    fn has_text(&self, name: &str) -> bool {
        self.0
            .get(name.as_bytes())
            .is_some_and(|value| !value.is_empty())
    }
}

/// Reads an address as Courier writes it: `::ffff:1.2.3.4` is IPv4.
#[must_use]
pub fn parse_address(text: &str) -> Option<IpAddr> {
    let text = text.split_once('%').map_or(text, |(address, _)| address);
    text.parse()
        .ok()
        .map(|address: IpAddr| address.to_canonical())
}

impl Session {
    /// The session that `environment` tells of; `block_variables` are those
    /// whose verdict counts.
    ///
    /// # Errors
    /// Where it does not say who is connected to what.
    pub fn from_environment(
        environment: &Environment<'_>,
        block_variables: &[String],
    ) -> Result<Self, Error> {
        let get = |name| environment.get(name).ok_or(Error::Missing(name));
        let port = |name| get(name)?.parse().map_err(|_| Error::Malformed(name));
        Ok(Self {
            client: parse_address(&get("TCPREMOTEIP")?).ok_or(Error::Malformed("TCPREMOTEIP"))?,
            client_port: port("TCPREMOTEPORT")?,
            local: environment
                .get("TCPLOCALIP")
                .and_then(|address| parse_address(&address)),
            local_port: port("TCPLOCALPORT")?,
            relay_client: environment.get("RELAYCLIENT").is_some(),
            may_log_in: environment.has_text("ESMTPAUTH") || environment.has_text("ESMTPAUTH_TLS"),
            proxied: environment
                .get("TCPREMOTEINFO")
                .is_some_and(|info| info.starts_with("proxy via")),
            slots: environment
                .get("MAXDAEMONS")
                .and_then(|slots| slots.parse().ok())
                .filter(|slots| (1..=MOST_SLOTS).contains(slots)),
            verdict: Verdict::from_environment(environment, block_variables),
        })
    }
}

impl Verdict {
    /// An allow list's word in any of the variables stands above the others'.
    fn from_environment(environment: &Environment<'_>, variables: &[String]) -> Self {
        let verdicts: Vec<Self> = variables
            .iter()
            .map(|variable| Self::of_variable(environment, variable))
            .collect();
        let allowed = |verdict: &&Self| matches!(verdict, Self::Allowed(_));
        if let Some(allowed) = verdicts.iter().find(allowed) {
            return allowed.clone();
        }
        let listed: Vec<Listed> = verdicts
            .into_iter()
            .flat_map(|verdict| match verdict {
                Self::Listed(listed) => listed,
                _ => Vec::new(),
            })
            .collect();
        if listed.is_empty() {
            Self::None
        } else {
            Self::Listed(listed)
        }
    }

    fn of_variable(environment: &Environment<'_>, variable: &str) -> Self {
        let text = environment.get(variable);
        let zone = environment.get(&format!("{variable}_ZONE"));
        let code = environment.get(&format!("{variable}_IP"));
        let listed = match (&text, &zone, &code) {
            (Some(text), _, _) if text.is_empty() => return Self::Allowed(variable.to_owned()),
            (Some(_), _, _) => true,
            // couriertcpd 1.0.16 sets these alone for a list without a message.
            (None, Some(_), Some(_)) => true,
            (None, _, _) => false,
        };
        let code: Option<Ipv4Addr> = code.and_then(|code| match parse_address(&code) {
            Some(IpAddr::V4(code)) => Some(code),
            _ => None,
        });
        // couriertcpd takes any answer for a listing unless it is told which.
        if !listed || code.is_some_and(is_error) {
            return Self::None;
        }
        Self::Listed(vec![Listed {
            variable: variable.to_owned(),
            zone: zone.map_or_else(|| variable.to_owned(), |zone| without_keys(&zone)),
            code,
        }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(extra: &[(&str, &str)]) -> Vec<(String, String)> {
        [
            ("TCPREMOTEIP", "::ffff:10.66.1.5"),
            ("TCPREMOTEPORT", "57519"),
            ("TCPLOCALIP", "::ffff:10.66.0.1"),
            ("TCPLOCALPORT", "25"),
            ("MAXDAEMONS", "300"),
        ]
        .iter()
        .chain(extra)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
    }

    fn read(environment: &[(String, String)], variables: &[String]) -> Result<Session, Error> {
        // What comes first counts, so what a test adds goes before the rest.
        let words = environment.iter().rev();
        let text: String = words
            .map(|(name, value)| format!("{name}={value}\0"))
            .collect();
        Session::from_environment(&Environment::parse(text.as_bytes()), variables)
    }

    fn session(extra: &[(&str, &str)]) -> Session {
        let variables = ["BLOCK".to_owned(), "BLOCK2".to_owned()];
        read(&environment(extra), &variables).unwrap()
    }

    fn listed_in(variable: &str, zone: &str, code: Option<&str>) -> Verdict {
        Verdict::Listed(vec![Listed {
            variable: variable.into(),
            zone: zone.into(),
            code: code.map(|code| code.parse().unwrap()),
        }])
    }

    fn listed(zone: &str, code: Option<&str>) -> Verdict {
        listed_in("BLOCK2", zone, code)
    }

    #[test]
    fn an_environment_is_a_session() {
        assert_eq!(
            session(&[]),
            Session {
                client: "10.66.1.5".parse().unwrap(),
                client_port: 57519,
                local: Some("10.66.0.1".parse().unwrap()),
                local_port: 25,
                relay_client: false,
                may_log_in: false,
                proxied: false,
                slots: Some(300),
                verdict: Verdict::None,
            }
        );
        assert!(session(&[("RELAYCLIENT", "")]).relay_client);
        assert!(session(&[("ESMTPAUTH_TLS", "PLAIN")]).may_log_in);
        assert!(!session(&[("ESMTPAUTH", ""), ("ESMTPAUTH_TLS", "")]).may_log_in);
        assert!(session(&[("TCPREMOTEINFO", "proxy via 10.0.0.1")]).proxied);
        assert_eq!(
            session(&[("TCPREMOTEIP", "fd00:66::1")]).client,
            "fd00:66::1".parse::<IpAddr>().unwrap()
        );
    }

    /// Each row of COURIER's table: variable set and not empty, set and empty,
    /// zone and address alone (1.0.16), none.
    #[test]
    fn couriertcpds_verdict_by_variable() {
        let zone = ("BLOCK2_ZONE", "bl.test");
        let code = ("BLOCK2_IP", "127.0.0.2");
        for (extra, expected) in [
            (vec![], Verdict::None),
            (
                vec![("BLOCK2", "Listed"), zone, code],
                listed("bl.test", Some("127.0.0.2")),
            ),
            (vec![("BLOCK2", "Listed")], listed("BLOCK2", None)),
            (
                vec![("BLOCK2", ""), zone, code],
                Verdict::Allowed("BLOCK2".into()),
            ),
            (vec![zone, code], listed("bl.test", Some("127.0.0.2"))),
            (vec![zone], Verdict::None),
            (vec![code], Verdict::None),
            (vec![("BLOCK3", "Listed")], Verdict::None),
            (
                vec![("BLOCK", "550 go away")],
                listed_in("BLOCK", "BLOCK", None),
            ),
            (
                vec![("BLOCK", ""), ("BLOCK2", "Listed"), zone, code],
                Verdict::Allowed("BLOCK".into()),
            ),
        ] {
            assert_eq!(session(&extra).verdict, expected, "{extra:?}");
        }
    }

    #[test]
    fn each_variable_that_lists_counts() {
        let both = session(&[("BLOCK", "a"), ("BLOCK2", "b")]).verdict;
        let Verdict::Listed(listed) = both else {
            panic!("{both:?}")
        };
        let variables: Vec<&str> = listed.iter().map(|l| l.variable.as_str()).collect();
        assert_eq!(variables, ["BLOCK", "BLOCK2"]);
    }

    #[test]
    fn an_error_code_is_no_verdict_of_couriertcpd_either() {
        for code in ["127.255.255.254", "10.0.0.1"] {
            let extra = [
                ("BLOCK", "Blacklisted"),
                ("BLOCK_ZONE", "bl.test"),
                ("BLOCK_IP", code),
            ];
            assert_eq!(session(&extra).verdict, Verdict::None, "{code}");
        }
    }

    #[test]
    fn a_key_in_couriertcpds_zone_is_not_shown() {
        let zone = "abcdefghijklmnopqrstuvwxyz.zen.dq.spamhaus.net";
        let extra = [
            ("BLOCK", "x"),
            ("BLOCK_ZONE", zone),
            ("BLOCK_IP", "127.0.0.2"),
        ];
        assert_eq!(
            session(&extra).verdict,
            listed_in("BLOCK", "*.zen.dq.spamhaus.net", Some("127.0.0.2"))
        );
    }

    #[test]
    fn an_environment_that_does_not_say_who_is_no_session() {
        let variables = [];
        let mut missing = environment(&[]);
        missing.retain(|(name, _)| name != "TCPREMOTEIP");
        assert_eq!(
            read(&missing, &variables),
            Err(Error::Missing("TCPREMOTEIP"))
        );
        for (name, value) in [
            ("TCPREMOTEIP", "x"),
            ("TCPLOCALPORT", "smtp"),
            ("TCPREMOTEPORT", "70000"),
        ] {
            let wrong = environment(&[(name, value)]);
            assert_eq!(read(&wrong, &variables), Err(Error::Malformed(name)));
        }
    }
}
