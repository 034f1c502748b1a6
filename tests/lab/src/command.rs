//! Programs of the lab: started in its namespaces, reaped and ended with it.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ExitStatus, Output, Stdio};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::namespaces::Namespaces;
use crate::wait_for;

/// Every program of the lab is found here, whatever sudo left of `PATH`.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The lock of a program that several may wait for or signal.
pub(crate) fn lock(child: &Mutex<Child>) -> MutexGuard<'_, Child> {
    child.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A program to run in the lab's namespaces; like [`std::process::Command`].
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
    pub(crate) fn new(pid: i32, mut child: Child) -> Self {
        Self {
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            pid,
            child: Arc::new(Mutex::new(child)),
        }
    }

    pub(crate) fn child(&self) -> &Arc<Mutex<Child>> {
        &self.child
    }

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
