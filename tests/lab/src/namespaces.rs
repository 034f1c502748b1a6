//! The private mount, network and pid namespaces of one lab.
//!
//! The *calling thread* moves into new mount and network namespaces; a small `sh` becomes pid 1 of a new pid
//! namespace. Threads that the calling thread starts afterwards inherit its namespaces, other threads of the process
//! notice nothing.
//!
//! Guarantees: pid 1 has a parent-death signal, so the lab ends with its thread, however that dies, and the mounts end
//! with the last process in them. `Drop` ends pid 1, reaps what was started through [`Command`] and takes the thread
//! back to where it was.
//!
//! The caller owes: every helper thread is joined before the drop, else it keeps the namespaces alive.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Output, Stdio};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::fcntl::{OFlag, open, openat};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, chdir, chroot, fchdir};

use crate::{Error, wait_for};

/// Mounts the lab's /proc, says so, and then reaps orphans for ever, as pid 1 must.
const INIT: &str = "mount -t proc proc /proc && echo ready && exec >/dev/null 2>&1 || exit 1
sleep infinity & while :; do wait; done";

/// Every program of the lab is found here, whatever sudo left of `PATH`.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where the thread came from; dropping it goes back.
struct Home {
    mount: File,
    net: File,
    root: OwnedFd,
    directory: PathBuf,
    mask: Mode,
}

impl Drop for Home {
    fn drop(&mut self) {
        // A thread that shares its root and working directory with another may not change its mount namespace.
        let back = unshare(CloneFlags::CLONE_FS)
            .and_then(|()| setns(&self.mount, CloneFlags::CLONE_NEWNS))
            .and_then(|()| setns(&self.net, CloneFlags::CLONE_NEWNET));
        if let Err(error) = back {
            eprintln!("lab: cannot take the thread back to its own namespaces: {error}");
        }
        umask(self.mask);
        // The thread's root is now the mount namespace's, which is not its own in a chroot.
        let home = fchdir(&self.root)
            .and_then(|()| chroot("."))
            .and_then(|()| chdir(&self.directory));
        if let Err(error) = home {
            eprintln!(
                "lab: cannot return to {}: {error}",
                self.directory.display()
            );
        }
    }
}

/// The namespaces of one lab, and the processes started in them.
pub(crate) struct Namespaces {
    // `Drop` ends init before the field `home` takes the thread back.
    init: Child,
    children: RefCell<Vec<Arc<Mutex<Child>>>>,
    own_pids: File,
    lab_pids: File,
    host_proc: OwnedFd,
    _home: Home,
}

impl Namespaces {
    /// Moves the calling thread into new namespaces, lets `furnish` mount what the lab needs, then starts pid 1.
    pub(crate) fn enter(furnish: impl FnOnce() -> Result<(), Error>) -> Result<Rc<Self>, Error> {
        let space = |name: &str| {
            let path = format!("/proc/thread-self/ns/{name}");
            File::open(&path).map_err(|e| Error::io("open", &path, e))
        };
        let own_pids = space("pid")?;
        let directory = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        let root = open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(|e| Error::io("open", "/", e.into()))?;
        let host_proc = open("/proc", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(|e| Error::io("open", "/proc", e.into()))?;
        let (mount_space, net) = (space("mnt")?, space("net")?);

        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).map_err(Error::Namespaces)?;
        // The new mount namespace came with a root, working directory and umask of the thread's own.
        let home = Home {
            mount: mount_space,
            net,
            root,
            directory,
            mask: umask(Mode::from_bits_truncate(0o022)),
        };
        let none: Option<&Path> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
            .map_err(|e| Error::io("make private", "/", e.into()))?;
        furnish()?;

        unshare(CloneFlags::CLONE_NEWPID).map_err(Error::Namespaces)?;
        let started = start_init();
        // With a pid namespace for its children that is not its own, a thread cannot start threads.
        setns(&own_pids, CloneFlags::CLONE_NEWPID).map_err(Error::Namespaces)?;
        let init = started?;
        let lab_pids = match File::open("/proc/1/ns/pid") {
            Ok(file) => file,
            Err(error) => {
                end(init);
                return Err(Error::io("open", "/proc/1/ns/pid", error));
            }
        };
        let children = RefCell::default();
        Ok(Rc::new(Self {
            init,
            children,
            own_pids,
            lab_pids,
            host_proc,
            _home: home,
        }))
    }

