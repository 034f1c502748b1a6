//! Where Courier is installed.

use std::env;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rblfilter_warden::{CONFIG_FILE, SYSCONFDIR};

/// Courier's folders: what `courier-config` told at build time, `sysconfdir`
/// from the environment where courierfilter sets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Configuration, `/etc/courier`.
    pub sysconfdir: PathBuf,
    /// State and sockets, `/var/lib/courier`.
    pub localstatedir: PathBuf,
    /// Programs, `/usr/lib/courier`.
    pub libexecdir: PathBuf,
    /// The admin's programs, `/usr/sbin`.
    pub sbindir: PathBuf,
    /// The daemons' pid files, `/run/courier`.
    pub piddir: PathBuf,
}

impl Paths {
    /// The paths of this process.
    #[must_use]
    pub fn from_env() -> Self {
        Self {
            sysconfdir: env::var_os("sysconfdir").map_or_else(|| SYSCONFDIR.into(), PathBuf::from),
            localstatedir: option_env!("COURIER_LOCALSTATEDIR")
                .unwrap_or("/var/lib/courier")
                .into(),
            libexecdir: option_env!("COURIER_LIBEXECDIR")
                .unwrap_or("/usr/lib/courier")
                .into(),
            sbindir: option_env!("COURIER_SBINDIR").unwrap_or("/usr/sbin").into(),
            piddir: option_env!("COURIER_PIDDIR")
                .unwrap_or("/run/courier")
                .into(),
        }
    }

    /// The configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.sysconfdir.join(CONFIG_FILE)
    }

    /// The file that says which folder the socket of filter `name` belongs in.
    #[must_use]
    pub fn mode_file(&self, name: &str) -> PathBuf {
        self.sysconfdir.join("filters").join(format!("{name}-mode"))
    }

    /// The folder of what is kept from one start to the next.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.localstatedir.join("rblfilter")
    }

    /// The same, where the admin may have Courier's folder elsewhere, with a link to
    /// it. What is in Courier's folder is Courier's user's, and not followed.
    #[must_use]
    pub fn real_state(&self) -> PathBuf {
        let folder = std::fs::canonicalize(&self.localstatedir);
        folder
            .unwrap_or_else(|_| self.localstatedir.clone())
            .join("rblfilter")
    }

    /// The warden's executable.
    #[must_use]
    pub fn warden(&self) -> PathBuf {
        self.libexecdir.join("rblfilter-warden")
    }

    /// The program that speaks SMTP.
    #[must_use]
    pub fn esmtpd(&self) -> PathBuf {
        self.libexecdir.join("courier/modules/esmtp/courieresmtpd")
    }

    /// The program that resolves Courier's aliases.
    #[must_use]
    pub fn aliaslookup(&self) -> PathBuf {
        self.sbindir.join("aliaslookup")
    }

    /// A path that `submit` sent: it may be relative, and `submit` runs in
    /// Courier's state folder.
    #[must_use]
    pub fn resolve(&self, sent: &[u8]) -> PathBuf {
        self.localstatedir.join(Path::new(OsStr::from_bytes(sent)))
    }
}
