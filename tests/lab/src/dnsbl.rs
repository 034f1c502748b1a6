//! The DNS server of the lab: a real rbldnsd, a socket that never answers, or none.
//!
//! The zone `bl.test` has IPv4 and IPv6 entries, `bl6.test` only the IPv6 ones, and both the test entries of RFC 5782
//! (§5): 127.0.0.2 and ::FFFF:7F00:2 are listed, 127.0.0.1 and ::FFFF:7F00:1 are not. `KEY.dqs.test` (see [`KEY`]) is
//! the same list under a name with a key; `wl.test` is an allow list; `other.test` a second one with entries of its own;
//! `spf.test` has an SPF record and two MX hosts. With [`Dns::Unbound`] a real resolver stands between.

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::rc::Rc;
use std::time::Duration;

use crate::command::{Command, Process};
use crate::namespaces::Namespaces;
use crate::stub::{self, Lie, Stub};
use crate::{Config, Error, wait_for};

const FOLDER: &str = "/run/lab/dns";
/// A key as Spamhaus DQS has them: what must never be shown.
pub const KEY: &str = "abcdefghijklmnopqrstuvwxyz";
/// The address of `mx2.spf.test`, the second MX of `spf.test`.
pub const BACKUP_MX: &str = "203.0.113.9";
/// Where rbldnsd is behind unbound.
const BEHIND: &str = "127.0.0.1/5353";
const QUERIES: &str = "/run/lab/dns/queries";
const LIMIT: Duration = Duration::from_secs(10);
/// `2.0.0.127.bl.test`, A, IN, id 1, recursion desired.
const QUESTION: &[u8] =
    b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x012\x010\x010\x03127\x02bl\x04test\0\0\x01\0\x01";

/// What answers on port 53.
///
/// Without an answer couriertcpd waits some 300 s in its lookup of the client's name, with both `None` and `Silent`,
/// and so does the client for its greeting, unless `tcpd_options` has `-nodnslookup`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dns {
    /// A real rbldnsd.
    #[default]
    Rbldnsd,
    /// A real unbound, and rbldnsd behind it.
    Unbound,
    /// Nothing: a query is refused at once (ICMP port unreachable).
    None,
    /// A socket that takes queries and never answers.
    Silent,
    /// A server of the lab's own, which can be slow or silent for the list or for the clients' names.
    Stub(Stub),
    /// One that does not tell the truth.
    Lying(Lie),
}

/// An address or network, and the code it is listed with.
pub type Listing = (String, Ipv4Addr);

