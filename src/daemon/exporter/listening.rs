//! The socket that is scraped: TCP on loopback, or a Unix socket.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

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
                    match fs::symlink_metadata(path) {
                        Ok(meta) if !meta.file_type().is_socket() => {
                            let text = format!("{} is no socket", path.display());
                            return Err(io::Error::other(text));
                        }
                        _ => {}
                    }
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
