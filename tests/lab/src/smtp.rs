//! An SMTP client that binds its source address and writes down what it is told.
//!
//! Everything here is async and needs no thread of its own, so one thread can hold thousands of sessions (a load
//! generator). Every wait has a bound.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// The default bound of one wait; Courier's tarpit alone takes 8 s and more.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A server's reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The three digits.
    pub code: u16,
    /// The text of each line, without the code.
    pub lines: Vec<String>,
}

impl Reply {
    /// 2xx or 3xx.
    #[must_use]
    pub fn is_positive(&self) -> bool {
        (200..400).contains(&self.code)
    }

    /// The lines, joined by blanks.
    #[must_use]
    pub fn text(&self) -> String {
        self.lines.join(" ")
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.text())
    }
}

/// One connection to a server.
#[derive(Debug)]
pub struct Client<S = TcpStream> {
    stream: BufReader<S>,
    patience: Duration,
}

impl Client {
    /// Connects from `source`, with [`PATIENCE`] for this and for each later wait.
    ///
    /// # Errors
    /// Those of bind(2) and connect(2); `TimedOut` when nobody answered.
    pub async fn connect(source: IpAddr, server: SocketAddr) -> io::Result<Self> {
        Self::connect_within(source, server, PATIENCE).await
    }

    /// Connects from `source`, with a bound of one's own for this and for each later wait.
    ///
    /// # Errors
    /// Those of bind(2) and connect(2); `TimedOut` when nobody answered.
    pub async fn connect_within(
        source: IpAddr,
        server: SocketAddr,
        patience: Duration,
    ) -> io::Result<Self> {
        let socket = if server.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }?;
        // Else the port is taken at bind(2) for all destinations, and a load generator runs out of ports early.
        setsockopt(&socket, IpBindAddressNoPort, &true)?;
        socket.bind(SocketAddr::new(source, 0))?;
        let stream = bounded(patience, socket.connect(server)).await?;
        stream.set_nodelay(true)?;
        Ok(Self::new(stream, patience))
    }

    /// The address and port that the server sees.
    ///
    /// # Errors
    /// That of getsockname(2).
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.get_ref().local_addr()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// Speaks SMTP over an open stream.
    pub fn new(stream: S, patience: Duration) -> Self {
        Self {
            stream: BufReader::new(stream),
            patience,
        }
    }

    /// Sets the bound of each later wait.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Reads one whole reply.
    ///
    /// # Errors
    /// `UnexpectedEof` or `ConnectionReset` when the server has closed, `InvalidData` for what is no reply, `TimedOut`.
    pub async fn read_reply(&mut self) -> io::Result<Reply> {
        let mut reply = Reply {
            code: 0,
            lines: Vec::new(),
        };
        loop {
            let mut line = Vec::new();
            let length = bounded(self.patience, self.stream.read_until(b'\n', &mut line)).await?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\r', '\n']);
            let bad = || {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("no SMTP reply: {line:?}"),
                )
            };
            reply.code = line
                .get(..3)
                .and_then(|code| code.parse().ok())
                .ok_or_else(bad)?;
            reply
                .lines
                .push(line.get(4..).unwrap_or_default().to_owned());
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(reply);
            }
        }
    }

    /// Sends one line and reads the reply.
    ///
    /// # Errors
    /// As [`read_reply`](Self::read_reply).
    pub async fn command(&mut self, line: &str) -> io::Result<Reply> {
        self.write(format!("{line}\r\n").as_bytes()).await?;
        self.read_reply().await
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// Those of write(2); `TimedOut`.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        bounded(self.patience, self.stream.get_mut().write_all(bytes)).await
    }

    /// Sends a message after `DATA`, with dots doubled and the final dot, and reads the reply.
    ///
    /// # Errors
    /// As [`read_reply`](Self::read_reply).
    pub async fn data(&mut self, message: &str) -> io::Result<Reply> {
        let mut text = String::with_capacity(message.len() + 64);
        for line in message.lines() {
            text.push_str(if line.starts_with('.') { "." } else { "" });
            text.push_str(line);
            text.push_str("\r\n");
        }
        text.push_str(".\r\n");
        self.write(text.as_bytes()).await?;
        self.read_reply().await
    }
}