enum Server {
    Rbldnsd(Vec<Process>),
    Silent(#[expect(dead_code, reason = "held open")] UdpSocket),
    Stub(#[expect(dead_code, reason = "ends when dropped")] stub::Server),
}

/// The server; it ends with the lab.
pub(crate) struct Dnsbl {
    spaces: Rc<Namespaces>,
    address: Ipv4Addr,
    listed: Vec<Listing>,
    server: Option<Server>,
}

impl Dnsbl {
    pub(crate) fn new(
        spaces: &Rc<Namespaces>,
        address: Ipv4Addr,
        config: &Config,
    ) -> Result<Self, Error> {
        fs::create_dir(FOLDER).map_err(|e| Error::io("make", FOLDER, e))?;
        write(QUERIES, String::new())?;
        // rbldnsd opens its log after it has become nobody.
        fs::set_permissions(QUERIES, Permissions::from_mode(0o666))
            .map_err(|e| Error::io("chmod", QUERIES, e))?;
        let mut dnsbl = Self {
            spaces: Rc::clone(spaces),
            address,
            listed: Vec::new(),
            server: None,
        };
        dnsbl.list(&config.listed)?;
        for (name, entries) in [("white", &config.allowed), ("other", &config.also_listed)] {
            let mut text = String::from(":127.0.0.2:Listed\n127.0.0.2\n");
            for (network, code) in entries {
                let _ = writeln!(text, "{network} :{code}:Listed by {name}");
            }
            write(&format!("{FOLDER}/{name}"), text)?;
        }
        write(
            &format!("{FOLDER}/spf"),
            format!(
                "@ TXT \"v=spf1 {} -all\"\n@ MX 10 mx.spf.test\n@ MX 20 mx2.spf.test\nmx A 127.0.0.1\nmx2 A {BACKUP_MX}\n",
                config.spf
            ),
        )?;
        Ok(dnsbl)
    }

    /// Writes the zones.
    pub(crate) fn list(&mut self, listed: &[Listing]) -> Result<(), Error> {
        self.listed = listed.to_vec();
        let template = ":127.0.0.2:Listed by bl.test\n";
        let (mut four, mut six) = (
            format!("{template}127.0.0.2\n"),
            format!("{template}::ffff:7f00:2\n"),
        );
        for (network, code) in listed {
            let zone = if network.contains(':') {
                &mut six
            } else {
                &mut four
            };
            let _ = writeln!(zone, "{network} :{code}:Listed by bl.test");
        }
        write(&format!("{FOLDER}/four"), four)?;
        write(&format!("{FOLDER}/six"), six)
    }

    /// Starts what answers on port 53, in the place of what did until now.
    pub(crate) fn start(&mut self, dns: Dns) -> Result<(), Error> {
        self.stop()?;
        match dns {
            Dns::None => {}
            Dns::Silent => {
                let socket = UdpSocket::bind((self.address, 53))
                    .map_err(|e| Error::io("bind", format!("{}:53", self.address), e))?;
                self.server = Some(Server::Silent(socket));
            }
            Dns::Stub(stub) => {
                let server = stub::Server::start(self.address, stub, &self.listed)
                    .map_err(|e| Error::io("bind", format!("{}:53", self.address), e))?;
                self.server = Some(Server::Stub(server));
            }
            Dns::Lying(lie) => {
                let server = stub::Server::lying(self.address, lie, &self.listed)
                    .map_err(|e| Error::io("bind", format!("{}:53", self.address), e))?;
                self.server = Some(Server::Stub(server));
            }
            Dns::Rbldnsd | Dns::Unbound => {
                let log = format!("+{QUERIES}");
                let listen = if dns == Dns::Unbound {
                    BEHIND.to_owned()
                } else {
                    format!("{}/53", self.address)
                };
                let words = [
                    "-n", "-b", &listen, "-u", "nobody", "-w", FOLDER, "-c", "0", "-l", &log,
                ];
                let zones = [
                    "bl.test:ip4set:four",
                    "bl.test:ip6trie:six",
                    "bl6.test:ip6trie:six",
                    &format!("{KEY}.dqs.test:ip4set:four"),
                    &format!("{KEY}.dqs.test:ip6trie:six"),
                    "wl.test:ip4set:white",
                    "other.test:ip4set:other",
                    "spf.test:generic:spf",
                ];
                // A service has a session of its own, and by that its share of the processors (sched(7)).
                let mut command = Command::new(&self.spaces, "setsid");
                command
                    .arg("rbldnsd")
                    .args(words)
                    .args(zones)
                    .current_dir("/");
                command
                    .stdout(std::process::Stdio::null())
                    .stderr(std::process::Stdio::null());
                let process = command
                    .spawn()
                    .map_err(|e| Error::io("start", "rbldnsd", e))?;
                let mut processes = vec![process];
                if dns == Dns::Unbound {
                    processes.push(self.unbound()?);
                }
                self.server = Some(Server::Rbldnsd(processes));
                let timeout = || Error::Timeout {
                    what: "an answer of rbldnsd".into(),
                    limit: LIMIT,
                };
                wait_for(LIMIT, || answers(self.address).then_some(())).ok_or_else(timeout)?;
                // The log of queries is for the mail server's.
                fs::write(QUERIES, "").map_err(|e| Error::io("write", QUERIES, e))?;
            }
        }
        Ok(())
    }

    pub(crate) fn stop(&mut self) -> Result<(), Error> {
        if let Some(Server::Rbldnsd(processes)) = self.server.take() {
            for process in processes {
                process
                    .kill()
                    .map_err(|e| Error::io("kill", "rbldnsd", e))?;
            }
        }
        Ok(())
    }

    /// A resolver on port 53 that asks rbldnsd.
    fn unbound(&self) -> Result<Process, Error> {
        let path = format!("{FOLDER}/unbound.conf");
        let stubs = [
            "bl.test",
            "bl6.test",
            "dqs.test",
            "wl.test",
            "other.test",
            "spf.test",
        ]
        .map(|zone| {
            format!("stub-zone:\n name: {zone}\n stub-addr: 127.0.0.1@5353\n stub-no-cache: no\n")
        });
        let text = format!(
            "server:\n interface: 127.0.0.1\n username: \"\"\n chroot: \"\"\n directory: {FOLDER}\n pidfile: \"\"\n use-syslog: no\n \
             do-not-query-localhost: no\n module-config: iterator\n local-zone: test. nodefault\n qname-minimisation: no\n{}",
            stubs.concat()
        );
        write(&path, text)?;
        let mut command = Command::new(&self.spaces, "unbound");
        command.args(["-d", "-p", "-c", &path]).current_dir("/");
        command
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        command
            .spawn()
            .map_err(|e| Error::io("start", "unbound", e))
    }

    /// The names that rbldnsd was asked for, in order, repeated as asked.
    pub(crate) fn queries(&self) -> Vec<String> {
        // `TIME CLIENT NAME TYPE CLASS: RCODE/N/LENGTH`
        let text = fs::read_to_string(QUERIES).unwrap_or_default();
        text.lines()
            .filter_map(|line| {
                Some(
                    line.trim_matches('\0')
                        .split_whitespace()
                        .nth(2)?
                        .to_owned(),
                )
            })
            .collect()
    }
}

fn write(path: &str, text: String) -> Result<(), Error> {
    fs::write(path, text).map_err(|e| Error::io("write", path, e))
}

fn answers(server: Ipv4Addr) -> bool {
    let ask = || {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        socket.connect((server, 53))?;
        socket.send(QUESTION)?;
        let mut answer = [0; 512];
        let length = socket.recv(&mut answer)?;
        // Unbound is there before rbldnsd: SERVFAIL.
        Ok::<_, std::io::Error>(length > 12 && answer[3] & 15 == 0)
    };
    ask().is_ok_and(|answered| answered)
}
