//! rblfilter in the lab: installed by its own install.sh, started and stopped as an admin does it.
//!
//! In the machine's network namespace install.sh would make the sets and rules of the machine, so there the programs
//! are put in their places by hand, the same as it does, and nobody is kept out by the kernel.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::Group;

use crate::{Error, Lab, Spaces, wait_for};

const CONFIG: &str = "/etc/courier/filters/rblfilter.toml";
const FILTER: &str = "/usr/lib/courier/filters/rblfilter";
const WARDEN: &str = "/usr/lib/courier/rblfilter-warden";
const SOCKETS: [&str; 2] = [
    "/var/lib/courier/allfilters/rblfilter",
    "/var/lib/courier/filters/rblfilter",
];
/// The filter itself takes up to 11 s to stop: it answers what is open.
const LIMIT: Duration = Duration::from_secs(20);

/// What is to be installed.
#[derive(Debug, Clone)]
pub struct Product {
    /// install.sh of the checkout.
    pub installer: PathBuf,
    /// The folder with the built programs.
    pub programs: PathBuf,
}

impl Product {
    /// Installs rblfilter with the configuration `toml` and starts it. With [`Spaces::Machine`] there are no sets
    /// (`backend = "dry-run"`), and `ports` is the lab's, unless it says otherwise.
    ///
    /// # Errors
    /// If install.sh fails, with what it wrote; if it does not start.
    pub fn start(&self, lab: &Lab, toml: &str) -> Result<(), Error> {
        match lab.spaces() {
            Spaces::Private => self.install(lab, toml, &[]).map(drop),
            Spaces::Machine => {
                write_config(&for_machine(toml, lab.port()))?;
                self.put_by_hand(lab)?;
                self.filterctl_start(lab)
            }
        }
    }

    fn put_by_hand(&self, lab: &Lab) -> Result<(), Error> {
        for (name, place, mode, group) in [
            ("rblfilter", FILTER, "0755", "root"),
            ("rblfilter-warden", WARDEN, "0750", "courier"),
        ] {
            let program = self.programs.join(name);
            let program = program.to_string_lossy();
            lab.run_ok(&[
                "install", "-m", mode, "-o", "root", "-g", group, &program, place,
            ])?;
        }
        lab.run_ok(&["setcap", "cap_net_admin=p", WARDEN]).map(drop)
    }

    /// Runs install.sh with `options`, after it wrote the configuration `toml`; returns what install.sh said.
    ///
    /// # Errors
    /// If install.sh fails, with what it wrote.
    pub fn install(&self, lab: &Lab, toml: &str, options: &[&str]) -> Result<String, Error> {
        write_config(toml)?;
        self.install_again(lab, options)
    }

    /// Runs install.sh with `options`; returns what it said.
    ///
    /// # Errors
    /// If install.sh fails, with what it wrote.
    pub fn install_again(&self, lab: &Lab, options: &[&str]) -> Result<String, Error> {
        let installer = self.installer.to_string_lossy();
        let programs = self.programs.to_string_lossy();
        let mut words = vec![installer.as_ref(), "--prebuilt", programs.as_ref()];
        words.extend(options);
        lab.run_ok(&words)
    }

    /// `filterctl start rblfilter`, and waits for the socket.
    ///
    /// # Errors
    /// If there is none in time.
    pub fn filterctl_start(&self, lab: &Lab) -> Result<(), Error> {
        lab.run_ok(&["filterctl", "start", "rblfilter"])?;
        wait_for(LIMIT, || {
            SOCKETS
                .iter()
                .any(|socket| Path::new(socket).exists())
                .then_some(())
        })
        .ok_or_else(|| Error::Timeout {
            what: "the filter's socket".into(),
            limit: LIMIT,
        })
    }

    /// `filterctl stop rblfilter`, and waits for the filter's end.
    ///
    /// # Errors
    /// If it does not end in time.
    pub fn filterctl_stop(&self, lab: &Lab) -> Result<(), Error> {
        lab.run_ok(&["filterctl", "stop", "rblfilter"])?;
        let ended = || {
            (!lab
                .processes()
                .iter()
                .any(|process| process.comm == "rblfilter"))
            .then_some(())
        };
        wait_for(LIMIT, ended).ok_or_else(|| Error::Timeout {
            what: "the filter's end".into(),
            limit: LIMIT,
        })
    }
}

/// With the lab's port, and without sets: those of the machine are not ours.
fn for_machine(toml: &str, port: u16) -> String {
    let says = |what: &str| toml.lines().any(|line| line.trim_start().starts_with(what));
    let mut text = String::new();
    if !says("ports") {
        text.push_str(&format!("ports = [{port}]\n"));
    }
    text.push_str(toml);
    if says("[ban]") {
        return text.replacen("[ban]", "[ban]\nbackend = \"dry-run\"", 1);
    }
    text.push_str("\n[ban]\nbackend = \"dry-run\"\n");
    text
}

/// As install.sh leaves it: root's, readable by Courier's group.
fn write_config(toml: &str) -> Result<(), Error> {
    let failed = |error| Error::io("write", CONFIG, error);
    let group = Group::from_name("courier")
        .ok()
        .flatten()
        .map(|group| group.gid.as_raw());
    fs::write(CONFIG, toml).map_err(failed)?;
    chown(CONFIG, Some(0), group).map_err(failed)?;
    fs::set_permissions(CONFIG, Permissions::from_mode(0o640)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::for_machine;

    #[test]
    fn on_the_machine_neither_its_port_nor_its_sets_are_touched() {
        let text = for_machine("[[dnsbl]]\nzone = \"bl.test\"\n", 2525);
        assert!(text.starts_with("ports = [2525]\n[[dnsbl]]"), "{text}");
        assert!(text.ends_with("[ban]\nbackend = \"dry-run\"\n"), "{text}");
        assert_eq!(
            for_machine("ports = [1]\n[ban]\ntime = \"1m\"\n", 2525),
            "ports = [1]\n[ban]\nbackend = \"dry-run\"\ntime = \"1m\"\n"
        );
    }
}
