//! System call filters (seccomp(2)), made from tables.
//!
//! Two filters are installed. One ends the process for calls that only an
//! attacker makes ([`DEADLY`]). The other knows the calls that the program is
//! made of; any other fails with `ENOSYS`, as on a kernel that lacks it, which
//! is what a C library expects of a call that it merely tries: one that is
//! newer than our tables costs a fallback, not the mail.
//!
//! A program that is not ours, and of which nobody knows the calls, has a [`Fence`]:
//! it may make any call but those of a table.

use std::collections::BTreeMap;
use std::env::consts::ARCH;

use nix::libc::{self, c_long};
use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp,
    SeccompCondition, SeccompFilter, SeccompRule, TargetArch, apply_filter,
    apply_filter_all_threads,
};

/// With which arguments a call may be made. An argument is named by its place,
/// from 0, and looked at as 32 bits, which all these are.
#[derive(Clone, Copy, Debug)]
pub enum Only {
    /// With any.
    Any,
    /// The argument is one of these.
    OneOf(u8, &'static [i32]),
    /// socket(2) of `AF_NETLINK`, for one of these protocols.
    Netlink(&'static [i32]),
    /// The argument is this process's number.
    Ourselves(u8),
    /// All of these bits are set in the argument.
    With(u8, i32),
    /// None of these bits is set in the argument.
    Without(u8, i32),
    /// The argument is another.
    Not(u8, i32),
    /// Not both of these bits are set in the argument.
    NotBoth(u8, i32, i32),
}

/// A call, and its arguments.
pub type Allowed = (c_long, Only);

/// Which threads a filter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// The calling one and those that it starts.
    This,
    /// Those too that run already.
    All,
}

/// What any program of ours does: memory, time, signals of its own, randomness,
/// reading, writing to what is open, and the end.
pub const BASE: &[Allowed] = &[
    (libc::SYS_read, Only::Any),
    (libc::SYS_readv, Only::Any),
    (libc::SYS_pread64, Only::Any),
    (libc::SYS_write, Only::Any),
    (libc::SYS_writev, Only::Any),
    (libc::SYS_close, Only::Any),
    (libc::SYS_lseek, Only::Any),
    (libc::SYS_fstat, Only::Any),
    (libc::SYS_newfstatat, Only::Any),
    (libc::SYS_statx, Only::Any),
    (libc::SYS_readlinkat, Only::Any),
    (libc::SYS_getdents64, Only::Any),
    (libc::SYS_fcntl, Only::Any),
    (libc::SYS_dup, Only::Any),
    (libc::SYS_dup3, Only::Any),
    (libc::SYS_ppoll, Only::Any),
    (libc::SYS_brk, Only::Any),
    (
        libc::SYS_mmap,
        Only::NotBoth(2, libc::PROT_WRITE, libc::PROT_EXEC),
    ),
    (libc::SYS_mprotect, Only::Without(2, libc::PROT_EXEC)),
    (libc::SYS_munmap, Only::Any),
    (libc::SYS_mremap, Only::Any),
    (libc::SYS_madvise, Only::Any),
    (libc::SYS_mincore, Only::Any),
    (libc::SYS_futex, Only::Any),
    (libc::SYS_set_robust_list, Only::Any),
    (libc::SYS_rseq, Only::Any),
    (libc::SYS_membarrier, Only::Any),
    (libc::SYS_clock_gettime, Only::Any),
    (libc::SYS_clock_getres, Only::Any),
    (libc::SYS_clock_nanosleep, Only::Any),
    (libc::SYS_nanosleep, Only::Any),
    (libc::SYS_gettimeofday, Only::Any),
    (libc::SYS_getrandom, Only::Any),
    (libc::SYS_rt_sigaction, Only::Any),
    (libc::SYS_rt_sigprocmask, Only::Any),
    (libc::SYS_rt_sigreturn, Only::Any),
    (libc::SYS_sigaltstack, Only::Any),
    (libc::SYS_restart_syscall, Only::Any),
    (libc::SYS_getpid, Only::Any),
    (libc::SYS_gettid, Only::Any),
    (libc::SYS_getppid, Only::Any),
    (libc::SYS_getuid, Only::Any),
    (libc::SYS_geteuid, Only::Any),
    (libc::SYS_getgid, Only::Any),
    (libc::SYS_getegid, Only::Any),
    // abort(3).
    (libc::SYS_tgkill, Only::Ourselves(0)),
    (libc::SYS_uname, Only::Any),
    (libc::SYS_sched_yield, Only::Any),
    (libc::SYS_sched_getaffinity, Only::Any),
    (libc::SYS_capget, Only::Any),
    (libc::SYS_exit, Only::Any),
    (libc::SYS_exit_group, Only::Any),
];

/// The same, by calls that newer architectures do not have.
#[cfg(target_arch = "x86_64")]
pub const BASE_OLD: &[Allowed] = &[
    (libc::SYS_poll, Only::Any),
    (libc::SYS_stat, Only::Any),
    (libc::SYS_lstat, Only::Any),
    (libc::SYS_readlink, Only::Any),
    (libc::SYS_dup2, Only::Any),
    (libc::SYS_time, Only::Any),
    (libc::SYS_arch_prctl, Only::Any),
];
/// The same, by calls that newer architectures do not have.
#[cfg(not(target_arch = "x86_64"))]
pub const BASE_OLD: &[Allowed] = &[];

/// What no part of ours ever does, and no library on its behalf: to become
/// another program, to reach into another process, to change the kernel, the
/// mounts or the namespaces. (Keys are not among it: a library that asks a
/// directory server who a user is may look for one, and is told that the kernel
/// has none.)
pub const DEADLY: &[c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_open_by_handle_at,
    libc::SYS_userfaultfd,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_settimeofday,
    libc::SYS_sethostname,
];

/// What is refused behind a [`Fence`] beside [`DEADLY`], but for the start of
/// programs: to leave the machine, or to get more of the kernel than its work takes.
/// What clone3(2) is asked for a filter cannot see; a C library then takes clone(2).
const FENCED: &[(c_long, Only)] = &[
    (libc::SYS_socket, Only::Not(0, libc::AF_UNIX)),
    // It would make sockets past the filter.
    (libc::SYS_io_uring_setup, Only::Any),
    (libc::SYS_clone, Only::With(0, libc::CLONE_NEWUSER)),
    (libc::SYS_clone, Only::With(0, libc::CLONE_NEWNS)),
    (libc::SYS_clone, Only::With(0, libc::CLONE_NEWNET)),
    (libc::SYS_clone, Only::With(0, libc::CLONE_NEWPID)),
    (libc::SYS_clone3, Only::Any),
    (libc::SYS_add_key, Only::Any),
    (libc::SYS_request_key, Only::Any),
    (libc::SYS_keyctl, Only::Any),
];

/// Those that a [`Fence`] lets pass all the same: it is there for programs.
const STARTS: [c_long; 2] = [libc::SYS_execve, libc::SYS_execveat];

/// On x86-64 a call can be made by another number, of the x32 ABI, where the kernel
/// has that (arch/x86/include/uapi/asm/unistd.h, `__X32_SYSCALL_BIT`). No program
/// that is not of that ABI does: all such are refused that a filter can name.
#[cfg(target_arch = "x86_64")]
const X32: c_long = 0x4000_0000;

/// The numbers of x32 that are not those of x86-64 with a bit more
/// (arch/x86/entry/syscalls/syscall_64.tbl): ptrace, kexec_load,
/// process_vm_readv, process_vm_writev.
#[cfg(target_arch = "x86_64")]
const X32_OWN: [c_long; 4] = [521, 528, 539, 540];

/// A filter for a program that is not ours, and for those that it starts: it may
/// make any call but those of [`DEADLY`] and some more, which fail with `ENOSYS`.
#[derive(Debug)]
pub struct Fence(BpfProgram);

impl Fence {
    /// The filter, ready to be installed.
    ///
    /// # Errors
    /// Where this is a machine for which none can be made.
    pub fn new() -> Result<Self, Error> {
        let arch = TargetArch::try_from(ARCH)?;
        let mut rules = BTreeMap::<c_long, Vec<SeccompRule>>::new();
        for (call, refused) in FENCED {
            let mut some = conditions(*refused)?.unwrap_or_default();
            rules.entry(*call).or_default().append(&mut some);
        }
        let deadly = DEADLY.iter().filter(|call| !STARTS.contains(call));
        rules.extend(deadly.map(|call| (*call, Vec::new())));
        #[cfg(target_arch = "x86_64")]
        {
            let numbers: Vec<c_long> = rules.keys().copied().chain(X32_OWN).collect();
            rules.extend(numbers.iter().map(|number| (X32 | number, Vec::new())));
        }
        let refused = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, arch)?;
        Ok(Self(filter.try_into()?))
    }

