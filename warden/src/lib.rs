//! What rblfilter and its warden share: the requests between them, the
//! networks that must never be banned, the part of the configuration that the
//! warden reads for itself, and the filters of system calls.
//!
//! This library is free of libipset, which is GPL-2.0-only: only the
//! `rblfilter-warden` executable links it (`ldd` shows it, a test checks it).

/// What the warden says once a second to whoever started it, as a message of
/// one byte on its descriptor 1, where that is a `SOCK_SEQPACKET` socket.
pub const BEAT: u8 = b'b';

pub mod bucket;
pub mod elements;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod layers;
pub mod listed;
pub mod neighbours;
pub mod netfilter;
pub mod packet;
pub mod policy;
pub mod protected;
pub mod question;
pub mod request;
pub mod seccomp;

/// Courier's configuration folder, as `courier-config` told it at build time
/// (`COURIER_SYSCONFDIR`), else Debian's.
pub const SYSCONFDIR: &str = match option_env!("COURIER_SYSCONFDIR") {
    Some(dir) => dir,
    None => "/etc/courier",
};

/// The configuration file's place below [`SYSCONFDIR`].
pub const CONFIG_FILE: &str = "filters/rblfilter.toml";

/// The argument with which the warden's executable is the gate.
pub const GATE_ROLE: &str = "gate";
