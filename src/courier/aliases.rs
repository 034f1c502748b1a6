//! Courier's aliases, as `aliaslookup` tells them.
//!
//! Who reads what clients send cannot run a program (`sys::sandbox`), so that
//! nobody who takes it over can. So before it reads anything it starts a
//! process, this program again, that runs `aliaslookup` alone: [`serve`]. It
//! ends with the process that started it.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, getsockopt, recv, send, socketpair, sockopt,
};
use rblfilter_warden::policy::Layer;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Mutex, OnceCell};
use tokio::time::{sleep, timeout};

use super::control_file::Alias;
use crate::sys::{forbid_tracing, sandbox, spawn_with, watched};

/// The first argument of the process that runs `aliaslookup`.
pub const ROLE: &str = "alias-lookups";

/// How long all look-ups of a message together may take; one reads a record of
/// a database.
const PATIENCE: Duration = Duration::from_secs(1);
/// The most aliases that are looked up for one message: it takes a process each.
const MOST: usize = 8;
/// The longest alias, and the most that is heard of what one stands for.
const ALIAS_LEN: usize = 4096;
const ANSWER_LEN: usize = 64 * 1024;
/// Before a question: its number. Before an answer: that, and whether there is one.
const NUMBER: usize = 4;
const HEADER: usize = NUMBER + 1;

/// Whether it is under a filter of system calls: its first argument after the role.
const AUTO: &str = "fenced";
const OFF: &str = "unfenced";
/// How often it is looked at where its pidfd cannot be had.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// The way to the process that looks aliases up.
#[derive(Debug)]
pub struct Aliases {
    /// It ends with the socket. One that ended before is collected when that is
    /// missed.
    process: StdMutex<Child>,
    way: Mutex<Way>,
}

#[derive(Debug)]
struct Way {
    /// Until it is in the event loop.
    socket: Option<OwnedFd>,
    watched: OnceCell<AsyncFd<OwnedFd>>,
    number: u32,
}

