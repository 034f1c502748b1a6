//! What Courier's own configuration says of a port, before anybody connects:
//! the shell assignments of `esmtpd`, `esmtpd-ssl` and `esmtpd-msa`.
//!
//! Read for the gate, which drops packets of clients that couriertcpd never
//! sees. Where the file is not plain, the port has an objection.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::settings::Settings;
use super::tcpd::{Options, listens};

/// Why no packet to a port may be dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Objection {
    /// Clients may log in there: this variable is set.
    LogIn(&'static str),
    /// The packets come from a proxy (PROXY protocol).
    Proxy,
    /// couriertcpd asks a list itself that speaks for clients.
    AllowList,
    /// Everybody may relay there, or who may cannot be told.
    Relays,
    /// Courier's configuration cannot be read.
    Unreadable(String),
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LogIn(variable) => write!(
                f,
                "clients may log in there ({variable} is set), from addresses that lists name; \
                 let users log in on ports of their own, 465 and 587"
            ),
            Self::Proxy => f.write_str(
                "it is behind a proxy (PROXY protocol), from which all packets come; \
                 the gate belongs on the proxy's host",
            ),
            Self::AllowList => f.write_str(
                "couriertcpd asks a list that speaks for clients (-allow in BLACKLISTS), whose \
                 answer the gate does not know; make it a [[dnswl]]",
            ),
            Self::Relays => f.write_str("smtpaccess or esmtpd gives everybody RELAYCLIENT"),
            Self::Unreadable(error) => f.write_str(error),
        }
    }
}

/// The daemons: the variable that holds their ports, and the files that they
/// read, the later ones before the earlier.
const DAEMONS: [(&str, &[&str]); 3] = [
    ("PORT", &["esmtpd"]),
    ("SSLPORT", &["esmtpd", "esmtpd-ssl"]),
    ("PORT", &["esmtpd", "esmtpd-msa"]),
];

/// One of Courier's daemons that speak SMTP.
#[derive(Clone, Debug)]
pub struct Daemon {
    /// Its own file, which is its name: `esmtpd`, `esmtpd-ssl`, `esmtpd-msa`.
    pub name: &'static str,
    /// The variable that holds its ports.
    ports: &'static str,
    /// Its variables.
    pub settings: Settings,
}

impl Daemon {
    /// The options of its couriertcpd.
    #[must_use]
    pub fn options(&self) -> Options {
        Options::of_settings(&self.settings, self.ports)
    }

    /// Whether it listens on `port`; so does one that does not say.
    #[must_use]
    pub fn serves(&self, port: u16) -> bool {
        self.settings
            .get(self.ports)
            .is_none_or(|text| listens(text, port))
    }
}

/// The daemons' settings.
#[derive(Clone, Debug, Default)]
pub struct Daemons {
    /// Those that have a file of their own.
    pub all: Vec<Daemon>,
    sysconfdir: PathBuf,
}

impl Daemons {
    /// Those in `sysconfdir`. A file that is not there says nothing.
    ///
    /// # Errors
    /// Where one cannot be read.
    pub fn read(sysconfdir: &Path) -> io::Result<Self> {
        let mut texts = HashMap::new();
        for name in DAEMONS.iter().flat_map(|(_, files)| *files) {
            let path = sysconfdir.join(name);
            match fs::read(&path) {
                Ok(text) => {
                    texts.insert(*name, String::from_utf8_lossy(&text).into_owned());
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    let text = format!("cannot read {}: {error}", path.display());
                    return Err(io::Error::new(error.kind(), text));
                }
            }
        }
        Ok(Self {
            all: Self::of(&texts),
            sysconfdir: sysconfdir.to_owned(),
        })
    }