    fn spawn(&self, command: &mut std::process::Command) -> io::Result<Process> {
        setns(&self.lab_pids, CloneFlags::CLONE_NEWPID)?;
        let spawned = command.spawn();
        setns(&self.own_pids, CloneFlags::CLONE_NEWPID)?;
        let mut child = spawned?;
        let host_pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        let pid = self.pid_in_lab(host_pid).inspect_err(|_| {
            let _ = child.kill();
            let _ = child.wait();
        })?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let child = Arc::new(Mutex::new(child));
        let mut children = self.children.borrow_mut();
        children.retain(|other| {
            Arc::strong_count(other) > 1 || matches!(lock(other).try_wait(), Ok(None))
        });
        children.push(Arc::clone(&child));
        let (stdin, stdout, stderr) = pipes;
        Ok(Process {
            stdin,
            stdout,
            stderr,
            pid,
            child,
        })
    }

    /// The last number of `NSpid` is the pid in the innermost namespace; only the host's /proc shows it by host pid.
    fn pid_in_lab(&self, host_pid: i32) -> io::Result<i32> {
        let file = openat(
            self.host_proc.as_fd(),
            format!("{host_pid}/status").as_str(),
            OFlag::O_RDONLY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?;
        let mut status = String::new();
        File::from(file).read_to_string(&mut status)?;
        let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        pids.and_then(|pids| pids.split_whitespace().last()?.parse().ok())
            .ok_or_else(|| {
                io::Error::other(format!("no NSpid in the status of process {host_pid}"))
            })
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        let _ = self.init.kill();
        // Pid 1 stays until the last process of its namespace has been reaped, and these are ours to reap.
        for child in self.children.get_mut() {
            let mut child = lock(child);
            let _ = child.kill();
            let _ = child.wait();
        }
        if wait_for(Duration::from_secs(10), || {
            self.init.try_wait().ok().flatten()
        })
        .is_none()
        {
            eprintln!(
                "lab: pid 1 (process {} of the host) does not end",
                self.init.id()
            );
        }
    }
}

fn end(mut child: Child) {
    let _ = child.kill();
    let _ = child.wait();
}

fn lock(child: &Mutex<Child>) -> std::sync::MutexGuard<'_, Child> {
    child.lock().unwrap_or_else(PoisonError::into_inner)
}

fn start_init() -> Result<Child, Error> {
    let mut command = std::process::Command::new("/bin/sh");
    command
        .args(["-c", INIT])
        .env_clear()
        .env("PATH", PATH)
        .current_dir("/");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // SAFETY: the closure runs in the forked child of a process with several threads, where only async-signal-safe
    // calls are allowed: prctl(2) is a plain system call, and the error is turned into an io::Error without allocation.
    unsafe {
        command.pre_exec(|| Ok(set_pdeathsig(Signal::SIGKILL)?));
    }
    let mut init = command
        .spawn()
        .map_err(|e| Error::io("start", "/bin/sh as pid 1", e))?;
    let mut line = String::new();
    if let Some(stdout) = init.stdout.take() {
        let _ = BufReader::new(stdout).read_line(&mut line);
    }
    if line == "ready\n" {
        init.stderr = None;
        return Ok(init);
    }
    let mut text = String::new();
    let _ = init.kill();
    if let Some(mut stderr) = init.stderr.take() {
        let _ = stderr.read_to_string(&mut text);
    }
    end(init);
    Err(Error::Command {
        program: "pid 1 of the lab".into(),
        text,
    })
}

/// A program to run in all three namespaces of the lab; like [`std::process::Command`].
pub struct Command {
    spaces: Rc<Namespaces>,
    inner: std::process::Command,
}

impl Command {
    pub(crate) fn new(spaces: &Rc<Namespaces>, program: impl AsRef<OsStr>) -> Self {
        let mut inner = std::process::Command::new(program);
        inner.env("PATH", PATH).stdin(Stdio::null());
        Self {
            spaces: Rc::clone(spaces),
            inner,
        }
    }

