//! Whose turn it is in a session: the client's, or Courier's.
//!
//! `courieresmtpd` waits for its client in poll(2) or select(2). It waits so
//! for authdaemond, too, but holds a socket to it then. It sleeps in the tarpit
//! (nanosleep(2)) and reads a pipe while `submit`, a filter behind it or a DNS
//! server is at work.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;

use super::process::{Handle, SESSION};

/// The sockets that `courieresmtpd` holds at all times: its client's (or, with
/// TLS, that to `couriertls`), and syslog's.
const OWN_SOCKETS: usize = 2;

/// Who is expected to do something next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// `courieresmtpd` waits for the client alone.
    Client,
    /// It is at work, or waits for a part of Courier.
    Courier,
    /// The kernel does not say.
    Unknown,
}

/// Whose turn it is in the session of this `courieresmtpd`, at this moment.
#[must_use]
pub fn of(esmtpd: &Handle) -> Turn {
    let pid = esmtpd.pid();
    let Ok(wchan) = esmtpd.read("wchan", SESSION) else {
        return Turn::Unknown;
    };
    let turn = match waits_in(&String::from_utf8_lossy(&wchan)) {
        Turn::Client if sockets(pid).is_none_or(|sockets| sockets > OWN_SOCKETS) => Turn::Courier,
        turn => turn,
    };
    // It lives, so what was read is its own.
    if esmtpd.is_alive() {
        turn
    } else {
        Turn::Courier
    }
}

/// What the name of the kernel function that a process sleeps in tells
/// (`/proc/PID/wchan`, proc(5)). "0" stands there for a process that runs, and
/// for every one on a kernel that does not tell.
fn waits_in(wchan: &str) -> Turn {
    if matches!(wchan, "" | "0") {
        Turn::Unknown
    } else if ["poll", "select"].iter().any(|call| wchan.contains(call)) {
        Turn::Client
    } else {
        Turn::Courier
    }
}

/// How many different sockets process `pid` holds.
fn sockets(pid: i32) -> Option<usize> {
    let links = fs::read_dir(format!("/proc/{pid}/fd"))
        .ok()?
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .map(OsString::from)
        .filter(|link| link.as_encoded_bytes().starts_with(b"socket:"));
    Some(links.collect::<HashSet<_>>().len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As seen on Linux 6.18, and under their older names.
    #[test]
    fn only_who_polls_waits_for_the_client() {
        for (wchan, expected) in [
            ("poll_schedule_timeout.constprop.0", Turn::Client),
            ("do_select", Turn::Client),
            ("do_sys_poll", Turn::Client),
            ("anon_pipe_read", Turn::Courier),
            ("pipe_read", Turn::Courier),
            ("hrtimer_nanosleep", Turn::Courier),
            ("unix_stream_read_generic", Turn::Courier),
            ("do_wait", Turn::Courier),
            ("0", Turn::Unknown),
            ("", Turn::Unknown),
        ] {
            assert_eq!(waits_in(wchan), expected, "{wchan}");
        }
    }
}