    /// Those whose files are `texts`.
    #[cfg(test)]
    pub(crate) fn of_texts(texts: &[(&'static str, &str)]) -> Self {
        let texts = texts
            .iter()
            .map(|(name, text)| (*name, (*text).to_owned()))
            .collect();
        Self {
            all: Self::of(&texts),
            sysconfdir: PathBuf::new(),
        }
    }

    fn of(texts: &HashMap<&'static str, String>) -> Vec<Daemon> {
        let mut all = Vec::new();
        for (ports, files) in DAEMONS {
            // Without its own file there is no such daemon.
            let Some(name) = files.last().filter(|own| texts.contains_key(*own)) else {
                continue;
            };
            let mut settings = Settings::default();
            for text in files.iter().filter_map(|name| texts.get(name)) {
                settings.add(text);
            }
            all.push(Daemon {
                name,
                ports,
                settings,
            });
        }
        all
    }

    /// What is against dropping packets to `port`.
    #[must_use]
    pub fn objection(&self, port: u16) -> Option<Objection> {
        self.all
            .iter()
            .filter(|daemon| daemon.serves(port))
            .find_map(objection)
    }

    /// The folders of the files that say whom the admin trusts.
    #[must_use]
    pub fn access_folders(&self) -> BTreeSet<PathBuf> {
        let named = self.all.iter().filter_map(|daemon| {
            let text = daemon
                .settings
                .get("ACCESSFILE")
                .filter(|text| !text.is_empty())?;
            let base = self.sysconfdir.to_string_lossy();
            let text = text
                .replace("${sysconfdir}", &base)
                .replace("$sysconfdir", &base);
            Some(PathBuf::from(text))
        });
        named
            .chain(std::iter::once(self.sysconfdir.join("smtpaccess")))
            .collect()
    }
}

/// The variables that say how clients may log in.
pub const LOGINS: [&str; 2] = ["ESMTPAUTH", "ESMTPAUTH_TLS"];

fn objection(daemon: &Daemon) -> Option<Objection> {
    let settings = &daemon.settings;
    for name in LOGINS {
        if !settings.text(name).trim().is_empty() {
            return Some(Objection::LogIn(name));
        }
    }
    if settings.get("RELAYCLIENT").is_some() {
        return Some(Objection::Relays);
    }
    let options = daemon.options();
    if options.proxy {
        return Some(Objection::Proxy);
    }
    let allows = options.lists.iter().any(|list| list.allows);
    allows.then_some(Objection::AllowList)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemons(files: &[(&str, &str)]) -> Daemons {
        let folder = std::env::temp_dir().join(format!(
            "rblfilter-esmtpd-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        for (name, text) in files {
            fs::write(folder.join(name), text).unwrap();
        }
        let daemons = Daemons::read(&folder).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        daemons
    }

    #[test]
    fn a_port_with_logins_or_behind_a_proxy_has_an_objection() {
        let login = Objection::LogIn("ESMTPAUTH");
        for (text, expected) in [
            ("ESMTPAUTH=\"\"\nESMTPAUTH_TLS=\"\"\n", None),
            (
                "##NAME: ESMTPAUTH:0\n# ESMTPAUTH=\"LOGIN\"\nESMTPAUTH=\"\"",
                None,
            ),
            ("ESMTPAUTH=\"LOGIN CRAM-MD5\"", Some(login.clone())),
            ("ESMTPAUTH=\"LOGIN\"\nESMTPAUTH=''\n", None),
            ("ESMTPAUTH=''\nexport ESMTPAUTH=LOGIN", Some(login.clone())),
            (
                "ESMTPAUTH=\"LOGIN\n CRAM-MD5\"\nPORT=25",
                Some(login.clone()),
            ),
            ("ESMTPAUTH=\"$ESMTPAUTH_WEBADMIN\"", Some(login.clone())),
            (
                "ESMTPAUTH_TLS=PLAIN",
                Some(Objection::LogIn("ESMTPAUTH_TLS")),
            ),
            (
                "TCPDOPTS=\"-stderrlogger=/x -proxy=1.2.3.4\"",
                Some(Objection::Proxy),
            ),
            ("TCPDOPTS=\"-noidentlookup\"", None),
            ("BLACKLISTS='-block=bl.test,BLOCK2'", None),
            (
                "BLACKLISTS='-block=bl.test -allow=wl.test'",
                Some(Objection::AllowList),
            ),
            ("RELAYCLIENT=", Some(Objection::Relays)),
        ] {
            let text = format!("PORT=smtp\n{text}");
            assert_eq!(
                daemons(&[("esmtpd", &text)]).objection(25),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn each_port_has_its_daemon() {
        let daemons = daemons(&[
            (
                "esmtpd",
                "PORT=\"smtp,127.0.0.1.2525\"\nESMTPAUTH=\"\"\nACCESSFILE=${sysconfdir}/smtpaccess",
            ),
            ("esmtpd-ssl", "SSLPORT=465\nESMTPAUTH=\"\""),
            (
                "esmtpd-msa",
                "PORT=587\nESMTPAUTH=PLAIN\nACCESSFILE=/etc/other",
            ),
        ]);
        for (port, objects) in [
            (25, false),
            (2525, false),
            (465, false),
            (587, true),
            (26, false),
        ] {
            assert_eq!(daemons.objection(port).is_some(), objects, "{port}");
        }
        let folders = daemons.access_folders();
        assert_eq!(folders.len(), 2, "{folders:?}");
        assert!(folders.contains(Path::new("/etc/other")));
        // A service that we do not know may be any port.
        let strange = self::daemons(&[("esmtpd", "PORT=mail\nESMTPAUTH=PLAIN")]);
        assert!(strange.objection(4025).is_some());
    }
}
