//! A real Courier, a real DNS list and real ipsets, alone in private namespaces, for rblfilter's tests.
//!
//! [`Lab::start`] moves the calling thread into new mount and network namespaces and starts Courier and rbldnsd in a
//! new pid namespace. From then on this thread, and the threads that it starts, see the lab through `std`: its files,
//! its /proc, its 127.0.0.0/8 and fd00::/16, any address of which a client may bind. Programs are run in the lab by
//! [`Lab::run`] and [`Lab::command`], never by [`std::process::Command`], whose children would not be in its pid
//! namespace. Two labs in two threads do not see each other.
//!
//! Where the kernel serves the initial namespaces alone, [`Spaces::Machine`] keeps the network and the processes of the
//! machine and makes the mounts alone private; what listens then does so on loopback, on [`Lab::port`].
//!
//! Dropping the lab takes the thread back; nothing remains of it. If the process is killed, the kernel, or the lab's
//! guardian, does the same. The machine's Courier, mail, network and firewall are never touched.
//!
//! The caller owes: threads started inside the lab are joined before it is dropped. `/proc/self` does not exist in
//! private namespaces, for the test itself is not in the lab's pid namespace.

mod cgroup;
mod command;
mod courier;
mod dnsbl;
mod endpoints;
mod error;
pub mod faults;
mod furniture;
mod guardian;
mod machine;
mod mailbox;
mod namespaces;
mod processes;
mod product;
pub mod raw;
mod sets;
pub mod smtp;
pub mod soak;
mod starttls;
pub mod stub;
mod syslog;
pub mod wave;

use std::fs;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::geteuid;

use cgroup::Cgroup;
use dnsbl::Dnsbl;
use endpoints::Endpoints;
use namespaces::Namespaces;
use smtp::{Message, Outcome};
use syslog::Syslog;

pub use command::{Command, Process};
pub use dnsbl::{BACKUP_MX, Dns, KEY, Listing};
pub use error::Error;
pub use namespaces::Spaces;
pub use processes::{ProcessInfo, Session};
pub use product::Product;
pub use sets::SetMember;
pub use syslog::LogLine;

/// The one user of the lab, as a login name.
pub const USER: &str = "alice@lab.test";
/// Her password.
pub const PASSWORD: &str = courier::PASSWORD;

/// What a lab is made of. The default is a Courier that looks no list up, and an rbldnsd with `bl.test`.
#[derive(Debug, Clone)]
pub struct Config {
    /// Which namespaces it shares with the machine.
    pub spaces: Spaces,
    /// Whether processor time is counted, see [`Lab::cpu`].
    pub measured: bool,
    /// `BLACKLISTS` of port 25, e.g. `-block=bl.test,BLOCK2`.
    pub blacklists: String,
    /// `DROP` of port 25, e.g. `-drop`.
    pub drop: String,
    /// `MAXDAEMONS`: the slots.
    pub max_daemons: u32,
    /// `TARPIT`: slow 5xx answers.
    pub tarpit: bool,
    /// `ESMTPAUTH` of port 25, e.g. `PLAIN LOGIN`.
    pub esmtp_auth: String,
    /// `ESMTPAUTH_TLS` of port 25.
    pub esmtp_auth_tls: String,
    /// What is added to `TCPDOPTS`.
    pub tcpd_options: String,
    /// The lines of `smtpaccess/default`, e.g. `127.1.9\tallow,RELAYCLIENT`. None: nobody may relay, 127.0.0.1 neither.
    pub smtp_access: Vec<String>,
    /// Lines added to `aliases/system`, which has postmaster and abuse for alice already.
    pub aliases: Vec<String>,
    /// Lines added to `/etc/courier/esmtpd`.
    pub esmtpd: Vec<String>,
    /// Lines added to `/etc/courier/courierd`, which is also the environment of the filters.
    pub courierd: Vec<String>,
    /// Whether `esmtpd-msa` serves port 587, with logins.
    pub msa: bool,
    /// Whether it serves only who has logged in.
    pub msa_auth_required: bool,
    /// What answers on port 53.
    pub dns: Dns,
    /// What `bl.test` lists; the IPv6 part is `bl6.test` too.
    pub listed: Vec<Listing>,
    /// What `wl.test` and `other.test` list, IPv4 alone.
    pub allowed: Vec<Listing>,
    /// See there.
    pub also_listed: Vec<Listing>,
    /// The terms of `spf.test`'s SPF record.
    pub spf: String,
    /// Whether to start Courier. Without, it is configured only; see [`Lab::start_courier`].
    pub courier: bool,
}

