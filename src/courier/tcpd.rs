//! What couriertcpd(1) was, or will be, told to do: the options of its command
//! line, and those that Courier's settings make of it.

use super::settings::Settings;

/// A DNS list that couriertcpd asks itself (`-block`, `-allow`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// Its domain, in lower case. It may hold a key.
    pub zone: String,
    /// The variable that holds its verdict, `BLOCK` unless it says otherwise.
    pub variable: String,
    /// Whether it speaks for clients.
    pub allows: bool,
}

/// The options of one couriertcpd, those that matter here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The lists that it asks, in their order.
    pub lists: Vec<List>,
    /// The variable whose clients it drops before a session starts (`-drop`).
    pub drops: Option<String>,
    /// Whether it looks no names up (`-nodnslookup`).
    pub no_names: bool,
    /// Whether it speaks the PROXY protocol.
    pub proxy: bool,
    /// Its slots (`-maxprocs`).
    pub slots: Option<usize>,
    /// Connections at a time from one IPv4 /24 (`-maxperc`).
    pub per_network: Option<usize>,
    /// Connections at a time from one address (`-maxperip`).
    pub per_address: Option<usize>,
    /// Its pid file (`-pid`).
    pub pid_file: Option<String>,
    /// The ports that it listens on, `smtp,127.0.0.1.2525`.
    pub ports: String,
}

impl Options {
    /// Those in `words`, the arguments of couriertcpd without its name; the first
    /// that is no option names the ports. Of an option that stands there more
    /// than once the last counts.
    #[must_use]
    pub fn read<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        let mut options = Self::default();
        for word in words {
            let Some(option) = word.strip_prefix('-') else {
                word.clone_into(&mut options.ports);
                break;
            };
            let option = option.trim_start_matches('-');
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let number = || value.parse().ok();
            match name {
                "block" | "allow" => options.lists.extend(list(value, name == "allow")),
                "drop" if value.is_empty() => options.drops = Some("BLOCK".into()),
                "drop" => options.drops = Some(value.into()),
                "nodnslookup" => options.no_names = true,
                "maxprocs" => options.slots = number(),
                "maxperc" => options.per_network = number(),
                "maxperip" => options.per_address = number(),
                "pid" => options.pid_file = Some(value.into()),
                _ if name.starts_with("proxy") || name.starts_with("haproxy") => {
                    options.proxy = true;
                }
                _ => {}
            }
        }
        options
    }

    /// Those in the bytes of `/proc/PID/cmdline`.
    #[must_use]
    pub fn of_process(cmdline: &[u8]) -> Self {
        let words = String::from_utf8_lossy(cmdline);
        let words = words.strip_suffix('\0').unwrap_or(&words);
        Self::read(words.split('\0').skip(1))
    }

    /// Those that the script of `esmtpd` makes of its settings, with the ports in
    /// the variable `ports`.
    #[must_use]
    pub fn of_settings(settings: &Settings, ports: &str) -> Self {
        let limits = [
            ("maxprocs", "MAXDAEMONS"),
            ("maxperc", "MAXPERC"),
            ("maxperip", "MAXPERIP"),
        ];
        let limits = limits.map(|(option, name)| format!("-{option}={}", settings.text(name)));
        let words = ["TCPDOPTS", "BLACKLISTS", "DROP"]
            .into_iter()
            .flat_map(|name| settings.text(name).split_whitespace());
        let mut options = Self::read(
            words
                // What is no option there would end them.
                .filter(|word| word.starts_with('-'))
                .chain(limits.iter().map(String::as_str)),
        );
        settings.text(ports).clone_into(&mut options.ports);
        options.pid_file = settings.get("PIDFILE").map(Into::into);
        options
    }

    /// Whether it listens on `port`, or on a service that we do not know.
    #[must_use]
    pub fn serves(&self, port: u16) -> bool {
        listens(&self.ports, port)
    }
}

