//! The open sessions, as `rblfilter top` is told of them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The most sessions that are told, the oldest first.
pub const MOST: usize = 1000;

/// The open sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Sessions {
    /// How many there are.
    pub total: usize,
    /// The oldest of them, [`MOST`] at most.
    pub sessions: Vec<Session>,
}

/// An open session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Session {
    /// Its `courieresmtpd`.
    pub pid: i32,
    /// The client.
    pub client: IpAddr,
    /// The client's port.
    pub port: u16,
    /// The port that it connected to.
    pub local_port: u16,
    /// How long ago it was seen first, in seconds.
    pub age: u64,
    /// How far it is.
    pub state: State,
    /// What was decided.
    pub verdict: Verdict,
    /// The weightiest list that names the client, where one does.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub zone: String,
}

/// How far a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It was there before the filter saw it.
    Found,
    /// No message of it has reached the filter socket.
    Open,
    /// One has.
    Message,
    /// It is being ended.
    Ending,
}

/// What was decided of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Nothing yet.
    #[default]
    Judging,
    /// The lists do not matter.
    Exempt,
    /// The lists have nothing against the client, or not enough.
    Pass,
    /// Its message is refused with a text.
    Reject,
    /// It is ended, and banned.
    Ban,
}
