//! Starting a process that keeps some of our descriptors, and signals.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl, open};
use nix::libc;
use nix::sys::prctl;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::stat::Mode;

/// Where the system's programs are, and no one else's.
const PROGRAMS: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command that runs the system's program `name`, whatever this process's `PATH`
/// is: a command of root's may have been given one by somebody else.
#[must_use]
pub fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    command.env("PATH", PROGRAMS);
    command
}

/// Starts `program` under the name `name` in a session of its own, with `stdin` as its descriptor 0 and
/// each of `handed` open under the number that it has here. `arguments` makes
/// its arguments from those numbers.
///
/// # Errors
/// What the kernel says.
pub fn spawn_with(
    program: &Path,
    name: &str,
    stdin: &OwnedFd,
    handed: &[BorrowedFd<'_>],
    arguments: impl FnOnce(&[RawFd]) -> Vec<OsString>,
) -> io::Result<Child> {
    let numbers: Vec<RawFd> = handed.iter().map(AsRawFd::as_raw_fd).collect();
    let mut command = Command::new(program);
    command
        .arg0(name)
        .args(arguments(&numbers))
        .stdin(Stdio::from(stdin.try_clone()?));
    set_apart(&mut command);
    // SAFETY: between fork and exec this calls fcntl(2) alone, which is
    // async-signal-safe, on descriptors that are borrowed for as long as this
    // function runs; the vector was allocated before the fork.
    unsafe {
        command.pre_exec(move || {
            for number in &numbers {
                let fd = BorrowedFd::borrow_raw(*number);
                fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
            }
            Ok(())
        });
    }
    command.spawn()
}

/// Makes this process run `program` under the name `name`, with descriptor 0 and
/// those numbered `kept`, under their numbers. Returns only where that failed;
/// all is as it was then.
pub fn replace_with(
    program: &Path,
    name: &str,
    kept: &[BorrowedFd<'_>],
    arguments: &[OsString],
) -> io::Error {
    let keep = |flag: FdFlag| -> io::Result<()> {
        for fd in kept {
            fcntl(fd, FcntlArg::F_SETFD(flag))?;
        }
        Ok(())
    };
    let error = match keep(FdFlag::empty()) {
        Ok(()) => Command::new(program).arg0(name).args(arguments).exec(),
        Err(error) => error,
    };
    // An open descriptor takes this flag.
    let _ = keep(FdFlag::FD_CLOEXEC);
    error
}

/// Has `command` start in a session of its own, which gives it a share of the
/// processors of its own, beside that of all of Courier together (sched(7),
/// autogrouping), whoever started courierfilter. Where memory runs out, the
/// kernel ends it before this process, whatever their sizes
/// (proc_pid_oom_score_adj(5)): this one is there to start it again.
pub fn set_apart(command: &mut Command) {
    // SAFETY: between fork and exec this calls setsid(2), prctl(2), open(2),
    // write(2) and close(2) alone, which are async-signal-safe, and allocates
    // nothing. The first fails for the leader of a group alone, which a process
    // is not that was just forked.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            // One that may not be traced may not write there; the exec would let it
            // be traced anyway. Without /proc it is no worse off than this process.
            let _ = prctl::set_dumpable(true);
            let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
            if let Ok(file) = open(c"/proc/self/oom_score_adj", flags, Mode::empty()) {
                let _ = nix::unistd::write(&file, b"1000");
            }
            Ok(())
        });
    }
}

/// Lets nobody of this process's user trace it, or write into its memory
/// (`/proc/PID/mem`): a worker that was taken over could run programs by it, and
/// leave its walls. An exec puts an end to it; programs that are started are not
/// affected.
pub fn forbid_tracing() {
    // The kernel refuses other values alone.
    let forbidden = prctl::set_dumpable(false);
    debug_assert!(forbidden.is_ok());
}

/// Lets SIGHUP, SIGTERM and SIGINT pass without effect, for this process and
/// those it starts until they set another.
pub fn ignore_signals() {
    for number in [Signal::SIGHUP, Signal::SIGTERM, Signal::SIGINT] {
        // SAFETY: no handler is installed, so none can run anywhere.
        let ignored = unsafe { signal(number, SigHandler::SigIgn) };
        // These exist and may be ignored, so this cannot fail.
        debug_assert!(ignored.is_ok());
    }
}

/// The shortest slice that the scheduler takes, in nanoseconds (kernel/sched/syscalls.c).
const SHORT_SLICE: u64 = 100_000;

/// `struct sched_attr`, as far as the kernel has had it from the start
/// (include/uapi/linux/sched/types.h).
#[repr(C)]
#[derive(Default)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Has the calling thread run in short slices, which lets it run sooner after it
/// wakes on a busy machine (sched_setattr(2), Linux 6.12; without effect
/// before). Its share of the processor stays the same.
///
/// # Errors
/// What the kernel says.
pub fn run_soon() -> io::Result<()> {
    let mut attr = SchedAttr::default();
    let size = size_of::<SchedAttr>();
    // SAFETY: both calls read or write at most `size` bytes of `attr`, which is
    // of the kernel's layout and lives until they return; 0 is this thread.
    let done = unsafe {
        let got = libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attr, size, 0);
        attr.runtime = SHORT_SLICE;
        if got == 0 {
            libc::syscall(libc::SYS_sched_setattr, 0, &raw mut attr, 0)
        } else {
            got
        }
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_may_ask_to_run_soon() {
        run_soon().unwrap();
    }

    #[test]
    fn a_program_is_one_of_the_systems() {
        let output = program("env").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            text.lines().any(|line| line == format!("PATH={PROGRAMS}")),
            "{text}"
        );
    }
}
