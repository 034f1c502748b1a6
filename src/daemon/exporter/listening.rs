//! The socket that is scraped: TCP on loopback, or a Unix socket.

use std::fs::{self, Permissions};
use std::future::pending;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener as Std};
use std::path::Path;
use std::time::Duration;

use nix::libc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::config::Listen;
use crate::place::Place;

/// Either connection.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A socket on which somebody listens.
#[derive(Debug)]
pub enum Listening {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket, whose file ends with it.
    Unix(UnixListener, Owned),
}

/// A socket's file, removed when this is dropped.
#[derive(Debug)]
pub struct Owned(Place);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.clone().remove_soon();
    }
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
                let path = path.clone();
                let (listener, owned) = on_disk(move || bind(&path)).await??;
                Ok(Self::Unix(UnixListener::from_std(listener)?, owned))
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

    /// Returns when it cannot be reached any longer: somebody removed a Unix
    /// socket. It is looked for every so often.
    pub async fn gone(&self, every: Duration) {
        let Self::Unix(_, Owned(place)) = self else {
            return pending().await;
        };
        loop {
            sleep(every).await;
            let place = place.clone();
            if let Ok(false) = on_disk(move || place.is_ours()).await {
                return;
            }
        }
    }
}

/// Does what may take its time on a disk where no mail waits for it.
async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)
}

/// A socket at `path`, made beside it first.
fn bind(path: &Path) -> io::Result<(Std, Owned)> {
    let name = path.file_name().unwrap_or_default();
    let hidden = path.with_file_name(format!(".{}", name.to_string_lossy()));
    for path in [&hidden, path] {
        check_free(path)?;
    }
    match fs::remove_file(&hidden) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = Std::bind(&hidden)?;
    listener.set_nonblocking(true)?;
    fs::set_permissions(&hidden, Permissions::from_mode(0o660))?;
    let place = Place::at(&hidden)?;
    fs::rename(&hidden, path)?;
    Ok((listener, Owned(place.renamed(path.to_owned()))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::UnixStream;
    use tokio::time::timeout;

    const LIMIT: Duration = Duration::from_secs(10);
    const SOON: Duration = Duration::from_millis(5);

    fn which(path: &Path) -> u64 {
        fs::symlink_metadata(path).unwrap().ino()
    }

    /// Until somebody's thread has done it.
    async fn until(done: impl Fn() -> bool) {
        let wait = async {
            while !done() {
                sleep(SOON).await;
            }
        };
        timeout(LIMIT, wait).await.unwrap();
    }

    #[tokio::test]
    async fn a_socket_that_somebody_has_is_left_to_him() {
        let folder = std::env::temp_dir().join(format!("rblfilter-listen-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("metrics");
        let listen = Listen::Unix(path.clone());
        let others = Std::bind(&path).unwrap();
        let before = which(&path);
        for _ in 0..2 {
            let error = Listening::begin(&listen).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{error}");
            assert_eq!(which(&path), before);
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
        until(|| !path.exists()).await;
        // Datagrams, as syslogd's.
        fs::write(folder.join("x"), "").unwrap();
        let _log = UnixDatagram::bind(&path).unwrap();
        let error = Listening::begin(&listen).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{error}");
        let file = Listening::begin(&Listen::Unix(folder.join("x"))).await;
        assert!(file.unwrap_err().to_string().contains("is no socket"));
        fs::remove_dir_all(&folder).unwrap();
    }

    #[tokio::test]
    async fn a_socket_that_was_removed_is_noticed_and_what_is_in_its_place_stays() {
        let folder = std::env::temp_dir().join(format!("rblfilter-gone-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("metrics");
        let ours = Listening::begin(&Listen::Unix(path.clone())).await.unwrap();
        assert!(timeout(SOON * 10, ours.gone(SOON)).await.is_err());
        // It keeps its inode, which the next one would have else.
        fs::rename(&path, folder.join("moved")).unwrap();
        fs::write(&path, "somebody's").unwrap();
        timeout(LIMIT, ours.gone(SOON)).await.unwrap();
        let Listening::Unix(_, Owned(place)) = &ours else {
            panic!("{ours:?}");
        };
        place.remove().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"somebody's");
        drop(ours);
        fs::remove_dir_all(&folder).unwrap();
    }
}
