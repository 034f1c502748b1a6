//! The namespaces of one lab.
//!
//! The *calling thread* moves into a new mount namespace, and for [`Spaces::Private`] also into a new network namespace,
//! while a small `sh` becomes pid 1 of a new pid namespace. Threads that the calling thread starts afterwards inherit
//! its namespaces, other threads of the process notice nothing.
//!
//! Guarantees: the lab ends with its thread or process, however that dies. In a pid namespace the kernel sees to it:
//! pid 1 has a parent-death signal. In the machine's own the guardian does. The mounts end with the last process in
//! them. `Drop` ends everything, reaps what was started through [`Command`](crate::Command) and takes the thread back
//! to where it was.
//!
//! The caller owes: every helper thread is joined before the drop, else it keeps the namespaces alive.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::fcntl::{OFlag, open, openat};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{chdir, chroot, fchdir, write};

use crate::cgroup::Cgroup;
use crate::command::{PATH, Process, lock};
use crate::{Error, guardian, machine, wait_for};

/// Which of the machine's namespaces a lab shares. Its mounts are its own always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Spaces {
    /// Neither the network nor the processes.
    #[default]
    Private,
    /// Both, for what the kernel does in the initial namespaces alone (the proc connector). The lab then keeps to
    /// loopback addresses and ports of its own, there is one at a time, and no IPv6, no ipset and no firewall rule.
    Machine,
}

/// Mounts the lab's /proc, says so, and then reaps orphans for ever, as pid 1 must.
const INIT: &str = "mount -t proc proc /proc && echo ready && exec >/dev/null 2>&1 || exit 1
sleep infinity & while :; do wait; done";

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
    // `Drop` ends the keeper before the field `home` takes the thread back.
    keeper: Keeper,
    children: RefCell<Vec<Arc<Mutex<Child>>>>,
    /// Device and inode, by which /proc tells who is in it.
    mount_space: (u64, u64),
    host_proc: OwnedFd,
    _home: Home,
    cgroup: Option<Cgroup>,
}

/// Who sees to it that the lab ends.
enum Keeper {
    /// Pid 1 of the pid namespace; its own end is the end of all others.
    Init {
        init: Child,
        own_pids: File,
        lab_pids: File,
    },
    Guardian {
        guardian: Child,
        _lock: File,
    },
}

