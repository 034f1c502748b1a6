//! What filter and warden want of the file where it is installed, beside what is in
//! it: `rblfilter config check` and a reload ask for the same.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rblfilter_warden::policy::Policy;

use super::{Config, included, read};
use crate::courier::paths::Paths;

/// Reads and checks the installed file at `path`, and who owns it.
///
/// # Errors
/// What is wrong, in words.
pub fn read_installed(path: &Path) -> Result<Config, String> {
    let config = read(path).map_err(|error| error.to_string())?;
    check_installed(path)?;
    Ok(config)
}

/// Whether the warden trusts the file at `path`, and the filter may read it and
/// what it includes.
///
/// # Errors
/// Why not, in words.
pub fn check_installed(path: &Path) -> Result<(), String> {
    Policy::read(path).map_err(|error| error.to_string())?;
    readable_by_courier(path)?;
    match included(path) {
        Some(included) => readable_by_courier(&included),
        None => Ok(()),
    }
}

/// The filter runs as Courier's user; Courier's state folder is that user's.
fn readable_by_courier(path: &Path) -> Result<(), String> {
    let courier = fs::metadata(Paths::from_env().localstatedir).ok();
    let file =
        fs::metadata(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let by_owner = courier
        .as_ref()
        .is_some_and(|courier| courier.uid() == file.uid())
        && file.mode() & 0o400 != 0;
    let by_group =
        courier.is_some_and(|courier| courier.gid() == file.gid()) && file.mode() & 0o040 != 0;
    if by_owner || by_group || file.mode() & 0o004 != 0 {
        return Ok(());
    }
    Err(format!(
        "{}: the filter, which runs as Courier's user, cannot read it (chgrp courier, chmod 0640)",
        path.display()
    ))
}
