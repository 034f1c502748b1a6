//! The warden's own walls, built before it reads a byte of the worker: after
//! that it holds CAP_NET_ADMIN alone, gains nothing by an exec (which it cannot
//! do), opens no file but some to read, no socket but netlink's, and starts
//! nothing.
//!
//! Each layer is for itself: one that cannot be had (an old kernel, a
//! container) is told once, and the others are built all the same. What a layer
//! forbids fails as if the kernel did not have it; what only an attacker does
//! ends the process ([`rblfilter_warden::seccomp`]), which costs bans until the
//! next is started, and nobody's mail.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use caps::{CapSet, Capability};
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope, path_beneath_rules,
};
use nix::libc;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use rblfilter_warden::SYSCONFDIR;
use rblfilter_warden::layers::Layers;
use rblfilter_warden::neighbours::RESOLV_CONF;
use rblfilter_warden::policy::{Layer, Sandbox};
use rblfilter_warden::seccomp::{Allowed, BASE, BASE_OLD, Filters, Only, Threads};

use crate::{chain, say};

/// The newest Landlock that this was tried with.
const NEWEST: ABI = ABI::V7;
/// Descriptors: the standard ones, the worker's, the firewall's, and what is
/// opened for a moment.
const DESCRIPTORS: u64 = 64;

/// What the warden does beside [`BASE`]: it answers the worker, asks the kernel
/// over netlink, and reads files.
const CALLS: &[Allowed] = &[
    // A netlink socket is a socket of one of its protocols.
    (libc::SYS_socket, Only::Netlink(NETLINKS)),
    (libc::SYS_bind, Only::Any),
    (libc::SYS_getsockname, Only::Any),
    (libc::SYS_getsockopt, Only::Any),
    (libc::SYS_setsockopt, Only::Any),
    (libc::SYS_sendto, Only::Any),
    (libc::SYS_sendmsg, Only::Any),
    (libc::SYS_recvfrom, Only::Any),
    (libc::SYS_recvmsg, Only::Any),
    (libc::SYS_openat, Only::Without(2, WRITES)),
];

/// Sets and rules, addresses and routes, the events of processes: not what else
/// obeys its capability (XFRM, audit, generic netlink).
const NETLINKS: &[i32] = &[
    libc::NETLINK_NETFILTER,
    libc::NETLINK_ROUTE,
    libc::NETLINK_CONNECTOR,
];

/// What says that a file is opened to be written.
const WRITES: i32 = libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC;

/// The same, by calls that newer architectures do not have.
#[cfg(target_arch = "x86_64")]
const OLD_CALLS: &[Allowed] = &[(libc::SYS_open, Only::Without(1, WRITES))];
#[cfg(not(target_arch = "x86_64"))]
const OLD_CALLS: &[Allowed] = &[];

/// Builds all the layers that there are and `wanted`; says on standard error
/// which could not be had. The capability must have been raised before.
pub fn enter(wanted: Sandbox) -> Layers {
    let mut layers = Layers::default();
    for (name, bounded) in bound_resources() {
        told(name, bounded);
    }
    // Nobody of its user may look into it or take its descriptors.
    told("dumpable", prctl::set_dumpable(false));
    layers.capabilities = told("capabilities", only_net_admin());
    layers.no_new_privs = told("no_new_privs", prctl::set_no_new_privs());
    if wanted.landlock == Layer::Auto {
        match confine_files() {
            Ok(abi) => layers.landlock = abi,
            Err(error) => without("landlock", &*error),
        }
    }
    if wanted.seccomp == Layer::Auto {
        let filtered = Filters::new(&[BASE, BASE_OLD, CALLS, OLD_CALLS])
            .and_then(|filters| filters.install(Threads::This));
        layers.seccomp = told("seccomp", filtered);
    }
    layers
}

fn told<E: Error>(name: &str, done: Result<(), E>) -> bool {
    if let Err(error) = &done {
        without(name, error);
    }
    done.is_ok()
}

fn without(name: &str, error: &dyn Error) {
    let error = chain(error);
    say::line(format_args!("sandbox: without {name}: {error}"));
}

/// It opens few files, starts nothing, and leaves no image of itself behind.
fn bound_resources() -> Vec<(&'static str, nix::Result<()>)> {
    let bounds = vec![
        (
            "a limit of descriptors",
            Resource::RLIMIT_NOFILE,
            DESCRIPTORS,
        ),
        ("a limit of processes", Resource::RLIMIT_NPROC, 0),
        ("a limit of core files", Resource::RLIMIT_CORE, 0),
    ];
    let set = |(name, resource, bound)| (name, setrlimit(resource, bound, bound));
    bounds.into_iter().map(set).collect()
}

/// Leaves CAP_NET_ADMIN where it is, and nothing else anywhere. The bounding
/// set, which takes CAP_SETPCAP to be made smaller, means nothing under
/// no_new_privs.
fn only_net_admin() -> Result<(), caps::errors::CapsError> {
    // Old kernels have no ambient set.
    let _ = caps::clear(None, CapSet::Ambient);
    caps::clear(None, CapSet::Inheritable)?;
    let kept = [CapSet::Effective, CapSet::Permitted].map(|set| {
        let held = caps::read(None, set)?;
        caps::set(
            None,
            set,
            &held
                .into_iter()
                .filter(|capability| *capability == Capability::CAP_NET_ADMIN)
                .collect(),
        )
    });
    let mut bounding = caps::read(None, CapSet::Bounding)?;
    bounding.remove(&Capability::CAP_NET_ADMIN);
    for capability in bounding {
        if caps::drop(None, CapSet::Bounding, capability).is_err() {
            break;
        }
    }
    kept.into_iter().collect()
}

