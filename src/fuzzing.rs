//! What the fuzz targets (`fuzz/`) need of private rooms; no part of the
//! library.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use hickory_resolver::proto::op::Message;
use hickory_resolver::proto::rr::{Name, RData};

use crate::cli::{list, status, top};
use crate::control::Entry;
use crate::dnsbl::Records;
use crate::dnsbl::resolver::of_name;
use crate::guard::sockets::{self, Connection};
use crate::sessions::Sessions;
use crate::status::Status;

pub use hickory_resolver::proto;

/// The connections in a datagram of sock_diag, and whether the answer ends
/// with it.
///
/// # Errors
/// Where it is no such datagram, or an error of the kernel's.
pub fn connections(datagram: &[u8], single: bool) -> io::Result<(Vec<Connection>, bool)> {
    let mut all = Vec::new();
    let ends = sockets::read(datagram, single, &mut |connection| all.push(connection))?;
    Ok((all, ends))
}

/// A nameserver's answer.
#[derive(Debug)]
pub struct DnsAnswer(Message);

impl DnsAnswer {
    /// The answer in `datagram`, where it is one.
    #[must_use]
    pub fn read(datagram: &[u8]) -> Option<Self> {
        Message::from_vec(datagram).ok().map(Self)
    }

    /// The name of its first record.
    #[must_use]
    pub fn first(&self) -> Option<&Name> {
        self.0.answers.first().map(|record| &record.name)
    }

    /// Records in its answer section.
    #[must_use]
    pub fn records(&self) -> usize {
        self.0.answers.len()
    }

    /// The addresses of `name`.
    #[must_use]
    pub fn addresses(&self, name: &Name) -> Records<Ipv4Addr> {
        of_name(name, &self.0.answers, |data| match data {
            RData::A(address) => Some(address.0),
            _ => None,
        })
    }

    /// The texts of `name`.
    #[must_use]
    pub fn texts(&self, name: &Name) -> Records<Vec<u8>> {
        of_name(name, &self.0.answers, |data| match data {
            RData::TXT(text) => Some(text.txt_data.concat()),
            _ => None,
        })
    }
}

/// Records, as a nameserver tells them.
#[must_use]
pub fn records<T>(data: Vec<T>, ttl: u32) -> Records<T> {
    Records {
        data,
        ttl: Some(Duration::from_secs(ttl.into())),
    }
}

/// The page that `rblfilter status` shows.
#[must_use]
pub fn page(status: &Status) -> String {
    status::page_of(status)
}

/// The rows that `rblfilter top` shows of sessions.
#[must_use]
pub fn rows(sessions: Sessions) -> Vec<String> {
    top::rows_of(sessions)
}

/// The line that `rblfilter list` shows for a network.
#[must_use]
pub fn shown(entry: &Entry) -> String {
    list::line(entry)
}