impl Aliases {
    /// Starts the process; `own` is this program, `aliaslookup` the one that it
    /// is to run, under a filter of system calls where `seccomp` wants it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn start(own: &Path, name: &str, aliaslookup: &Path, seccomp: Layer) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        nix::fcntl::fcntl(
            &ours,
            nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK),
        )?;
        let fence = if seccomp == Layer::Off { OFF } else { AUTO };
        let arguments = |_: &_| vec![ROLE.into(), fence.into(), aliaslookup.into()];
        Ok(Self {
            process: StdMutex::new(spawn_with(own, name, &theirs, &[], arguments)?),
            way: Mutex::new(Way {
                socket: Some(ours),
                watched: OnceCell::new(),
                number: 0,
            }),
        })
    }

    /// Whether each alias stands for its address, among others. Neither is
    /// trusted: both may be the client's words. More than eight are not looked
    /// up, and do not.
    ///
    /// # Errors
    /// Where `aliaslookup` cannot be run, fails, or takes too long.
    pub async fn all_stand(&self, aliases: Vec<Alias>) -> io::Result<bool> {
        let distinct: HashSet<Alias> = aliases.into_iter().collect();
        if distinct.len() > MOST {
            return Ok(false);
        }
        let all = async {
            let mut way = self.way.lock().await;
            for (alias, address) in &distinct {
                let text = way.ask(alias).await?;
                let mut lines = text.lines();
                if !lines.any(|line| line.trim().eq_ignore_ascii_case(address)) {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        timeout(PATIENCE, all)
            .await
            .unwrap_or(Err(ErrorKind::TimedOut.into()))
            .map_err(|error| self.has_ended().unwrap_or(error))
    }

    /// Waits until the process has ended, and tells so. We may start none: a next
    /// worker can.
    pub async fn ended(&self) -> io::Error {
        let pidfd = pidfd_open(Pid::from_child(&self.process()), PidfdFlags::empty());
        let pidfd = pidfd
            .map_err(io::Error::from)
            .and_then(|pidfd| watched(pidfd, Interest::READABLE));
        loop {
            if let Some(error) = self.has_ended() {
                return error;
            }
            match &pidfd {
                // It stays so, and is collected in the next round.
                Ok(pidfd) => drop(pidfd.readable().await),
                Err(_) => sleep(LOOK_AGAIN).await,
            }
        }
    }

    /// That the process has ended, where it has.
    fn has_ended(&self) -> Option<io::Error> {
        let status = self.process().try_wait().ok()??;
        Some(io::Error::other(format!(
            "the process that looks them up has ended ({status})"
        )))
    }

    fn process(&self) -> MutexGuard<'_, Child> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Way {
    /// What `aliaslookup` prints of `alias`.
    async fn ask(&mut self, alias: &str) -> io::Result<String> {
        let socket = self.socket.take();
        let watch = async || {
            watched(
                socket.ok_or(ErrorKind::NotConnected)?,
                Interest::READABLE | Interest::WRITABLE,
            )
        };
        let socket = self.watched.get_or_try_init(watch).await?;
        self.number = self.number.wrapping_add(1);
        let number = self.number.to_le_bytes();
        let question = [&number[..], alias.as_bytes()].concat();
        let flags = MsgFlags::MSG_NOSIGNAL;
        socket
            .async_io(Interest::WRITABLE, |socket| {
                Ok(send(socket.as_raw_fd(), &question, flags)?)
            })
            .await?;
        let mut bytes = vec![0; HEADER + ANSWER_LEN];
        loop {
            let length = socket
                .async_io(Interest::READABLE, |socket| {
                    Ok(recv(socket.as_raw_fd(), &mut bytes, MsgFlags::empty())?)
                })
                .await?;
            let answer = bytes[..length].split_at_checked(HEADER);
            let (header, text) = answer.ok_or(ErrorKind::BrokenPipe)?;
            // One to a question that was given up comes late.
            if header[..NUMBER] != number {
                continue;
            }
            let text = String::from_utf8_lossy(text).into_owned();
            return if header[NUMBER] == 0 {
                Ok(text)
            } else {
                Err(io::Error::other(text))
            };
        }
    }
}

/// Looks up what is asked for on descriptor 0, one after the other, until its
/// other end is closed. `arguments` are those after the role.
#[must_use]
pub fn serve(arguments: &[OsString]) -> ExitCode {
    let is_ours =
        getsockopt(&io::stdin(), sockopt::SockType).is_ok_and(|kind| kind == SockType::SeqPacket);
    let [fence, program] = arguments else {
        return usage();
    };
    let seccomp = match fence.to_str() {
        Some(AUTO) => Layer::Auto,
        Some(OFF) => Layer::Off,
        _ => return usage(),
    };
    if !is_ours {
        return usage();
    }
    forbid_tracing();
    // So that whoever looks at processes knows it.
    let _ = prctl::set_name(c"rblfilter-alias");
    sandbox::fence(seccomp, |layer, error| {
        // courierlogger has it.
        eprintln!("rblfilter: aliases: sandbox: without {layer}: {error}");
    });
    let program = PathBuf::from(program);
    let socket = io::stdin().as_raw_fd();
    let mut bytes = vec![0; NUMBER + ALIAS_LEN + 1];
    loop {
        let length = match recv(socket, &mut bytes, MsgFlags::empty()) {
            Ok(0) => return ExitCode::SUCCESS,
            Ok(length) => length,
            Err(nix::errno::Errno::EINTR) => continue,
            Err(_) => return ExitCode::SUCCESS,
        };
        let Some((number, alias)) = bytes[..length].split_at_checked(NUMBER) else {
            continue;
        };
        let (code, text) = match look_up(&program, alias) {
            Ok(text) => (0, text),
            Err(error) => (1, error.to_string().into_bytes()),
        };
        let answer = [number, &[code], &text].concat();
        // Who asked may be gone, and then this ends.
        let _ = send(socket, &answer, MsgFlags::MSG_NOSIGNAL);
    }
}

fn usage() -> ExitCode {
    eprintln!("rblfilter: {ROLE} is for rblfilter itself");
    ExitCode::from(64)
}

/// What `program` prints of `alias`.
fn look_up(program: &Path, alias: &[u8]) -> io::Result<Vec<u8>> {
    // It is the client's word: an option is no alias, nor is what has been cut
    // off, and neither stands for anybody.
    if alias.starts_with(b"-") || alias.contains(&0) || alias.len() > ALIAS_LEN {
        return Ok(Vec::new());
    }
    let shown = program.display();
    let mut child = Command::new(program)
        .arg(OsStr::from_bytes(alias))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("cannot run {shown}: {error}")))?;
    let end = Instant::now() + PATIENCE;
    let read = child
        .stdout
        .take()
        .ok_or(ErrorKind::BrokenPipe.into())
        .and_then(|stdout| read(stdout, end))
        // One that prints no more may stay all the same.
        .and_then(|text| ends(&child, end).map(|()| text));
    if read.is_err() {
        // It may have ended meanwhile; its status is collected in any case.
        let _ = child.kill();
    }
    let status = child.wait()?;
    let text = read?;
    if status.success() {
        Ok(text)
    } else {
        Err(io::Error::other(format!("{shown}: {status}")))
    }
}