/// How far a session came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// The connection.
    Connect,
    /// The server's 220.
    Greeting,
    /// EHLO.
    Ehlo,
    /// AUTH PLAIN.
    Auth,
    /// MAIL FROM.
    Mail,
    /// RCPT TO.
    Rcpt,
    /// DATA.
    Data,
    /// The message itself.
    Body,
    /// QUIT.
    Quit,
    /// All was done.
    Done,
}

/// A message and the way to send it.
#[derive(Debug, Clone)]
pub struct Message {
    /// The envelope sender.
    pub from: String,
    /// The recipients.
    pub to: Vec<String>,
    /// The name after EHLO.
    pub helo: String,
    /// The subject.
    pub subject: String,
    /// The lines after the header.
    pub body: String,
    /// User and password for AUTH PLAIN.
    pub auth: Option<(String, String)>,
    /// The server's port.
    pub port: u16,
    /// The server's address; else 127.0.0.1, or fd00::1 for an IPv6 source.
    pub server: Option<IpAddr>,
    /// Whether to end with QUIT, and not by just closing.
    pub quit: bool,
    /// The bound of each single wait.
    pub patience: Duration,
}

impl Default for Message {
    fn default() -> Self {
        Self {
            from: "bob@client.test".into(),
            to: vec!["alice@lab.test".into()],
            helo: "client.test".into(),
            subject: "a test".into(),
            body: "Hello Alice.\n".into(),
            auth: None,
            port: 25,
            server: None,
            quit: true,
            patience: PATIENCE,
        }
    }
}

/// What became of a message.
#[derive(Debug)]
pub struct Outcome {
    /// The stage at which the session ended; [`Stage::Done`] if nothing was left to do.
    pub stage: Stage,
    /// What was said (`""` for the greeting, `<message>` for the body) and the answer to it, in order.
    pub replies: Vec<(String, Reply)>,
    /// What ended the session, if it was not a reply.
    pub error: Option<io::Error>,
    /// From the connect to the end.
    pub elapsed: Duration,
}

impl Outcome {
    /// The server took the message over. A session that is cut off after that was accepted all the same.
    #[must_use]
    pub fn accepted(&self) -> bool {
        self.replies
            .iter()
            .any(|(said, reply)| said == "<message>" && reply.is_positive())
    }

    /// The first refusing reply.
    #[must_use]
    pub fn refusal(&self) -> Option<&Reply> {
        self.replies
            .iter()
            .map(|(_, reply)| reply)
            .find(|reply| !reply.is_positive())
    }

    /// The code of the first refusing reply.
    #[must_use]
    pub fn refused_code(&self) -> Option<u16> {
        self.refusal().map(|reply| reply.code)
    }

    /// The connection stood, and the server closed it instead of replying.
    #[must_use]
    pub fn cut_off(&self) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        let closed = [
            BrokenPipe,
            ConnectionAborted,
            ConnectionReset,
            UnexpectedEof,
        ];
        self.stage > Stage::Connect
            && self
                .error
                .as_ref()
                .is_some_and(|error| closed.contains(&error.kind()))
    }

    /// Nobody answered the connect: the packets were dropped.
    #[must_use]
    pub fn not_answered(&self) -> bool {
        let timed_out = |error: &io::Error| error.kind() == io::ErrorKind::TimedOut;
        self.stage == Stage::Connect && self.error.as_ref().is_some_and(timed_out)
    }
}

impl Message {
    /// Where it goes when sent from `source`.
    #[must_use]
    pub fn server_for(&self, source: IpAddr) -> SocketAddr {
        SocketAddr::new(
            self.server
                .unwrap_or_else(|| crate::endpoints::server_for(source)),
            self.port,
        )
    }

