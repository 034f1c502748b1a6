//! Sessions through STARTTLS: `openssl s_client` makes the TLS connection, the SMTP client speaks through it.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::rc::Rc;

use crate::Error;
use crate::command::{Command, Process};
use crate::namespaces::Namespaces;

/// Connects from `source`, does STARTTLS, and returns the program and the stream to talk through. The stream is at the
/// point where the client says EHLO again.
pub(crate) fn connect(
    spaces: &Rc<Namespaces>,
    source: IpAddr,
    server: SocketAddr,
) -> Result<(Process, UnixStream), Error> {
    let failed = |e| Error::io("start", "openssl s_client", e);
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    let copy = theirs.try_clone().map_err(failed)?;
    let mut command = Command::new(spaces, "openssl");
    // -quiet keeps its own words off stdout; without -nocommands a line that begins with R or Q is an order to it.
    command.args([
        "s_client",
        "-quiet",
        "-nocommands",
        "-starttls",
        "smtp",
        "-bind",
    ]);
    command
        .arg(SocketAddr::new(source, 0).to_string())
        .arg("-connect")
        .arg(server.to_string());
    command
        .stdin(OwnedFd::from(theirs))
        .stdout(OwnedFd::from(copy))
        .stderr(Stdio::null());
    let process = command.spawn().map_err(failed)?;
    Ok((process, ours))
}