    /// Adds one argument.
    pub fn arg(&mut self, arg: impl AsRef<OsStr>) -> &mut Self {
        self.inner.arg(arg);
        self
    }

    /// Adds arguments.
    pub fn args(&mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> &mut Self {
        self.inner.args(args);
        self
    }

    /// Sets one environment variable. `PATH` is set already, the rest is inherited from the test.
    pub fn env(&mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        self.inner.env(name, value);
        self
    }

    /// Empties the environment, `PATH` too.
    pub fn env_clear(&mut self) -> &mut Self {
        self.inner.env_clear();
        self
    }

    /// Sets the working directory, which is else the thread's.
    pub fn current_dir(&mut self, directory: impl AsRef<Path>) -> &mut Self {
        self.inner.current_dir(directory);
        self
    }

    /// Runs it as this user and group (without supplementary groups).
    pub fn user(&mut self, uid: u32, gid: u32) -> &mut Self {
        self.inner.uid(uid).gid(gid);
        self
    }

    /// Sets descriptor 0, which is else /dev/null.
    pub fn stdin(&mut self, stdin: impl Into<Stdio>) -> &mut Self {
        self.inner.stdin(stdin);
        self
    }

    /// Sets descriptor 1, which is else the test's. Without effect on [`output`](Self::output).
    pub fn stdout(&mut self, stdout: impl Into<Stdio>) -> &mut Self {
        self.inner.stdout(stdout);
        self
    }

    /// Sets descriptor 2, which is else the test's. Without effect on [`output`](Self::output).
    pub fn stderr(&mut self, stderr: impl Into<Stdio>) -> &mut Self {
        self.inner.stderr(stderr);
        self
    }

    /// Starts it. It ends with the lab at the latest.
    pub fn spawn(&mut self) -> io::Result<Process> {
        self.spaces.spawn(&mut self.inner)
    }

    /// Runs it to its end.
    pub fn status(&mut self) -> io::Result<ExitStatus> {
        self.spawn()?.wait()
    }

    /// Runs it to its end and returns what it wrote. A daemon that it leaves behind with its descriptors is not waited
    /// for: the output goes through memory files, not pipes.
    pub fn output(&mut self) -> io::Result<Output> {
        let file = |name| memfd_create(name, MFdFlags::MFD_CLOEXEC).map(File::from);
        let (stdout, stderr) = (file(c"stdout")?, file(c"stderr")?);
        self.inner
            .stdout(stdout.try_clone()?)
            .stderr(stderr.try_clone()?);
        let status = self.spawn()?.wait()?;
        Ok(Output {
            status,
            stdout: contents(&stdout)?,
            stderr: contents(&stderr)?,
        })
    }
}

/// By offset: a daemon that still writes shares the file position.
fn contents(file: &File) -> io::Result<Vec<u8>> {
    let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// A running program of the lab. Dropping it leaves it running; the lab ends and reaps it.
pub struct Process {
    /// The write end of descriptor 0, if it was piped.
    pub stdin: Option<std::process::ChildStdin>,
    /// The read end of descriptor 1, if it was piped.
    pub stdout: Option<std::process::ChildStdout>,
    /// The read end of descriptor 2, if it was piped.
    pub stderr: Option<std::process::ChildStderr>,
    pid: i32,
    child: Arc<Mutex<Child>>,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

impl Process {
    /// Its pid in the lab's /proc.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let mut child = lock(&self.child);
        if child.try_wait()?.is_some() {
            return Err(io::Error::other("the process has ended"));
        }
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        Ok(kill(Pid::from_raw(pid), signal)?)
    }

    /// Its exit status if it has ended.
    pub fn try_wait(&self) -> io::Result<Option<ExitStatus>> {
        lock(&self.child).try_wait()
    }

    /// Waits for its end, without a bound. Closes the piped stdin first.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.stdin = None;
        lock(&self.child).wait()
    }

    /// Waits for its end for this long; an error of kind `TimedOut` after that.
    pub fn wait_within(&self, limit: Duration) -> io::Result<ExitStatus> {
        wait_for(limit, || self.try_wait().transpose())
            .unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Kills it with SIGKILL and reaps it.
    pub fn kill(&self) -> io::Result<ExitStatus> {
        let mut child = lock(&self.child);
        child.kill()?;
        child.wait()
    }
}
