//! Looking: each part in a thread of its own, none waited for beyond a limit, so
//! that a dead nameserver, a file system that hangs or a locked firewall costs
//! the rest nothing.

mod courier;
mod dns;
mod files;
mod host;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::geteuid;

use super::facts::{ConfigError, ConfigFile, Dns, Facts, Filter, Seen};
use crate::config::{self, Config};
use crate::courier::paths::Paths;
use crate::firewall;
use crate::status::Health;

#[cfg(test)]
pub(super) use files::unseen as unseen_install;

/// How long the filter is waited for before the rest begins, and then for the end
/// of its lists' first tests.
const FILTER_TIME: Duration = Duration::from_secs(4);
const TESTS_TIME: Duration = Duration::from_secs(6);
const AGAIN: Duration = Duration::from_millis(200);
/// How long all the rest may take.
const TIME: Duration = Duration::from_secs(9);

/// A part that is being looked at.
struct Pending<T>(Receiver<T>);

impl<T: Send + 'static> Pending<T> {
    fn begin(look: impl FnOnce() -> T + Send + 'static) -> Self {
        let (sender, receiver) = channel();
        thread::spawn(move || {
            // Nobody waits for one that is late.
            let _ = sender.send(look());
        });
        Self(receiver)
    }

    fn get(self, end: Instant) -> Seen<T> {
        let left = end.saturating_duration_since(Instant::now());
        self.0
            .recv_timeout(left)
            .map_err(|_| "it did not end in time".into())
    }
}

/// Looks at everything, for the configuration at `path`; `ask` asks the running
/// filter. Takes 13 seconds at most.
pub fn gather(path: &Path, ask: impl Fn() -> Filter + Send + Sync + 'static) -> Facts {
    let ask = Arc::new(ask);
    let paths = Paths::from_env();
    let filter = {
        let ask = Arc::clone(&ask);
        let asked = Pending::begin(move || ask());
        asked
            .get(Instant::now() + FILTER_TIME)
            .unwrap_or_else(Filter::Silent)
    };
    let end = Instant::now() + TIME;
    let tests = is_testing(&filter).then(|| Pending::begin(move || tested(&*ask)));
    let config = config(path, &paths, end);
    let root = geteuid().is_root();
    let wanted = config.read.as_ref().ok().cloned();

    let dns = {
        let sysconfdir = paths.sysconfdir.clone();
        let config = wanted.clone();
        let test = filter.status().is_none();
        Pending::begin(move || dns::look(config.as_ref(), &sysconfdir, test))
    };
    let firewall = wanted
        .filter(|_| root)
        .map(|config| Pending::begin(move || check(&config)));
    let courier = {
        let paths = paths.clone();
        Pending::begin(move || courier::look(&paths))
    };
    let install = {
        let paths = paths.clone();
        Pending::begin(move || files::look(&paths))
    };
    let host = {
        let paths = paths.clone();
        Pending::begin(move || host::look(&paths))
    };
    let ids = {
        let paths = paths.clone();
        Pending::begin(move || files::ids(&paths))
    };
    Facts {
        root,
        systemd: Path::new("/run/systemd/system").exists(),
        courier_ids: ids.get(end).ok().flatten(),
        install: install
            .get(end)
            .unwrap_or_else(|error| files::unseen(&error)),
        courier: courier
            .get(end)
            .unwrap_or_else(|error| courier::unseen(&error)),
        host: host.get(end).unwrap_or_else(|error| host::unseen(&error)),
        firewall: firewall.map(|pending| pending.get(end).and_then(|found| found)),
        dns: dns.get(end).unwrap_or_else(|error| Dns::unseen(&error)),
        filter: match tests.map(|pending| pending.get(end)) {
            Some(Ok(later @ Filter::Runs(_))) => later,
            _ => filter,
        },
        config,
        paths,
    }
}

fn is_testing(filter: &Filter) -> bool {
    filter.status().is_some_and(|status| {
        status
            .lists
            .iter()
            .any(|list| list.health == Health::Testing)
    })
}

/// How the filter is once its lists' first tests are over.
fn tested(ask: &impl Fn() -> Filter) -> Filter {
    let end = Instant::now() + TESTS_TIME;
    loop {
        let filter = ask();
        if !is_testing(&filter) || Instant::now() > end {
            return filter;
        }
        thread::sleep(AGAIN);
    }
}

fn check(config: &Config) -> Seen<Vec<String>> {
    firewall::check(config).map_err(|error| error.to_string())
}

/// The file may be on a file system that hangs, or something else than a file.
fn config(path: &Path, paths: &Paths, end: Instant) -> ConfigFile {
    let (of, installed) = (path.to_owned(), path == paths.config());
    let late = |error: String| ConfigFile {
        path: path.to_owned(),
        read: Err(ConfigError {
            text: format!("cannot read {}: {error}", path.display()),
            denied: false,
        }),
        installed: Ok(()),
        file: Err(error),
        keyed: false,
        age: None,
    };
    Pending::begin(move || read_config(of, installed))
        .get(end)
        .unwrap_or_else(late)
}

fn read_config(path: PathBuf, installed: bool) -> ConfigFile {
    let meta = std::fs::metadata(&path).ok();
    let age = meta.and_then(|meta| meta.modified().ok()?.elapsed().ok());
    ConfigFile {
        read: config::read(&path).map_err(|error| ConfigError {
            text: error.to_string(),
            denied: error.is_denied(),
        }),
        installed: if installed {
            config::check_installed(&path)
        } else {
            Ok(())
        },
        file: files::file(&path),
        keyed: std::fs::read_to_string(&path)
            .ok()
            .and_then(|text| config::parse(&text).ok())
            .is_some_and(|config| config.zones.iter().any(crate::dnsbl::Zone::holds_key)),
        age: age.map(|age| age.as_secs()),
        path,
    }
}
