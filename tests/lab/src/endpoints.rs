//! Where a lab's servers listen: on the usual ports in a network namespace of its own, elsewhere out of everybody's way.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::Spaces;

/// The addresses and ports of one lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Endpoints {
    spaces: Spaces,
    /// The daemon that is called "port 25" everywhere.
    pub(crate) smtp: u16,
    /// The one that is called "port 587".
    pub(crate) msa: u16,
    /// Where DNS is answered, on port 53.
    pub(crate) dns: Ipv4Addr,
}

impl Endpoints {
    pub(crate) fn of(spaces: Spaces) -> Self {
        let (smtp, msa, dns) = match spaces {
            Spaces::Private => (25, 587, Ipv4Addr::LOCALHOST),
            Spaces::Machine => (2525, 2587, Ipv4Addr::new(127, 53, 0, 1)),
        };
        Self {
            spaces,
            smtp,
            msa,
            dns,
        }
    }

    /// All TCP ports.
    pub(crate) fn tcp(&self) -> [SocketAddr; 2] {
        [self.smtp, self.msa].map(|port| (Ipv4Addr::LOCALHOST, port).into())
    }

    /// What a client of this address connects to, where it is told one of the usual ports.
    pub(crate) fn server_for(&self, source: IpAddr, port: u16) -> SocketAddr {
        SocketAddr::new(server_for(source), self.port(port))
    }

    /// The lab's port in the place of a usual one.
    pub(crate) fn port(&self, usual: u16) -> u16 {
        match usual {
            25 => self.smtp,
            587 => self.msa,
            other => other,
        }
    }

    /// `PORT` of esmtpd (couriertcpd(1), "Multiple port list"): with an address where the network is shared.
    pub(crate) fn listen(&self, port: u16) -> String {
        match self.spaces {
            Spaces::Private => port.to_string(),
            Spaces::Machine => format!("127.0.0.1.{port}"),
        }
    }
}

/// The address that a client of this address connects to.
pub(crate) fn server_for(source: IpAddr) -> IpAddr {
    match source {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1]),
    }
}

/// Whether something listens on this TCP port in the lab, as pid 1 sees it; no connection is made.
pub(crate) fn is_listening(port: u16) -> bool {
    let port = format!(":{port:04X}");
    ["/proc/1/net/tcp", "/proc/1/net/tcp6"].iter().any(|table| {
        fs::read_to_string(table)
            .unwrap_or_default()
            .lines()
            .any(|line| {
                let mut fields = line.split_whitespace().skip(1);
                let (local, _, state) = (fields.next(), fields.next(), fields.next());
                state == Some("0A") && local.is_some_and(|local| local.ends_with(&port))
            })
    })
}