/// Waits until `child` has ended, before `end`.
fn ends(child: &Child, end: Instant) -> io::Result<()> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    wait_for(&pidfd, end)
}

/// Waits until `fd` is readable, before `end`.
fn wait_for(fd: &impl AsFd, end: Instant) -> io::Result<()> {
    let left = end.saturating_duration_since(Instant::now());
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    if poll(&mut fds, timeout)? == 0 {
        return Err(ErrorKind::TimedOut.into());
    }
    Ok(())
}

/// What comes until the other end is closed, before `end`.
fn read(mut pipe: impl Read + AsFd, end: Instant) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let mut bytes = [0; 4096];
    loop {
        wait_for(&pipe, end)?;
        let length = pipe.read(&mut bytes)?;
        if length == 0 {
            return Ok(text);
        }
        text.extend_from_slice(&bytes[..length]);
        if text.len() > ANSWER_LEN {
            return Err(ErrorKind::FileTooLarge.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn look(program: &str, alias: &str) -> io::Result<String> {
        look_up(Path::new(program), alias.as_bytes())
            .map(|text| String::from_utf8_lossy(&text).into_owned())
    }

    #[test]
    fn what_the_program_prints_is_the_answer() {
        // echo prints its argument.
        assert_eq!(look("/bin/echo", "a@b.test").unwrap(), "a@b.test\n");
        assert_eq!(look("/bin/true", "a@b.test").unwrap(), "");
        assert!(look("/bin/false", "a@b.test").is_err());
        let error = look("/nowhere", "a@b.test").unwrap_err().to_string();
        assert!(error.starts_with("cannot run /nowhere: "), "{error}");
    }

    #[test]
    fn one_that_hangs_or_prints_without_end_is_ended() {
        let begun = Instant::now();
        let error = look("/bin/sleep", "60").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(look("/usr/bin/yes", "y").is_err());
        assert!(begun.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn one_that_closes_its_output_and_stays_is_ended() {
        let folder = std::env::temp_dir().join(format!("rblfilter-alias-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let script = folder.join("stays");
        std::fs::write(&script, "#!/bin/sh\nexec >&-\nexec sleep 60\n").unwrap();
        std::fs::set_permissions(&script, PermissionsExt::from_mode(0o700)).unwrap();
        let begun = Instant::now();
        let error = look(script.to_str().unwrap(), "a@b.test").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(begun.elapsed() < Duration::from_secs(30));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[tokio::test]
    async fn a_process_that_has_ended_is_collected_and_told_of() {
        // It takes its arguments for what to print, and ends.
        let own = Path::new("/bin/echo");
        let aliases = Aliases::start(own, "echo", Path::new("x"), Layer::Auto).unwrap();
        let pid = aliases.process().id();
        let told = timeout(Duration::from_secs(30), aliases.ended()).await;
        assert!(told.unwrap().to_string().contains("has ended"));
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        let question = vec![("a".into(), "a@b.test".into())];
        let error = aliases.all_stand(question).await.unwrap_err();
        assert!(error.to_string().contains("has ended"), "{error}");
    }

    #[test]
    fn what_is_no_alias_stands_for_nobody() {
        for alias in ["--help", "a\0b", &"a".repeat(ALIAS_LEN + 1)] {
            assert_eq!(look("/bin/false", alias).unwrap(), "");
        }
    }
}
