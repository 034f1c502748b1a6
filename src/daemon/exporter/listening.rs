//! The socket that is scraped: TCP on loopback, or a Unix socket.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use nix::libc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

use crate::config::Listen;

/// Either connection.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A socket on which somebody listens.
#[derive(Debug)]
pub enum Listening {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixListener, Place),
}

/// A socket's place in the file system, which ends with it.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    of: (u64, u64),
}

impl Place {
    fn at(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            of: which(path)?,
        })
    }

    /// Whether it is there still, and is ours.
    fn is_ours(&self) -> bool {
        which(&self.path).is_ok_and(|which| which == self.of)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_ours() {
            // A socket that nobody listens on only misleads.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn which(path: &Path) -> io::Result<(u64, u64)> {
    let meta = fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

/// Whether there is nothing at `path`, or a socket that nobody has any longer. One
/// that somebody has is not ours to take, be it another program's or another
/// filter's. Nothing is said to it: a socket of another kind cannot be spoken to.
fn check_free(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(meta) if !meta.file_type().is_socket() => {
            let text = format!("{} is no socket", path.display());
            return Err(io::Error::other(text));
        }
        Ok(_) => {}
    }
    match UnixDatagram::unbound()?.connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.raw_os_error() != Some(libc::EPROTOTYPE) => Err(error),
        _ => Err(io::Error::from_raw_os_error(libc::EADDRINUSE)),
    }
}

impl Listening {
    /// Begins to listen.
    ///
    /// # Errors
    /// Where it cannot be done: the address is in use, the folder is not there or
    /// not ours, or something that is no socket is in its place.
    pub async fn begin(listen: &Listen) -> io::Result<Self> {
        match listen {
            Listen::Tcp(address) => Ok(Self::Tcp(TcpListener::bind(address).await?)),
            Listen::Unix(path) => {
                let name = path.file_name().unwrap_or_default();
                let hidden = path.with_file_name(format!(".{}", name.to_string_lossy()));
                for path in [&hidden, path] {
                    check_free(path)?;
                }
                match fs::remove_file(&hidden) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
                let listener = UnixListener::bind(&hidden)?;
                fs::set_permissions(&hidden, Permissions::from_mode(0o660))?;
                fs::rename(&hidden, path)?;
                Ok(Self::Unix(listener, Place::at(path)?))
            }
        }
    }

    /// The next connection.
    ///
    /// # Errors
    /// As accept(2).
    pub async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(listener) => Box::new(listener.accept().await?.0),
            Self::Unix(listener, _) => Box::new(listener.accept().await?.0),
        })
    }

    /// Whether it can be reached: nobody removed a Unix socket.
    #[must_use]
    pub fn is_there(&self) -> bool {
        match self {
            Self::Tcp(_) => true,
            Self::Unix(_, place) => place.is_ours(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener as Std, UnixStream};

    #[tokio::test]
    async fn a_socket_that_somebody_has_is_left_to_him() {
        let folder = std::env::temp_dir().join(format!("rblfilter-listen-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("metrics");
        let listen = Listen::Unix(path.clone());
        let others = Std::bind(&path).unwrap();
        let before = which(&path).unwrap();
        for _ in 0..2 {
            let error = Listening::begin(&listen).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{error}");
            assert_eq!(which(&path).unwrap(), before);
        }
        // Nobody has so much as connected to it.
        others.set_nonblocking(true).unwrap();
        let none = others.accept().unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::WouldBlock, "{none}");
        drop(others);
        // It is there still, but nobody's.
        let ours = Listening::begin(&listen).await.unwrap();
        UnixStream::connect(&path).unwrap();
        let error = Listening::begin(&listen).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{error}");
        drop(ours);
        // Datagrams, as syslogd's.
        fs::write(folder.join("x"), "").unwrap();
        let _ = fs::remove_file(&path);
        let _log = UnixDatagram::bind(&path).unwrap();
        let error = Listening::begin(&listen).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{error}");
        let file = Listening::begin(&Listen::Unix(folder.join("x"))).await;
        assert!(file.unwrap_err().to_string().contains("is no socket"));
        fs::remove_dir_all(&folder).unwrap();
    }
}