/// `zone[=display_zone][/n.n.n.n][,var[/n.n.n.n][,msg]]`.
fn list(value: &str, allows: bool) -> Option<List> {
    let mut parts = value.split(',');
    let zone = parts.next()?.split(['=', '/']).next()?;
    let zone = zone.trim_end_matches('.');
    let variable = parts.next().unwrap_or("").split('/').next()?;
    (!zone.is_empty()).then(|| List {
        zone: zone.to_ascii_lowercase(),
        variable: if variable.is_empty() {
            "BLOCK".into()
        } else {
            variable.into()
        },
        allows,
    })
}

/// Whether couriertcpd's list of ports, `smtp,127.0.0.1.2525`, names `port`, or
/// a service that we do not know.
pub(super) fn listens(text: &str, port: u16) -> bool {
    text.split(',').map(str::trim).any(|one| {
        let name = one.rsplit_once('.').map_or(one, |(_, name)| name);
        match name {
            "smtp" => port == 25,
            "smtps" | "ssmtp" | "submissions" | "urd" => port == 465,
            "submission" => port == 587,
            "" => false,
            name => name.parse().map_or(true, |number: u16| number == port),
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block(zone: &str, variable: &str) -> List {
        List {
            zone: zone.into(),
            variable: variable.into(),
            allows: false,
        }
    }

    #[test]
    fn a_command_line_tells_what_it_does() {
        let line = "/usr/sbin/couriertcpd\0-stderrlogger=/usr/sbin/courierlogger\0-nodnslookup\0\
            -block=Zen.Test.=shown/127.0.0.2,BLOCK2/127.0.0.3,no\0-block=b.test\0-allow=w.test,,\0\
            -block=.\0-drop\0-maxprocs=40\0-maxprocs=50\0-maxperc=many\0-maxperip=5\0-pid=/run/courier/esmtpd.pid\0\
            smtp,127.0.0.1.2525\0-block=not.test\0";
        let options = Options::of_process(line.as_bytes());
        let allow = List {
            allows: true,
            ..block("w.test", "BLOCK")
        };
        assert_eq!(
            options,
            Options {
                lists: vec![block("zen.test", "BLOCK2"), block("b.test", "BLOCK"), allow],
                drops: Some("BLOCK".into()),
                no_names: true,
                proxy: false,
                slots: Some(50),
                per_network: None,
                per_address: Some(5),
                pid_file: Some("/run/courier/esmtpd.pid".into()),
                ports: "smtp,127.0.0.1.2525".into(),
            }
        );
        for (port, served) in [(25, true), (2525, true), (587, false)] {
            assert_eq!(options.serves(port), served, "{port}");
        }
        assert_eq!(Options::of_process(b""), Options::default());
        assert_eq!(
            Options::read(["-drop=BLOCK2", "-haproxy", "25"]).drops,
            Some("BLOCK2".into())
        );
    }

    #[test]
    fn the_settings_make_the_same_command_line() {
        let mut settings = Settings::default();
        settings.add(
            "PORT=smtp\nBLACKLISTS='-block=b.test,BLOCK2'\nDROP=\"-drop=X\"\nMAXDAEMONS=40\nMAXPERC=5\nMAXPERIP=4\n\
             PIDFILE=/run/p.pid\nTCPDOPTS=\"-stderrlogger=/x -nodnslookup stray -proxy\"",
        );
        assert_eq!(
            Options::of_settings(&settings, "PORT"),
            Options {
                lists: vec![block("b.test", "BLOCK2")],
                drops: Some("X".into()),
                no_names: true,
                proxy: true,
                slots: Some(40),
                per_network: Some(5),
                per_address: Some(4),
                pid_file: Some("/run/p.pid".into()),
                ports: "smtp".into(),
            }
        );
    }

    proptest! {
        #[test]
        fn any_command_line_is_read(line in "(-(block|allow|drop|maxprocs)?[=,/.a-z0-9\\PC]{0,20}\0){0,4}[\\PC]{0,10}") {
            let options = Options::of_process(line.as_bytes());
            prop_assert!(options.lists.iter().all(|list| !list.zone.is_empty() && !list.variable.is_empty()));
        }
    }
}
