//! `couriertcpd`: which ones run, which children they have, how many of their
//! slots are in use.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::process::{Error, Handle, LISTENER, comm, numbers};
use super::tcpd::Options;

/// What `couriertcpd` starts beside its sessions, once; it holds no slot.
const LOGGER: &str = "courierlogger";
/// The most listeners that are remembered; a host has four or five.
const MOST: usize = 64;

/// A running `couriertcpd`.
#[derive(Debug)]
pub struct Listener {
    process: Handle,
    /// `/proc/PID/task/PID/children`, held open, as it is read often; reads of
    /// one that has ended fail.
    children: File,
    logger: Mutex<Option<i32>>,
}

impl Listener {
    fn open(pid: i32) -> Result<Self, Error> {
        let process = Handle::open(pid, LISTENER)?;
        let name = process.stat(LISTENER)?.comm;
        if name != LISTENER {
            return Err(Error::NotASession(format!(
                "process {pid} is {name:?}, not {LISTENER}"
            )));
        }
        if !process.is_in_own_namespace(LISTENER)? {
            return Err(Error::NotASession(format!(
                "process {pid} is a container's {LISTENER}"
            )));
        }
        let children = File::open(format!("/proc/{pid}/task/{pid}/children"))
            .map_err(|_| Error::Gone(LISTENER))?;
        // It lives, so the file is its own.
        if process.is_alive() {
            Ok(Self {
                process,
                children,
                logger: Mutex::default(),
            })
        } else {
            Err(Error::Gone(LISTENER))
        }
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// What its arguments say: its pid file's name without its end, and how many
    /// slots it has (couriertcpd(8), `-pid`, `-maxprocs`).
    #[must_use]
    pub fn settings(&self) -> (Option<String>, Option<usize>) {
        let options = self.options().unwrap_or_default();
        (name(&options), options.slots)
    }

    /// Its options; `None` where it has ended.
    #[must_use]
    pub fn options(&self) -> Option<Options> {
        let arguments = fs::read(format!("/proc/{}/cmdline", self.pid())).unwrap_or_default();
        // It lives, so they were its own.
        self.is_alive().then(|| Options::of_process(&arguments))
    }

    /// Whether it still runs. Its sessions go on where it does not.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.process.is_alive()
    }

    /// Reads the numbers of its children, as the kernel writes them, in place
    /// of what is in `text`: its sessions, those that will be sessions, and its
    /// logger. None, where it has ended.
    pub fn read_children(&self, text: &mut Vec<u8>) {
        text.clear();
        let mut bytes = [0; 4096];
        while let Ok(length) = self.children.read_at(&mut bytes, text.len() as u64) {
            if length == 0 {
                break;
            }
            text.extend_from_slice(&bytes[..length]);
        }
    }

    /// The numbers of its children.
    #[must_use]
    pub fn children(&self) -> Vec<i32> {
        let mut text = Vec::new();
        self.read_children(&mut text);
        numbers(&text).collect()
    }

    /// How many of its slots are in use: one a child, but for the logger.
    #[must_use]
    pub fn slots_used(&self) -> usize {
        let children = self.children();
        let mut logger = self.logger.lock().unwrap_or_else(PoisonError::into_inner);
        if logger.is_none_or(|pid| !children.contains(&pid)) {
            *logger = children.iter().copied().find(|pid| comm(*pid) == LOGGER);
        }
        children.len() - usize::from(logger.is_some())
    }
}

/// The `couriertcpd`s that run: those with a pid file, and those that a session
/// named as its parent.
#[derive(Debug)]
pub struct Listeners {
    piddir: PathBuf,
    known: Mutex<Vec<Arc<Listener>>>,
}

impl Listeners {
    /// Those with a pid file in `piddir`, once they have been looked for.
    #[must_use]
    pub fn new(piddir: PathBuf) -> Self {
        Self {
            piddir,
            known: Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Vec<Arc<Listener>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that are known and run.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Listener>> {
        let mut known = self.known();
        known.retain(|listener| listener.is_alive());
        known.clone()
    }

    /// Looks for those that were started since, by their pid files; returns all.
    pub fn look(&self) -> Vec<Arc<Listener>> {
        for pid in pid_files(&self.piddir) {
            // A pid file of another daemon, or of one that has ended.
            let _ = self.get(pid);
        }
        self.all()
    }

    /// The `couriertcpd` with this number.
    ///
    /// # Errors
    /// Where the process is another, or has ended.
    pub fn get(&self, pid: i32) -> Result<Arc<Listener>, Error> {
        let mut known = self.known();
        if let Some(listener) = known.iter().find(|listener| listener.pid() == pid)
            && listener.is_alive()
        {
            return Ok(Arc::clone(listener));
        }
        let listener = Arc::new(Listener::open(pid)?);
        known.retain(|other| other.is_alive());
        if known.len() < MOST {
            known.push(Arc::clone(&listener));
        }
        Ok(listener)
    }
}

/// The name of its pid file without its end.
#[must_use]
pub fn name(options: &Options) -> Option<String> {
    let name = Path::new(options.pid_file.as_ref()?).file_stem()?;
    Some(name.to_str()?.to_owned())
}

/// The numbers in the files `*.pid` of `piddir`.
fn pid_files(piddir: &Path) -> impl Iterator<Item = i32> {
    fs::read_dir(piddir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "pid"))
        .filter_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_arguments_tell_its_name_and_its_slots() {
        for (arguments, name, slots) in [
            (
                &b"couriertcpd\0-maxprocs=40\0-pid=/run/courier/esmtpd-msa.pid\0-maxprocs=50\0smtp\0"[..],
                Some("esmtpd-msa"),
                Some(50),
            ),
            (b"couriertcpd\0-maxprocs=many\0\xff\0", None, None),
            (b"", None, None),
        ] {
            let options = Options::of_process(arguments);
            assert_eq!(
                (super::name(&options), options.slots),
                (name.map(String::from), slots)
            );
        }
    }

    #[test]
    fn another_program_is_no_listener() {
        let own = i32::try_from(std::process::id()).unwrap();
        let listeners = Listeners::new("/nowhere".into());
        assert!(matches!(listeners.get(own), Err(Error::NotASession(_))));
        assert!(listeners.look().is_empty());
    }
}
