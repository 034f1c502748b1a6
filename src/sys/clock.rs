//! Whether somebody keeps the clock right.

use std::io;

use nix::libc;

/// Whether the kernel holds its clock to be synchronised: `STA_UNSYNC` is not
/// set (adjtimex(2)).
///
/// # Errors
/// What the kernel says.
pub fn is_synchronised() -> io::Result<bool> {
    // SAFETY: all bytes zero is a valid timex, which holds integers alone, and
    // with no mode set the kernel changes nothing.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes to the struct that is borrowed for this call.
    if unsafe { libc::adjtimex(&raw mut timex) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(timex.status & libc::STA_UNSYNC == 0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_kernel_says_whether_it_is() {
        super::is_synchronised().unwrap();
    }
}
