//! A host where all is well, and what can be changed of it.

use std::net::IpAddr;
use std::path::PathBuf;

use crate::config;
use crate::courier::esmtpd::Daemons;
use crate::courier::paths::Paths;
use crate::doctor::facts::*;
use crate::status::{Degraded, Health, List, Sandbox, Status, Walls};

pub(super) const UID: u32 = 110;
pub(super) const GID: u32 = 112;
pub(super) const ESMTPD: &str = "PORT=smtp\nMAXDAEMONS=40\nMAXPERC=5\nMAXPERIP=5\nTCPDOPTS=-nodnslookup\nBLACKLISTS=\nPIDFILE=/run/courier/esmtpd.pid\n";
pub(super) const TOML: &str = "[[dnsbl]]\nzone = \"bl.test\"\n";
pub(super) const MOUNTS: &str = "22 27 0:21 / /proc rw - proc proc rw\n";

pub(super) fn file(path: PathBuf, uid: u32, gid: u32, mode: u32) -> File {
    File {
        path,
        uid,
        gid,
        mode,
    }
}

pub(super) fn process(pid: i32, name: &str) -> Process {
    Process {
        pid,
        name: name.into(),
        replaced: Ok(false),
        no_new_privs: Some(false),
        bounding: Some(u64::MAX),
        open_files: Some(524_288),
        memory: None,
        mounts: Ok(MOUNTS.into()),
    }
}

pub(super) fn list(name: &str, family: &str, health: Health) -> List {
    List {
        name: name.into(),
        allows: false,
        family: family.into(),
        health,
        passed: Some(5),
    }
}

pub(super) fn status() -> Status {
    let walls = Walls {
        capabilities: true,
        no_new_privs: true,
        seccomp: true,
        landlock: 7,
    };
    Status {
        version: env!("CARGO_PKG_VERSION").into(),
        mode: "enforce".into(),
        watch: "events".into(),
        lists: vec![
            list("bl.test", "ipv4", Health::Believed),
            list("bl.test", "ipv6", Health::Believed),
        ],
        sandbox: Sandbox {
            worker: walls.clone(),
            warden: Some(walls),
        },
        ..Status::default()
    }
}

/// All is well.
pub(super) fn healthy() -> Facts {
    let paths = Paths::from_env();
    let program = paths.libexecdir.join("filters/rblfilter");
    let of = |file: File| Ok(Some(file));
    Facts {
        root: true,
        systemd: false,
        courier_ids: Some((UID, GID)),
        install: Install {
            filter: of(file(program.clone(), 0, 0, 0o755)),
            link: Ok(Some(program)),
            warden: of(file(paths.warden(), 0, GID, 0o750)),
            capability: Ok(true),
            nosuid: Ok(false),
            folders: vec![file(paths.libexecdir.clone(), 0, 0, 0o755)],
            state: of(file(paths.state(), UID, GID, 0o750)),
            socket: of(file(
                paths.localstatedir.join("allfilters/rblfilter"),
                UID,
                GID,
                0o660,
            )),
            boot_units: Some(Vec::new()),
            unit: Vec::new(),
        },
        config: ConfigFile {
            path: paths.config(),
            read: Ok(config::parse(TOML).unwrap()),
            installed: Ok(()),
            file: of(file(paths.config(), 0, GID, 0o640)),
            keyed: false,
            age: Some(60),
        },
        courier: Courier {
            there: true,
            enablefiltering: Ok(Some("esmtp\n".into())),
            daemons: Ok(daemons(ESMTPD)),
            listeners: vec![listener(ESMTPD)],
            courierfilter: Some(process(10, "courierfilter")),
            processes: vec![process(11, "rblfilter"), process(12, "rblfilter-warde")],
            others: Vec::new(),
        },
        firewall: Some(Ok(Vec::new())),
        dns: Dns {
            nameservers: Ok(vec!["127.0.0.1".parse().unwrap()]),
            named_in: "/etc/resolv.conf".into(),
            answered: vec![("127.0.0.1".parse().unwrap(), Ok(()))],
            tested: Vec::new(),
            exchangers: vec![(
                "lab.test".into(),
                Ok(vec![("mx.lab.test".into(), vec![own()])]),
            )],
            domains_left: 0,
            own: vec![own()],
        },
        filter: Filter::Runs(Box::new(status())),
        host: Host {
            kernel: Ok("6.1.0-18-amd64".into()),
            pidfd: Ok(()),
            mounts: Ok(MOUNTS.into()),
            synchronised: Ok(true),
            now: 1_800_000_000,
            last_seen: Ok(Some(1_799_999_990)),
            log: Ok(()),
            free: Ok((1 << 40, 1 << 30)),
            ipv6: true,
        },
        paths,
    }
}

pub(super) fn own() -> IpAddr {
    "203.0.113.1".parse().unwrap()
}

pub(super) fn daemons(text: &str) -> Daemons {
    Daemons::of_texts(&[("esmtpd", text)])
}

/// One that was started with this file.
pub(super) fn listener(text: &str) -> Listener {
    let daemons = daemons(text);
    Listener {
        name: "esmtpd".into(),
        options: daemons.all[0].options(),
        logins: Ok(None),
        proxied: false,
    }
}

/// The daemon's file says this beside, and it was started with it.
pub(super) fn esmtpd(facts: &mut Facts, more: &str) {
    let text = format!("{ESMTPD}{more}\n");
    facts.courier.daemons = Ok(daemons(&text));
    facts.courier.listeners = vec![listener(&text)];
}

pub(super) fn toml(facts: &mut Facts, text: &str) {
    facts.config.read = Ok(config::parse(text).unwrap());
}

pub(super) fn running(facts: &mut Facts) -> &mut Status {
    match &mut facts.filter {
        Filter::Runs(status) => status,
        _ => unreachable!("it runs"),
    }
}

pub(super) fn degraded(facts: &mut Facts, what: &str, name: &str, reason: &str) {
    running(facts).degraded.push(Degraded {
        what: what.into(),
        name: name.into(),
        age: 1,
        reason: reason.into(),
        advice: "do this".into(),
    });
}
