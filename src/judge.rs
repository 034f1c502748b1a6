//! Evidence in, sentence out. No clock, no I/O, no memory.

use std::fmt;

use rblfilter_warden::protected::Protection;

use crate::config::Config;
use crate::courier::control_file::Envelope;
use crate::courier::session::{Session, Verdict};
use crate::dnsbl::Listing;

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

/// What happens to a listed client at the end of data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conviction {
    /// The list that names the client.
    pub listing: Listing,
    /// Whether its address is banned; its session is ended in any case.
    pub ban: bool,
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

/// The sentence for a client that nothing exempts and a list names. The
/// packets of a proxied session come from the proxy, so a ban of the client
/// would stop nothing, and one of the proxy everything.
#[must_use]
pub fn convict(session: &Session, listing: Listing) -> Conviction {
    Conviction {
        listing,
        ban: !session.proxied,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn session() -> Session {
        Session {
            client: "127.66.1.2".parse().unwrap(),
            client_port: 4711,
            local_port: 25,
            relay_client: false,
            may_log_in: false,
            proxied: false,
            slots: Some(300),
            verdict: Verdict::None,
        }
    }

    fn listing() -> Listing {
        Listing {
            zone: "bl.test".into(),
            code: None,
            lookup_url: String::new(),
        }
    }

    #[test]
    fn whoever_is_trusted_is_exempt() {
        let config = config::parse("").unwrap();
        let plain = Envelope::default();
        let listed = Session {
            verdict: Verdict::Listed(listing()),
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
    fn a_proxied_client_is_never_banned() {
        assert!(convict(&session(), listing()).ban);
        assert!(
            !convict(
                &Session {
                    proxied: true,
                    ..session()
                },
                listing()
            )
            .ban
        );
    }
}
