//! Who is not signalled: a process that has another's number, or has become
//! another program. The processes here are no Courier's, as that does neither
//! on demand: shells under the names of Courier's programs, in a pid namespace
//! in which a number can be had again.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rblfilter::courier::identified::{Identified, Peer};
use rblfilter::courier::listener::Listeners;
use rblfilter::enforce::kill::Killer;
use rblfilter::watch::Table;

/// Set in the process that runs in the namespace.
const INSIDE: &str = "RBLFILTER_INSIDE";

/// Runs test `name` of this program again, as the first process of a pid
/// namespace; whether this is that process.
fn inside(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let status = Command::new("unshare")
        .args(["--pid", "--fork", "--kill-child", "--mount", "--mount-proc"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        // Its result is ours; what went wrong is on stderr.
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
    false
}

/// A `couriertcpd` that starts what it is told to, one after the other.
struct Tcpd {
    child: Child,
    said: BufReader<ChildStdout>,
    folder: PathBuf,
}

impl Tcpd {
    fn start(test: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("rblfilter-{test}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        for program in ["couriertcpd", "courieresmtpd", "submit"] {
            fs::copy("/bin/dash", folder.join(program)).unwrap();
        }
        // One line: a client's address. The answer: its session's number. An
        // empty one: the session's end is waited for.
        let script = "while read -r ip; do
            if [ -z \"$ip\" ]; then wait; echo ended; continue; fi
            TCPREMOTEIP=$ip TCPREMOTEPORT=1 TCPLOCALPORT=25 \"$0\" -c \
                'read x <fifo; [ \"$x\" = submit ] && ./submit -c \"sleep 60; :\"; exec sleep 60' &
            echo $!
        done";
        nix::unistd::mkfifo(&folder.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut child = Command::new(folder.join("couriertcpd"))
            .args(["-c", script])
            .arg(folder.join("courieresmtpd"))
            .current_dir(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Self {
            child,
            said,
            folder,
        }
    }

    fn ask(&mut self, line: &str) -> String {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        self.said.read_line(&mut answer).unwrap();
        answer.trim().to_owned()
    }

    /// A session of this client.
    fn session(&mut self, client: &str, listeners: &Listeners) -> Identified {
        let pid = self.ask(client).parse().unwrap();
        until(|| Identified::of_session(pid, listeners, &[]).ok())
    }
}

impl Drop for Tcpd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "it does not come");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn name(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm"))
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn signal(pid: i32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

#[test]
fn the_session_that_was_judged_is_ended() {
    let mut tcpd = Tcpd::start("ended");
    let listeners = Listeners::new("/nowhere".into());
    let session = tcpd.session("127.66.1.2", &listeners);
    assert_eq!(Killer::default().end(&session, &listeners), 1);
    assert_eq!(tcpd.ask(""), "ended");
}

#[test]
fn a_process_that_has_anothers_number_is_never_signalled() {
    if !inside("a_process_that_has_anothers_number_is_never_signalled") {
        return;
    }
    let mut tcpd = Tcpd::start("number");
    let listeners = Listeners::new("/nowhere".into());
    let judged = tcpd.session("127.66.1.2", &listeners);
    let pid = judged.esmtpd().pid();
    signal(pid, nix::sys::signal::Signal::SIGKILL);
    assert_eq!(tcpd.ask(""), "ended");
    // pid_namespaces(7): the next process gets the number after this one.
    let last = (pid - 1).to_string();
    fs::write("/proc/sys/kernel/ns_last_pid", &last).unwrap();
    let other = tcpd.session("127.1.2.3", &listeners);
    assert_eq!(other.esmtpd().pid(), pid, "the number is had again");
    assert_eq!(Killer::default().end(&judged, &listeners), 0);
    assert!(other.esmtpd().is_alive());
    other.verify(&listeners).unwrap();
}

#[test]
fn a_process_that_has_become_another_program_is_never_signalled() {
    let mut tcpd = Tcpd::start("program");
    let listeners = Listeners::new("/nowhere".into());
    let judged = tcpd.session("127.66.1.2", &listeners);
    fs::write(tcpd.folder.join("fifo"), "go on\n").unwrap();
    until(|| (name(judged.esmtpd().pid()) == "sleep").then_some(()));
    assert_eq!(Killer::default().end(&judged, &listeners), 0);
    assert!(judged.esmtpd().is_alive());
    signal(judged.esmtpd().pid(), nix::sys::signal::Signal::SIGKILL);
}

/// Its couriertcpd has ended, so it is nobody's session any more.
#[test]
fn a_process_whose_couriertcpd_has_ended_is_not_signalled() {
    let mut tcpd = Tcpd::start("orphan");
    let listeners = Listeners::new("/nowhere".into());
    let judged = tcpd.session("127.66.1.2", &listeners);
    tcpd.child.kill().unwrap();
    tcpd.child.wait().unwrap();
    assert_eq!(Killer::default().end(&judged, &listeners), 0);
    assert!(judged.esmtpd().is_alive());
    signal(judged.esmtpd().pid(), nix::sys::signal::Signal::SIGKILL);
}

/// Its client is told nothing any more, so nothing of it may be accepted.
#[test]
fn a_message_of_a_session_that_is_being_ended_is_known_for_it() {
    let mut tcpd = Tcpd::start("ending");
    let table = Arc::new(Table::new("/nowhere".into(), Vec::new()));
    let identified = Arc::new(tcpd.session("127.1.2.3", table.listeners()));
    fs::write(tcpd.folder.join("fifo"), "submit\n").unwrap();
    let submit = until(|| identified.submit());
    let peer = || Peer {
        pid: submit.pid(),
        pidfd: None,
    };
    let pid = identified.esmtpd().pid();
    // Before the watch has seen it: nothing is known of it, and it is not claimed after.
    assert!(!table.of_submit(peer()).unwrap().ending);
    let entry = table.enter(pid, false).unwrap();
    assert!(!table.claim(pid, false), "it may have been accepted");
    drop(entry);
    let entry = table.enter(pid, false).unwrap();
    entry.identified(&identified);
    assert!(table.claim(pid, false));
    let sender = table.of_submit(peer()).unwrap();
    assert!(sender.ending && Arc::ptr_eq(&sender.identified, &identified));
    table.release(pid);
    assert!(!table.of_submit(peer()).unwrap().ending);
    assert_eq!(Killer::default().end(&identified, table.listeners()), 2);
    assert_eq!(tcpd.ask(""), "ended");
}
