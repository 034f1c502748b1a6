//! What was seen of the host, Courier and the filter: plain data, in which each
//! thing that could not be looked at says why.

use std::net::IpAddr;
use std::path::PathBuf;

use crate::config::Config;
use crate::courier::esmtpd::Daemons;
use crate::courier::paths::Paths;
use crate::courier::tcpd::Options;
use crate::status::{List, Status};

/// What was seen, or why it could not be.
pub type Seen<T> = Result<T, String>;

/// Everything.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Where Courier is.
    pub paths: Paths,
    /// Whether root looks.
    pub root: bool,
    /// Whether systemd is at work here.
    pub systemd: bool,
    /// Courier's user and group.
    pub courier_ids: Option<(u32, u32)>,
    /// Programs, links and folders.
    pub install: Install,
    /// What the file says.
    pub config: ConfigFile,
    /// Courier's settings and processes.
    pub courier: Courier,
    /// What `firewall check` says; `None`: it was not asked.
    pub firewall: Option<Seen<Vec<String>>>,
    /// Nameservers, lists and MX hosts.
    pub dns: Dns,
    /// The filter's own word.
    pub filter: Filter,
    /// The host.
    pub host: Host,
}

/// A file, folder or socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Where.
    pub path: PathBuf,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its permissions, the lowest twelve bits of the mode.
    pub mode: u32,
}

/// Programs, links and folders; `None` where one is not there.
#[derive(Clone, Debug)]
pub struct Install {
    /// The filter's program.
    pub filter: Seen<Option<File>>,
    /// Where the link in `filters/active` leads; the link may be broken.
    pub link: Seen<Option<PathBuf>>,
    /// The warden's program.
    pub warden: Seen<Option<File>>,
    /// Whether it has the file capability.
    pub capability: Seen<bool>,
    /// Whether its file system is mounted nosuid.
    pub nosuid: Seen<bool>,
    /// The folders of the programs.
    pub folders: Vec<File>,
    /// The folder of what is kept.
    pub state: Seen<Option<File>>,
    /// The filter's socket.
    pub socket: Seen<Option<File>>,
    /// Which of the two units are not enabled; `None`: this host has no systemd.
    pub boot_units: Option<Vec<&'static str>>,
    /// What systemd says of courierfilter.service, `NAME=value`.
    pub unit: Vec<(String, String)>,
}

/// rblfilter.toml.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    /// Where.
    pub path: PathBuf,
    /// What it says.
    pub read: Result<Config, ConfigError>,
    /// What the warden and the filter have against its place and its owner.
    pub installed: Seen<()>,
    /// Its owner and mode.
    pub file: Seen<Option<File>>,
    /// Whether a zone in it (not in what it includes) holds a key.
    pub keyed: bool,
    /// How long it has been as it is, in seconds.
    pub age: Option<u64>,
}

/// Why there is no configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// In words.
    pub text: String,
    /// Whether it is there, and not for this user.
    pub denied: bool,
}

/// Courier.
#[derive(Clone, Debug)]
pub struct Courier {
    /// Whether its configuration folder is there.
    pub there: bool,
    /// What stands in `enablefiltering`.
    pub enablefiltering: Seen<Option<String>>,
    /// The settings of its SMTP daemons.
    pub daemons: Seen<Daemons>,
    /// The couriertcpds that run.
    pub listeners: Vec<Listener>,
    /// courierfilter, where it runs.
    pub courierfilter: Option<Process>,
    /// The filter's processes below it.
    pub processes: Vec<Process>,
    /// Other filters in `filters/active`.
    pub others: Vec<String>,
}

/// A couriertcpd that runs.
#[derive(Clone, Debug)]
pub struct Listener {
    /// The name of its pid file, without its end.
    pub name: String,
    /// Its options.
    pub options: Options,
    /// The variable by which clients may log in, in its own environment.
    pub logins: Seen<Option<&'static str>>,
    /// Whether one of its sessions came by a proxy.
    pub proxied: bool,
}

/// What the kernel says of a process.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// Its name.
    pub name: String,
    /// Whether its program's file has been replaced.
    pub replaced: Seen<bool>,
    /// Whether it can gain no privileges by an exec.
    pub no_new_privs: Option<bool>,
    /// The capabilities that it and what it starts may have, as a mask.
    pub bounding: Option<u64>,
    /// Its hard limit of open files; `None`: not known, or none.
    pub open_files: Option<u64>,
    /// The memory limit of its control groups, in bytes.
    pub memory: Option<u64>,
    /// The mounts that it sees, as `/proc/PID/mountinfo` has them.
    pub mounts: Seen<String>,
}

/// Nameservers, lists, MX hosts.
#[derive(Clone, Debug)]
pub struct Dns {
    /// The nameservers in use, those behind systemd-resolved's stub too.
    pub nameservers: Seen<Vec<IpAddr>>,
    /// Where they are named.
    pub named_in: String,
    /// Those that were asked, and why one did not answer.
    pub answered: Vec<(IpAddr, Seen<()>)>,
    /// The lists as this command tested them, where the filter does not run, and why one failed.
    pub tested: Vec<(List, String)>,
    /// Our own domains' MX hosts, and their addresses; or why they are not known.
    pub exchangers: Vec<(String, Seen<Vec<Exchanger>>)>,
    /// Domains of ours that were not looked at, as there are so many.
    pub domains_left: usize,
    /// The host's own addresses.
    pub own: Vec<IpAddr>,
}

/// An MX host and its addresses.
pub type Exchanger = (String, Vec<IpAddr>);

/// What the running filter said.
#[derive(Clone, Debug)]
pub enum Filter {
    /// How it is.
    Runs(Box<Status>),
    /// Nobody listens.
    Stopped,
    /// It could not be asked.
    Unasked(String),
    /// It did not answer.
    Silent(String),
}

impl Filter {
    /// How it is, where it said.
    #[must_use]
    pub fn status(&self) -> Option<&Status> {
        match self {
            Self::Runs(status) => Some(status),
            _ => None,
        }
    }
}

/// The host.
#[derive(Clone, Debug)]
pub struct Host {
    /// The kernel's release, `6.1.0-18-amd64`.
    pub kernel: Seen<String>,
    /// Whether it gives a pidfd.
    pub pidfd: Seen<()>,
    /// The mounts that this command sees.
    pub mounts: Seen<String>,
    /// Whether somebody keeps the clock right.
    pub synchronised: Seen<bool>,
    /// Seconds since 1970.
    pub now: u64,
    /// The time that stands in the file of bans.
    pub last_seen: Seen<Option<u64>>,
    /// Whether syslogd takes lines.
    pub log: Seen<()>,
    /// What is free for the filter's state: bytes and files.
    pub free: Seen<(u64, u64)>,
    /// Whether it has addresses of IPv6 beside its own link's.
    pub ipv6: bool,
}
