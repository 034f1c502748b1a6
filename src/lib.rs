//! rblfilter: a global mail filter for the Courier MTA.
//!
//! It ends the SMTP sessions of clients that DNS lists name, and shuts their
//! addresses out in the kernel, so that they do not use up the server's
//! connection slots. Whatever of ours fails, mail flows.
//!
//! Data goes one way, left to right:
//!
//! ```text
//! courier (who is connected) → dnsbl (what is known) → judge (sentence) → enforce, reply, log
//! ```
//!
//! - [`config`]: file → raw model → checked model.
//! - [`courier`]: all that is Courier's: sockets, control files, processes.
//! - [`watch`]: sessions, seen when they connect.
//! - [`gate`]: clients, judged at the first packet of a connection.
//! - [`guard`]: the slots, which must not run out; [`senders`]: who has
//!   delivered mail.
//! - [`dnsbl`]: the DNS lists.
//! - [`judge`]: evidence in, sentence out.
//! - [`enforce`]: the ban and the kill; [`reply`]: the 554; [`store`]: the bans
//!   that outlive a restart.
//! - [`duration`]: how long, as an admin writes it.
//! - [`daemon`]: start, service and stop of the filter.
//! - [`degraded`], [`log`], [`metrics`], [`latency`]: what does not work, what is
//!   told of it, what is counted, how long it takes.
//! - [`cli`]: the admin's commands; [`control`]: what they ask of the running
//!   filter; [`status`], [`sessions`], [`history`]: how it is, and was; [`why`]: all
//!   that is known of a client; [`doctor`]: what makes the filter useless or
//!   dangerous; [`firewall`]: the rules they set up.
//! - [`sys`]: the only unsafe code.

pub mod cli;
pub mod config;
pub mod control;
pub mod courier;
pub mod daemon;
pub mod degraded;
pub mod dnsbl;
pub mod doctor;
pub mod duration;
pub mod enforce;
pub mod firewall;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod gate;
pub mod guard;
pub mod history;
pub mod judge;
pub mod latency;
pub mod log;
pub mod metrics;
pub mod place;
pub mod reply;
pub mod report;
pub mod senders;
pub mod sessions;
pub mod status;
pub mod store;
pub mod sys;
pub mod watch;
pub mod why;
