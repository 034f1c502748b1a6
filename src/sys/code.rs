//! The program's own code, as far as it is in memory.

use nix::libc;
use procfs::process::{MMPermissions, MMapPath, MemoryMap, Process};

/// Where this process's code and constants are, as they are in their files.
#[derive(Debug)]
pub struct Code(Vec<(usize, usize)>);

impl Code {
    /// Looks for them; finds none where /proc cannot be read.
    #[must_use]
    pub fn find() -> Self {
        let maps = Process::myself().and_then(|own| own.maps());
        let ranges = maps.iter().flatten().filter(|map| is_of_a_file(map));
        let ends = ranges.filter_map(|map| {
            let (start, end) = map.address;
            Some((start.try_into().ok()?, end.try_into().ok()?))
        });
        Self(ends.collect())
    }

    /// Gives up their pages, which come back from the files as they are used again.
    /// The kernel counts each for each process that has it, where it looks for the
    /// one to end for want of memory (`oom_badness`, mm/oom_kill.c): a process that
    /// mostly sleeps is the smaller by them, and others are ended before it.
    pub fn shed(&self) {
        for (start, end) in &self.0 {
            // SAFETY: these are as they are in their files, as `is_of_a_file` has it,
            // and are read from there again where they are next used (madvise(2),
            // MADV_DONTNEED). Nobody writes to those: a new version is another file
            // under the same name.
            unsafe {
                libc::madvise(
                    *start as *mut libc::c_void,
                    end - start,
                    libc::MADV_DONTNEED,
                );
            }
        }
    }
}

/// Whether nobody has changed it in memory: what is executable, and the first segment
/// of a file (its headers and constants); the loader changes others alone.
fn is_of_a_file(map: &MemoryMap) -> bool {
    let is_fixed = !map.perms.contains(MMPermissions::WRITE)
        && map.perms.contains(MMPermissions::PRIVATE)
        && (map.perms.contains(MMPermissions::EXECUTE) || map.offset == 0);
    is_fixed && matches!(map.pathname, MMapPath::Path(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_up_is_there_again() {
        let resident = || Process::myself().unwrap().statm().unwrap().shared;
        let code = Code::find();
        let before = resident();
        code.shed();
        let after = resident();
        assert!(after < before, "{before} pages before, {after} after");
    }
}