    /// Sends it over a connection of its own.
    pub async fn send(&self, source: IpAddr) -> Outcome {
        let mut talk = Talk::begin();
        let result = async {
            let mut client =
                Client::connect_within(source, self.server_for(source), self.patience).await?;
            talk.stage = Stage::Greeting;
            let greeting = client.read_reply().await?;
            if talk.note("", greeting) {
                talk.converse(&mut client, self).await?;
            }
            Ok(())
        };
        let result = result.await;
        talk.end(result)
    }

    /// Sends it over a stream on which the greeting has been read already.
    pub(crate) async fn send_over<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> Outcome {
        let mut talk = Talk::begin();
        let mut client = Client::new(stream, self.patience);
        let result = talk.converse(&mut client, self).await;
        talk.end(result)
    }

    fn text(&self) -> String {
        let Self {
            from,
            subject,
            body,
            ..
        } = self;
        let to = self.to.join(", ");
        format!("From: <{from}>\nTo: {to}\nSubject: {subject}\n\n{body}")
    }
}

struct Talk {
    began: Instant,
    stage: Stage,
    replies: Vec<(String, Reply)>,
}

impl Talk {
    fn begin() -> Self {
        Self {
            began: Instant::now(),
            stage: Stage::Connect,
            replies: Vec::new(),
        }
    }

    fn note(&mut self, said: &str, reply: Reply) -> bool {
        let positive = reply.is_positive();
        self.replies.push((said.to_owned(), reply));
        positive
    }

    fn end(self, result: io::Result<()>) -> Outcome {
        let Self {
            began,
            stage,
            replies,
        } = self;
        Outcome {
            stage,
            replies,
            error: result.err(),
            elapsed: began.elapsed(),
        }
    }

    async fn say<S>(&mut self, client: &mut Client<S>, stage: Stage, line: &str) -> io::Result<bool>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.stage = stage;
        let reply = client.command(line).await?;
        Ok(self.note(line, reply))
    }

    /// From EHLO on. A refusal ends it at its stage, after a QUIT.
    async fn converse<S>(&mut self, client: &mut Client<S>, message: &Message) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut went = self
            .say(client, Stage::Ehlo, &format!("EHLO {}", message.helo))
            .await?;
        if let (true, Some((user, password))) = (went, &message.auth) {
            let token = base64(format!("\0{user}\0{password}").as_bytes());
            went = self
                .say(client, Stage::Auth, &format!("AUTH PLAIN {token}"))
                .await?;
        }
        went = went
            && self
                .say(
                    client,
                    Stage::Mail,
                    &format!("MAIL FROM:<{}>", message.from),
                )
                .await?;
        if went {
            went = false;
            for to in &message.to {
                went |= self
                    .say(client, Stage::Rcpt, &format!("RCPT TO:<{to}>"))
                    .await?;
            }
        }
        went = went && self.say(client, Stage::Data, "DATA").await?;
        if went {
            self.stage = Stage::Body;
            let reply = client.data(&message.text()).await?;
            went = self.note("<message>", reply);
        }
        let stage = self.stage;
        if message.quit {
            self.say(client, Stage::Quit, "QUIT").await?;
        }
        self.stage = if went { Stage::Done } else { stage };
        Ok(())
    }
}

async fn bounded<T>(limit: Duration, wait: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, wait)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// RFC 4648 §4.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            let index = usize::try_from(word >> (18 - 6 * i) & 63).unwrap_or(0);
            text.push(if i <= u32::try_from(chunk.len()).unwrap_or(3) {
                char::from(LETTERS[index])
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_is_padded() {
        let vectors = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
            ("\0a\0b", "AGEAYg=="),
        ];
        for (plain, text) in vectors {
            assert_eq!(base64(plain.as_bytes()), text);
        }
    }
}