/// Has Landlock forbid all that it knows, but for reading what the warden
/// reads; its version.
fn confine_files() -> Result<u8, Box<dyn Error>> {
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .add_rules(path_beneath_rules(folders(), AccessFs::ReadFile))?
        .restrict_self()?;
    match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, _) => Err("the kernel has none".into()),
        (_, LandlockStatus::Available { effective_abi, .. }) => Ok(effective_abi.min(NEWEST) as u8),
        _ => Err("the kernel has none".into()),
    }
}

/// The folders of the files that the warden reads: its configuration, the
/// nameservers, routes. Folders, because a file that is replaced is another. Of
/// /proc the whole: what is below comes and goes, and Landlock itself forbids
/// to look into processes outside.
fn folders() -> Vec<PathBuf> {
    let resolv_conf = Path::new(RESOLV_CONF);
    let real = fs::canonicalize(resolv_conf).ok();
    let mut folders: Vec<PathBuf> = [Some(resolv_conf), real.as_deref()]
        .into_iter()
        .flatten()
        .filter_map(Path::parent)
        .map(Path::to_path_buf)
        .collect();
    folders.push(Path::new(SYSCONFDIR).join("filters"));
    folders.push("/proc".into());
    folders
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::ErrorKind;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use nix::errno::Errno;
    use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

    use super::*;

    /// Set in the process that is walled in; what it is to try.
    const TRY: &str = "RBLFILTER_TRY";

    fn can_open(family: AddressFamily, kind: SockType) -> Result<(), Errno> {
        socket(family, kind, SockFlag::SOCK_CLOEXEC, None).map(drop)
    }

    fn can_ask(protocol: SockProtocol) -> Result<(), Errno> {
        let (family, kind) = (AddressFamily::Netlink, SockType::Raw);
        socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol).map(drop)
    }

    /// Tries one thing behind the walls; it is refused, or ends the process.
    fn attempt(what: &str) {
        let layers = enter(Sandbox::default());
        assert!(layers.no_new_privs && layers.seccomp, "{layers:?}");
        match what {
            "its work" => {
                for path in ["/proc/net/route", "/etc/resolv.conf"] {
                    fs::read(path).unwrap();
                }
                can_open(AddressFamily::Netlink, SockType::Raw).unwrap();
                for protocol in [SockProtocol::NetlinkNetFilter, SockProtocol::NetlinkRoute] {
                    can_ask(protocol).unwrap();
                }
                assert!(nix::ifaddrs::getifaddrs().unwrap().count() > 0);
            }
            "other netlink" => {
                for protocol in [SockProtocol::NetlinkAudit, SockProtocol::NetlinkGeneric] {
                    assert_eq!(can_ask(protocol), Err(Errno::ENOSYS));
                }
            }
            "packets" => assert_eq!(
                can_open(AddressFamily::Packet, SockType::Raw),
                Err(Errno::ENOSYS)
            ),
            "the network" => assert_eq!(
                can_open(AddressFamily::Inet, SockType::Stream),
                Err(Errno::ENOSYS)
            ),
            "a unix socket" => assert_eq!(
                can_open(AddressFamily::Unix, SockType::Stream),
                Err(Errno::ENOSYS)
            ),
            "another file" => {
                let error = File::open("/usr/bin/env").unwrap_err();
                assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            }
            "to write" => {
                for path in ["/tmp/rblfilter-walls", "/proc/self/comm"] {
                    let error = File::options().append(true).create(true).open(path);
                    let error = error.unwrap_err().raw_os_error();
                    assert_eq!(error, Some(libc::ENOSYS), "{path}");
                }
            }
            "a program" => assert!(Command::new("/bin/true").spawn().is_err()),
            "a thread" => assert!(std::thread::Builder::new().spawn(|| ()).is_err()),
            "exec" => {
                let _ = nix::unistd::execv(c"/bin/true", &[c"true"]);
            }
            "chroot" => {
                let _ = nix::unistd::chroot("/");
            }
            other => panic!("{other}"),
        }
    }

    #[test]
    fn behind_the_walls_it_can_do_its_work_and_nothing_else() {
        if let Some(what) = std::env::var_os(TRY) {
            attempt(what.to_str().unwrap());
            return;
        }
        for (what, deadly) in [
            ("its work", false),
            ("packets", false),
            ("other netlink", false),
            ("the network", false),
            ("a unix socket", false),
            ("another file", false),
            ("to write", false),
            ("a program", false),
            ("a thread", false),
            ("exec", true),
            ("chroot", true),
        ] {
            let name = "behind_the_walls_it_can_do_its_work_and_nothing_else";
            let output = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", &format!("sandbox::tests::{name}"), "--nocapture"])
                .env(TRY, what)
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            if deadly {
                assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{what}: {said}");
            } else {
                assert!(output.status.success(), "{what}: {said}");
            }
        }
    }
}