impl Default for Config {
    fn default() -> Self {
        let code = Ipv4Addr::new(127, 0, 0, 2);
        Self {
            spaces: Spaces::default(),
            measured: false,
            blacklists: String::new(),
            drop: String::new(),
            max_daemons: 300,
            tarpit: true,
            esmtp_auth: String::new(),
            esmtp_auth_tls: String::new(),
            tcpd_options: String::new(),
            smtp_access: Vec::new(),
            aliases: Vec::new(),
            esmtpd: Vec::new(),
            courierd: Vec::new(),
            msa: false,
            msa_auth_required: false,
            dns: Dns::Rbldnsd,
            listed: vec![
                ("127.66.0.0/16".into(), code),
                ("fd00:66::/32".into(), code),
            ],
            allowed: Vec::new(),
            also_listed: Vec::new(),
            spf: String::new(),
            courier: true,
        }
    }
}

/// Looks every few milliseconds until `look` finds something, or `limit` has passed. Looks at least once.
pub fn wait_for<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        let found = look();
        if found.is_some() || Instant::now() >= deadline {
            return found;
        }
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// A running lab. It is bound to the thread that started it.
pub struct Lab {
    // Dropped in this order: what holds threads or sockets goes first, the namespaces last.
    runtime: tokio::runtime::Runtime,
    dnsbl: Dnsbl,
    syslog: Syslog,
    config: Config,
    endpoints: Endpoints,
    spaces: Rc<Namespaces>,
    _of_this_thread: PhantomData<*const ()>,
}

impl Lab {
    /// Starts a lab on the calling thread and waits until everything in it answers, about half a second.
    ///
    /// # Errors
    /// Whatever keeps it from starting; the thread is then back where it was. There is no silent skip.
    pub fn start(config: Config) -> Result<Self, Error> {
        requirements(config.spaces)?;
        let endpoints = Endpoints::of(config.spaces);
        let cgroup = if config.measured {
            Cgroup::make()
        } else {
            None
        };
        let spaces = Namespaces::enter(config.spaces, cgroup, furniture::furnish)?;
        match config.spaces {
            Spaces::Private => network(&spaces)?,
            Spaces::Machine => machine::ports_are_free(&endpoints.tcp(), endpoints.dns)?,
        }
        let resolv = "/etc/resolv.conf";
        replace(resolv, &format!("nameserver {}\n", endpoints.dns))
            .map_err(|e| Error::io("write", resolv, e))?;
        let syslog = Syslog::start()?;
        let mut dnsbl = Dnsbl::new(&spaces, endpoints.dns, &config)?;
        dnsbl.start(config.dns)?;
        courier::configure(&spaces, &config)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.map_err(|e| Error::io("make", "an async runtime", e))?;
        let lab = Self {
            runtime,
            dnsbl,
            syslog,
            config,
            endpoints,
            spaces,
            _of_this_thread: PhantomData,
        };
        if lab.config.courier {
            lab.start_courier()?;
        }
        Ok(lab)
    }

    /// Starts Courier, if the configuration said not to.
    ///
    /// # Errors
    /// The first daemon that does not start or open its socket.
    pub fn start_courier(&self) -> Result<(), Error> {
        courier::start(&self.spaces, &self.config)
    }

    /// Stops couriertcpd of port 25; its sessions go on.
    ///
    /// # Errors
    /// If it does not stop.
    pub fn esmtpd_stop(&self) -> Result<(), Error> {
        courier::esmtpd_stop(&self.spaces, self.endpoints)
    }

    /// Starts couriertcpd of port 25 again, which reads /etc/courier/esmtpd.
    ///
    /// # Errors
    /// If it does not listen.
    pub fn esmtpd_start(&self) -> Result<(), Error> {
        courier::esmtpd_start(&self.spaces, self.endpoints)
    }

