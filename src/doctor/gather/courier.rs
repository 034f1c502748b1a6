//! Courier's settings and processes.

use std::fs;
use std::io;
use std::path::Path;

use super::super::facts::{Courier, Listener, Process, Seen};
use super::super::texts;
use super::files::cannot;
use crate::courier::esmtpd::{Daemons, LOGINS};
use crate::courier::listener::{self, Listeners};
use crate::courier::paths::Paths;
use crate::courier::process::{self, comm, numbers};

/// The most that is looked at of a process's children, and of other filters.
const MOST: usize = 64;

pub(super) fn look(paths: &Paths) -> Courier {
    let courierfilter = process::courierfilter(paths).map(process);
    let mut processes = Vec::new();
    if let Some(parent) = &courierfilter {
        for pid in children(parent.pid) {
            if comm(pid) == "rblfilter" {
                processes.push(process(pid));
                processes.extend(children(pid).into_iter().map(process));
            }
        }
    }
    let others = fs::read_dir(paths.sysconfdir.join("filters/active"));
    let mut others: Vec<String> = others
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name != "rblfilter" && !name.starts_with('.'))
        .take(MOST)
        .collect();
    others.sort_unstable();
    Courier {
        there: paths.sysconfdir.is_dir(),
        enablefiltering: text(&paths.sysconfdir.join("enablefiltering")),
        daemons: Daemons::read(&paths.sysconfdir).map_err(|error| error.to_string()),
        listeners: listeners(paths),
        courierfilter,
        processes,
        others,
    }
}

pub(super) fn unseen(error: &str) -> Courier {
    Courier {
        there: true,
        enablefiltering: Err(error.into()),
        daemons: Err(error.into()),
        listeners: Vec::new(),
        courierfilter: None,
        processes: Vec::new(),
        others: Vec::new(),
    }
}

fn text(path: &Path) -> Seen<Option<String>> {
    match fs::read(path) {
        Ok(text) => Ok(Some(String::from_utf8_lossy(&text).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(cannot("read", path, error)),
    }
}

fn listeners(paths: &Paths) -> Vec<Listener> {
    let all = Listeners::new(paths.piddir.clone()).look();
    let mut all: Vec<Listener> = all
        .iter()
        .filter_map(|running| {
            let options = running.options()?;
            Some(Listener {
                name: listener::name(&options).unwrap_or_else(|| running.pid().to_string()),
                logins: logins(running.pid()),
                proxied: running.children().into_iter().take(MOST).any(is_proxied),
                options,
            })
        })
        .collect();
    all.sort_by(|one, other| one.name.cmp(&other.name));
    all
}

/// Whether the session `pid` came by a proxy, as couriertcpd tells it.
fn is_proxied(pid: i32) -> bool {
    let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let mut variables = environ.split(|byte| *byte == 0);
    variables.any(|variable| variable.starts_with(b"TCPREMOTEINFO=proxy via"))
}

/// The variable in the environment of process `pid` by which clients may log in.
fn logins(pid: i32) -> Seen<Option<&'static str>> {
    let environ = fs::read(format!("/proc/{pid}/environ"))
        .map_err(|error| format!("cannot read the environment of process {pid}: {error}"))?;
    let set = |name: &str| {
        environ.split(|byte| *byte == 0).any(|variable| {
            let value = variable
                .strip_prefix(name.as_bytes())
                .and_then(|rest| rest.strip_prefix(b"="));
            value.is_some_and(|value| !value.trim_ascii().is_empty())
        })
    };
    Ok(LOGINS.into_iter().find(|name| set(name)))
}

fn children(pid: i32) -> Vec<i32> {
    let text = fs::read(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    numbers(&text).take(MOST).collect()
}

fn process(pid: i32) -> Process {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}"));
    let status = read("status").unwrap_or_default();
    let fields = texts::fields(&status);
    let exe = fs::read_link(format!("/proc/{pid}/exe"));
    Process {
        pid,
        name: comm(pid),
        replaced: exe
            .map(|exe| exe.to_string_lossy().ends_with(" (deleted)"))
            .map_err(|error| format!("cannot read /proc/{pid}/exe: {error}")),
        no_new_privs: fields.get("NoNewPrivs").map(|value| *value == "1"),
        bounding: fields
            .get("CapBnd")
            .and_then(|mask| u64::from_str_radix(mask, 16).ok()),
        open_files: texts::open_files(&read("limits").unwrap_or_default()),
        memory: memory(&read("cgroup").unwrap_or_default()),
        mounts: read("mountinfo").map_err(|error| format!("/proc/{pid}/mountinfo: {error}")),
    }
}

/// The least limit of its control group and those above it, in bytes.
fn memory(cgroup: &str) -> Option<u64> {
    let path = texts::control_group(cgroup)?.trim_start_matches('/');
    let limit = |folder: &Path| {
        let text = fs::read_to_string(folder.join("memory.max")).ok()?;
        text.trim().parse().ok()
    };
    Path::new(path)
        .ancestors()
        .filter_map(|folder| limit(&Path::new("/sys/fs/cgroup").join(folder)))
        .min()
}