impl Namespaces {
    /// Moves the calling thread into new namespaces, lets `furnish` mount what the lab needs, then starts its keeper.
    pub(crate) fn enter(
        spaces: Spaces,
        cgroup: Option<Cgroup>,
        furnish: impl FnOnce() -> Result<(), Error>,
    ) -> Result<Rc<Self>, Error> {
        let space = |name: &str| {
            let path = format!("/proc/thread-self/ns/{name}");
            File::open(&path).map_err(|e| Error::io("open", &path, e))
        };
        let flags = match spaces {
            Spaces::Private => CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET,
            Spaces::Machine => CloneFlags::CLONE_NEWNS,
        };
        let machine_lock = match spaces {
            Spaces::Private => None,
            Spaces::Machine => Some(machine::lock()?),
        };
        let own_pids = space("pid")?;
        let directory = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        let root = open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(|e| Error::io("open", "/", e.into()))?;
        let host_proc = open("/proc", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(|e| Error::io("open", "/proc", e.into()))?;
        let (mount_space, net) = (space("mnt")?, space("net")?);

        unshare(flags).map_err(Error::Namespaces)?;
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
        let mount_space = space("mnt")?
            .metadata()
            .map(|file| (file.dev(), file.ino()))
            .map_err(|e| Error::io("look at", "the mount namespace", e))?;
        furnish()?;

        let keeper = match machine_lock {
            None => {
                unshare(CloneFlags::CLONE_NEWPID).map_err(Error::Namespaces)?;
                let started = start_init();
                // With a pid namespace for its children that is not its own, a thread cannot start threads.
                setns(&own_pids, CloneFlags::CLONE_NEWPID).map_err(Error::Namespaces)?;
                let init = started?;
                match File::open("/proc/1/ns/pid") {
                    Ok(lab_pids) => Keeper::Init {
                        init,
                        own_pids,
                        lab_pids,
                    },
                    Err(error) => {
                        end(init);
                        return Err(Error::io("open", "/proc/1/ns/pid", error));
                    }
                }
            }
            Some(lock) => {
                let path = cgroup.as_ref().map(|cgroup| cgroup.path());
                let path = path.unwrap_or(Path::new("")).to_string_lossy();
                let guardian = guardian::start(&lock, &path)?;
                Keeper::Guardian {
                    guardian,
                    _lock: lock,
                }
            }
        };
        let children = RefCell::default();
        Ok(Rc::new(Self {
            keeper,
            children,
            mount_space,
            host_proc,
            _home: home,
            cgroup,
        }))
    }

    /// The cgroup of what is started here, if there is one.
    pub(crate) fn cgroup(&self) -> Option<&Cgroup> {
        self.cgroup.as_ref()
    }

    /// Whether a process that the lab's /proc shows is the lab's: of a pid namespace all are.
    pub(crate) fn holds(&self, pid: i32) -> bool {
        if matches!(self.keeper, Keeper::Init { .. }) {
            return true;
        }
        let pid_is_ours = u32::try_from(pid) == Ok(std::process::id());
        !pid_is_ours
            && std::fs::metadata(format!("/proc/{pid}/ns/mnt"))
                .is_ok_and(|file| (file.dev(), file.ino()) == self.mount_space)
    }

    /// The number that the machine's own pid namespace has for a process of the lab.
    pub(crate) fn pid_on_machine(&self, pid: i32) -> io::Result<i32> {
        if matches!(self.keeper, Keeper::Guardian { .. }) {
            return Ok(pid);
        }
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_DIRECTORY;
        let mut proc = nix::dir::Dir::openat(self.host_proc.as_fd(), ".", flags, Mode::empty())?;
        let numbers: Vec<i32> = proc
            .iter()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str().ok()?.parse().ok())
            .collect();
        let wanted = self.mount_space;
        numbers
            .into_iter()
            .find(|number| {
                let space = nix::sys::stat::fstatat(
                    self.host_proc.as_fd(),
                    format!("{number}/ns/mnt").as_str(),
                    nix::fcntl::AtFlags::empty(),
                );
                space.is_ok_and(|file| (file.st_dev, file.st_ino) == wanted)
                    && self.pid_in_lab(*number).is_ok_and(|inner| inner == pid)
            })
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(crate) fn spawn(&self, command: &mut std::process::Command) -> io::Result<Process> {
        if let Some(cgroup) = &self.cgroup {
            let procs = cgroup.procs()?;
            // SAFETY: the closure runs in the forked child of a process with several threads, where only
            // async-signal-safe calls are allowed: write(2) is one, and its error becomes an io::Error without
            // allocation.
            unsafe {
                command.pre_exec(move || Ok(write(&procs, b"0").map(drop)?));
            }
        }
        let (child, pid) = match &self.keeper {
            Keeper::Guardian { .. } => {
                let child = command.spawn()?;
                let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
                (child, pid)
            }
            Keeper::Init {
                own_pids, lab_pids, ..
            } => {
                setns(lab_pids, CloneFlags::CLONE_NEWPID)?;
                let spawned = command.spawn();
                setns(own_pids, CloneFlags::CLONE_NEWPID)?;
                let mut child = spawned?;
                let host_pid = i32::try_from(child.id()).map_err(io::Error::other)?;
                let pid = self.pid_in_lab(host_pid).inspect_err(|_| {
                    let _ = child.kill();
                    let _ = child.wait();
                })?;
                (child, pid)
            }
        };
        let process = Process::new(pid, child);
        let mut children = self.children.borrow_mut();
        children.retain(|other| {
            Arc::strong_count(other) > 1 || matches!(lock(other).try_wait(), Ok(None))
        });
        children.push(Arc::clone(process.child()));
        Ok(process)
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
        let (keeper, name) = match &mut self.keeper {
            Keeper::Init { init, .. } => {
                let _ = init.kill();
                (init, "pid 1")
            }
            Keeper::Guardian { guardian, .. } => {
                drop(guardian.stdin.take());
                (guardian, "the guardian")
            }
        };
        // Pid 1 stays until the last process of its namespace has been reaped, and these are ours to reap.
        for child in self.children.get_mut() {
            let mut child = lock(child);
            let _ = child.kill();
            let _ = child.wait();
        }
        if wait_for(Duration::from_secs(10), || keeper.try_wait().ok().flatten()).is_none() {
            eprintln!(
                "lab: {name} (process {} of the host) does not end",
                keeper.id()
            );
        }
    }
}

fn end(mut child: Child) {
    let _ = child.kill();
    let _ = child.wait();
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
