//! Alice's Maildir.

use std::fs;

use crate::courier::files_below;

const NEW: &str = "/run/lab/alice/Maildir/new";

/// The new messages, whole, in the order of their delivery times.
pub(crate) fn messages() -> Vec<String> {
    let read = |path| {
        fs::read(path)
            .ok()
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    };
    files_below(NEW).into_iter().filter_map(read).collect()
}

/// How many there are.
pub(crate) fn count() -> usize {
    files_below(NEW).len()
}

/// Removes them.
pub(crate) fn clear() {
    for path in files_below(NEW) {
        let _ = fs::remove_file(path);
    }
}