    /// Installs it for the calling thread and what that starts, programs included. It
    /// sets no_new_privs.
    ///
    /// # Errors
    /// Where the kernel has no such filters.
    pub fn install(&self) -> Result<(), Error> {
        apply_filter(&self.0)
    }
}

/// The two filters, ready to be installed.
#[derive(Debug)]
pub struct Filters {
    deadly: BpfProgram,
    allowed: BpfProgram,
}

impl Filters {
    /// Filters that let `allowed` pass. A table without an entry for a call
    /// refuses it; where a call stands in several, each lets it pass in its way.
    ///
    /// # Errors
    /// Where this is a machine for which none can be made.
    pub fn new(allowed: &[&[Allowed]]) -> Result<Self, Error> {
        let arch = TargetArch::try_from(ARCH)?;
        let deadly = DEADLY.iter().map(|call| (*call, Vec::new())).collect();
        let mut rules = BTreeMap::<c_long, Vec<SeccompRule>>::new();
        let mut freely = Vec::new();
        for (call, only) in allowed.iter().copied().flatten() {
            let of_call = rules.entry(*call).or_default();
            match conditions(*only)? {
                Some(mut some) => of_call.append(&mut some),
                None => freely.push(*call),
            }
        }
        // A call without a rule is one with any argument.
        for call in freely {
            rules.insert(call, Vec::new());
        }
        let refused = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
        let (pass, end) = (SeccompAction::Allow, SeccompAction::KillProcess);
        Ok(Self {
            deadly: SeccompFilter::new(deadly, pass.clone(), end, arch)?.try_into()?,
            allowed: SeccompFilter::new(rules, refused, pass, arch)?.try_into()?,
        })
    }