    /// Appends text to a file below /etc/courier of the lab. What is set last in `esmtpd` and `courierd` wins.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn append_config(&self, name: &str, text: &str) -> Result<(), Error> {
        courier::append(name, text)
    }

    /// A program to run inside; stdin is /dev/null and the environment the test's, with a full `PATH`.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        Command::new(&self.spaces, program)
    }

    /// Runs a program to its end and returns its status and output.
    ///
    /// # Errors
    /// If it cannot be started; a failing program is no error.
    pub fn run(&self, words: &[&str]) -> io::Result<Output> {
        self.of_words(words)?.output()
    }

    /// Runs a program that must succeed and returns its standard output.
    ///
    /// # Errors
    /// If it cannot be started or fails, with what it wrote.
    pub fn run_ok(&self, words: &[&str]) -> Result<String, Error> {
        let program = words.join(" ");
        let output = self.run(words).map_err(|e| Error::io("run", &program, e))?;
        if !output.status.success() {
            return Err(Error::command(&program, &output));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts a program and leaves it running.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(&self, words: &[&str]) -> io::Result<Process> {
        self.of_words(words)?.spawn()
    }

    fn of_words(&self, words: &[&str]) -> io::Result<Command> {
        let (program, arguments) = words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut command = self.command(program);
        command.args(arguments);
        Ok(command)
    }

    /// Drives a future, for instance a [`smtp::Client`], on this thread.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// The port that the daemon of port 25 listens on: another one where the lab shares the machine's network.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.endpoints.smtp
    }

    /// Where a client of this address finds it.
    #[must_use]
    pub fn server_for(&self, source: impl Into<IpAddr>) -> SocketAddr {
        self.endpoints.server_for(source.into(), 25)
    }

    /// The namespaces it was started with.
    #[must_use]
    pub fn spaces(&self) -> Spaces {
        self.config.spaces
    }

    /// The same message, for the lab's own ports where it names 25 or 587.
    #[must_use]
    pub fn message_for_here(&self, message: &Message) -> Message {
        Message {
            port: self.endpoints.port(message.port),
            ..message.clone()
        }
    }

    /// Sends a message from this address and tells what became of it. Ports 25 and 587 are the lab's.
    pub fn send(&self, message: &Message, source: impl Into<IpAddr>) -> Outcome {
        self.block_on(self.message_for_here(message).send(source.into()))
    }

    /// Sends a message through STARTTLS. The outcome begins with the EHLO after it; a STARTTLS that fails shows as a
    /// session that was cut off at [`smtp::Stage::Ehlo`].
    ///
    /// # Errors
    /// If openssl cannot be started.
    pub fn send_tls(&self, message: &Message, source: impl Into<IpAddr>) -> Result<Outcome, Error> {
        self.send_tls_after(Duration::ZERO, message, source)
    }

    /// The same, by a client that says nothing for a while after STARTTLS.
    ///
    /// # Errors
    /// If openssl cannot be started.
    pub fn send_tls_after(
        &self,
        pause: Duration,
        message: &Message,
        source: impl Into<IpAddr>,
    ) -> Result<Outcome, Error> {
        let source = source.into();
        let (process, stream) = starttls::connect(
            &self.spaces,
            source,
            self.message_for_here(message).server_for(source),
        )?;
        let outcome = self.block_on(async {
            stream.set_nonblocking(true)?;
            tokio::time::sleep(pause).await;
            Ok(message
                .send_over(tokio::net::UnixStream::from_std(stream)?)
                .await)
        });
        let _ = process.kill();
        outcome.map_err(|e| Error::io("talk to", "openssl s_client", e))
    }

    /// Connects from this address to port 25 without saying anything.
    ///
    /// # Errors
    /// Those of [`smtp::Client::connect`].
    pub fn connect(&self, source: impl Into<IpAddr>) -> io::Result<smtp::Client> {
        let source = source.into();
        self.block_on(smtp::Client::connect(source, self.server_for(source)))
    }

    /// Every syslog line so far.
    #[must_use]
    pub fn log(&self) -> Vec<LogLine> {
        self.syslog.lines()
    }

    /// Forgets the lines so far (`/var/log/mail.log` keeps them), so that [`wait_for_log`](Self::wait_for_log) finds
    /// only new ones.
    pub fn clear_log(&self) {
        self.syslog.clear();
    }

    /// The text of the lines that contain `part`.
    #[must_use]
    pub fn log_matching(&self, part: &str) -> Vec<String> {
        self.syslog.matching(part)
    }

    /// The first line, past or future, that contains `part`.
    ///
    /// # Errors
    /// [`Error::Timeout`] if none comes.
    pub fn wait_for_log(&self, part: &str, limit: Duration) -> Result<String, Error> {
        self.syslog.wait_for(part, limit)
    }

    /// Stops who reads /dev/log, as a syslogd that ends.
    pub fn syslog_stop(&mut self) {
        self.syslog.stop();
    }

    /// Starts another one, on a new /dev/log.
    ///
    /// # Errors
    /// If it cannot be bound.
    pub fn syslog_start(&mut self) -> Result<(), Error> {
        self.syslog.start_again()
    }

    /// Stops what answers on port 53.
    ///
    /// # Errors
    /// If it cannot be killed.
    pub fn dns_stop(&mut self) -> Result<(), Error> {
        self.dnsbl.stop()
    }

    /// Starts what shall answer on port 53, in the place of what did until now.
    ///
    /// # Errors
    /// If it does not start and answer.
    pub fn dns_start(&mut self, dns: Dns) -> Result<(), Error> {
        self.dnsbl.start(dns)
    }

    /// Replaces what `bl.test` lists and starts rbldnsd anew.
    ///
    /// # Errors
    /// If it does not start and answer.
    pub fn dns_list(&mut self, listed: &[Listing]) -> Result<(), Error> {
        self.dnsbl.list(listed)?;
        self.dnsbl.start(Dns::Rbldnsd)
    }

    /// The names that rbldnsd was asked for since it started, in order, e.g. `1.0.66.127.bl.test`.
    #[must_use]
    pub fn dns_queries(&self) -> Vec<String> {
        self.dnsbl.queries()
    }

    /// The sessions of port 25: the children of its couriertcpd.
    ///
    /// # Errors
    /// If couriertcpd does not run.
    pub fn sessions(&self) -> io::Result<Vec<Session>> {
        processes::sessions()
    }

    /// How many of `MAXDAEMONS` are taken.
    ///
    /// # Errors
    /// If couriertcpd does not run.
    pub fn slots_used(&self) -> io::Result<usize> {
        processes::slots_used()
    }

    /// The pid, in the lab, of the listening couriertcpd of port 25.
    ///
    /// # Errors
    /// If it does not run.
    pub fn couriertcpd_pid(&self) -> io::Result<i32> {
        processes::couriertcpd()
    }

    /// The number that the machine's own pid namespace has for a process of the lab.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pid_on_machine(&self, pid: i32) -> io::Result<i32> {
        self.spaces.pid_on_machine(pid)
    }

    /// The processor time of all processes of the lab, ended ones too; none where it is not measured, or version 2 of
    /// cgroups is not mounted.
    #[must_use]
    pub fn cpu(&self) -> Option<Duration> {
        self.spaces.cgroup()?.all().ok()
    }

    /// That of the processes for which [`count_as_filter`](Self::count_as_filter) was called, and of their children.
    #[must_use]
    pub fn filter_cpu(&self) -> Option<Duration> {
        self.spaces.cgroup()?.filter().ok()
    }

    /// Counts the processor time of a process and its coming children, from now on, as the filter's.
    ///
    /// # Errors
    /// If it has ended, or nothing is measured.
    pub fn count_as_filter(&self, pid: i32) -> io::Result<()> {
        let pid = self.spaces.pid_on_machine(pid)?;
        match self.spaces.cgroup() {
            Some(cgroup) => cgroup.add_to_filter(pid),
            None => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// All processes of the lab, by pid.
    #[must_use]
    pub fn processes(&self) -> Vec<ProcessInfo> {
        let mut all = processes::all();
        all.retain(|process| self.spaces.holds(process.pid));
        all
    }

    /// The environment of a process (at its exec), sorted; empty when it has ended.
    #[must_use]
    pub fn environment(&self, pid: i32) -> Vec<(String, String)> {
        processes::environment(pid)
    }

    /// The arguments of a process; empty when it has ended.
    #[must_use]
    pub fn arguments(&self, pid: i32) -> Vec<String> {
        processes::arguments(pid)
    }

    /// Sends a signal to a process of the lab by its pid there.
    ///
    /// # Errors
    /// If there is no such process, or it is not the lab's.
    pub fn kill(&self, pid: i32, signal: Signal) -> Result<(), Error> {
        if !self.spaces.holds(pid) {
            let source = io::Error::from(io::ErrorKind::NotFound);
            return Err(Error::io("signal", format!("process {pid}"), source));
        }
        let name = signal.as_str().trim_start_matches("SIG");
        self.run_ok(&["/bin/sh", "-c", &format!("kill -s {name} {pid}")])
            .map(drop)
    }

    /// The members of an ipset.
    ///
    /// # Errors
    /// If there is no such set.
    pub fn set_members(&self, name: &str) -> Result<Vec<SetMember>, Error> {
        Ok(sets::members(
            &self.run_ok(&["ipset", "list", "-output", "save", name])?,
        ))
    }

    /// Whether there is such an ipset.
    ///
    /// # Errors
    /// If ipset cannot be run.
    pub fn has_set(&self, name: &str) -> Result<bool, Error> {
        Ok(self
            .run_ok(&["ipset", "list", "-name"])?
            .lines()
            .any(|line| line == name))
    }

    /// Alice's new messages, whole.
    #[must_use]
    pub fn mailbox(&self) -> Vec<String> {
        mailbox::messages()
    }

    /// Removes alice's new messages.
    pub fn clear_mailbox(&self) {
        mailbox::clear();
    }

    /// Waits until alice has at least `count` new messages, and returns them.
    ///
    /// # Errors
    /// [`Error::Timeout`] with the number there is.
    pub fn wait_for_mail(&self, count: usize, limit: Duration) -> Result<Vec<String>, Error> {
        wait_for(limit, || (mailbox::count() >= count).then_some(())).ok_or_else(|| {
            let what = format!(
                "{count} messages for alice (there are {})",
                mailbox::count()
            );
            Error::Timeout { what, limit }
        })?;
        Ok(mailbox::messages())
    }

    /// The files of messages that are still being received, below /var/lib/courier/tmp.
    #[must_use]
    pub fn courier_tmp_files(&self) -> Vec<PathBuf> {
        let standing = ["trigger", "courierd.lock"];
        let is_message = |path: &PathBuf| {
            !path
                .file_name()
                .is_some_and(|name| standing.iter().any(|s| name == *s))
        };
        courier::files_below(Path::new(courier::SPOOL).join("tmp"))
            .into_iter()
            .filter(is_message)
            .collect()
    }

    /// The files of messages that are accepted and not yet delivered, below msgs and msgq.
    #[must_use]
    pub fn queue_files(&self) -> Vec<PathBuf> {
        let folder = |name| courier::files_below(Path::new(courier::SPOOL).join(name));
        [folder("msgq"), folder("msgs")].concat()
    }
}

fn requirements(spaces: Spaces) -> Result<(), Error> {
    if !geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    for (program, package) in [
        ("couriertcpd", "courier-mta"),
        ("makeuserdb", "courier-authlib-userdb"),
        ("rbldnsd", "rbldnsd"),
        ("unbound", "unbound"),
        ("ipset", "ipset"),
        ("iptables", "iptables"),
        ("ip", "iproute2"),
        ("openssl", "openssl"),
    ] {
        if spaces == Spaces::Machine && ["ipset", "iptables", "ip"].contains(&program) {
            continue;
        }
        let found = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
            .iter()
            .any(|f| Path::new(f).join(program).exists());
        if !found {
            return Err(Error::Missing { program, package });
        }
    }
    Ok(())
}

/// Loopback is all the network there is, and any address of it may be a client's.
fn network(spaces: &Rc<Namespaces>) -> Result<(), Error> {
    for (name, value) in [
        ("ipv6/conf/all/disable_ipv6", "0"),
        ("ipv6/conf/lo/disable_ipv6", "0"),
        ("ipv6/ip_nonlocal_bind", "1"),
        ("ipv4/ip_local_port_range", "1024 65535"),
    ] {
        let path = format!("/proc/sys/net/{name}");
        fs::write(&path, value).map_err(|e| Error::io("write", &path, e))?;
    }
    // Else a burst of log lines makes Courier wait for the receiver.
    let _ = fs::write("/proc/sys/net/unix/max_dgram_qlen", "1000");
    courier::run(spaces, &["ip", "link", "set", "lo", "up"])?;
    courier::run(
        spaces,
        &[
            "ip",
            "-6",
            "route",
            "add",
            "local",
            "fd00::/16",
            "dev",
            "lo",
        ],
    )
}

/// Not through a link: /etc/resolv.conf is often one into the machine's /run, which the lab does not have.
fn replace(path: &str, text: &str) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::write(path, text)
}