    /// Installs them; they stay until the process ends. It sets no_new_privs.
    ///
    /// # Errors
    /// Where the kernel has no such filters, or a thread cannot take them.
    pub fn install(&self, threads: Threads) -> Result<(), Error> {
        let apply = match threads {
            Threads::This => apply_filter,
            Threads::All => apply_filter_all_threads,
        };
        // This order: the second forbids to install a filter.
        apply(&self.deadly)?;
        apply(&self.allowed)
    }
}

/// Rules of which one must hold; `None`: there is none.
fn conditions(only: Only) -> Result<Option<Vec<SeccompRule>>, BackendError> {
    let condition = |argument, operator, value: i32| {
        let value = u64::from(value.cast_unsigned());
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
    };
    let rule =
        |argument, operator, value| SeccompRule::new(vec![condition(argument, operator, value)?]);
    let masked = |bits: i32| SeccompCmpOp::MaskedEq(u64::from(bits.cast_unsigned()));
    let rules: Result<Vec<SeccompRule>, BackendError> = match only {
        Only::Any => return Ok(None),
        Only::OneOf(argument, values) => values
            .iter()
            .map(|value| rule(argument, SeccompCmpOp::Eq, *value))
            .collect(),
        Only::Netlink(protocols) => protocols
            .iter()
            .map(|protocol| {
                SeccompRule::new(vec![
                    condition(0, SeccompCmpOp::Eq, libc::AF_NETLINK)?,
                    condition(2, SeccompCmpOp::Eq, *protocol)?,
                ])
            })
            .collect(),
        Only::Ourselves(argument) => {
            let pid = nix::unistd::getpid().as_raw();
            Ok(vec![rule(argument, SeccompCmpOp::Eq, pid)?])
        }
        Only::With(argument, bits) => Ok(vec![rule(argument, masked(bits), bits)?]),
        Only::Without(argument, bits) => Ok(vec![rule(argument, masked(bits), 0)?]),
        Only::Not(argument, value) => Ok(vec![rule(argument, SeccompCmpOp::Ne, value)?]),
        Only::NotBoth(argument, one, other) => [one, other]
            .iter()
            .map(|bit| rule(argument, masked(*bit), 0))
            .collect(),
    };
    rules.map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_deadly_is_allowed() {
        let mut calls = BASE.iter().chain(BASE_OLD);
        assert!(!calls.any(|(call, _)| DEADLY.contains(call)));
    }

    #[test]
    fn a_fence_is_made_of_the_tables_and_lets_programs_start() {
        assert!(STARTS.iter().all(|call| DEADLY.contains(call)));
        assert!(Fence::new().unwrap().0.len() > DEADLY.len() + FENCED.len());
    }

    #[test]
    fn filters_are_made_of_the_tables() {
        let filters = Filters::new(&[BASE, BASE_OLD]).unwrap();
        assert!(filters.deadly.len() > DEADLY.len());
        assert!(filters.allowed.len() > BASE.len());
        // BPF_MAXINSNS (include/uapi/linux/bpf_common.h).
        assert!(filters.allowed.len() < 4096);
    }
}
