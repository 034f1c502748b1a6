//! A message's control files: who sends it, to whom, from where.
//!
//! One record a line, the first byte is its kind. Kinds that are not needed,
//! or not known, are passed over.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use super::session::parse_address;

/// The most bytes of control files a message may have.
pub const MAX_BYTES: u64 = 16 * 1024 * 1024;
/// The most recipients that are remembered: two bytes of a file are one, which
/// takes 48 here.
pub const MAX_RECIPIENTS: usize = 10_000;

/// What the control files tell of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// Courier's message id, `M`.
    pub message_id: Option<String>,
    /// Envelope sender, `s`; empty for a bounce.
    pub sender: Option<String>,
    /// Envelope recipients, the first [`MAX_RECIPIENTS`].
    pub recipients: Vec<Recipient>,
    /// There are further ones.
    pub has_more: bool,
    /// The user that the client logged in as, `i`.
    pub authenticated: Option<String>,
    /// Where the message came from, `u`: `smtp`, `authsmtp` (logged in, or
    /// RELAYCLIENT), `local`, ….
    pub module: Option<String>,
    /// `ORELAYCLIENT=`: set by smtpaccess, or because the client logged in.
    pub relay_client: bool,
    /// The client's address, `OTCPREMOTEIP=`.
    pub remote_ip: Option<IpAddr>,
    /// The client's address at the end of `f`.
    pub from_ip: Option<IpAddr>,
}

/// One recipient of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recipient {
    /// The address, `r`, after Courier resolved its aliases.
    pub address: String,
    /// The address before that, `R`; or whatever the client said that it was
    /// (`ORCPT=`, RFC 3461 §4.2), the record does not tell which.
    pub original: Option<String>,
}

/// An alias and an address that it must stand for.
pub type Alias = (String, String);

/// Why the control files could not be read.
#[derive(Debug)]
pub enum Error {
    /// The operating system's word.
    Read(PathBuf, io::Error),
    /// A folder, a pipe, a device.
    NoFile(PathBuf),
    /// More than [`MAX_BYTES`].
    TooLarge,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(path, error) => write!(f, "cannot read {}: {error}", path.display()),
            Self::NoFile(path) => write!(f, "{} is no regular file", path.display()),
            Self::TooLarge => write!(f, "more than {MAX_BYTES} bytes of control files"),
        }
    }
}

// The operating system's word is part of the text, so there is no source.
impl std::error::Error for Error {}

/// Reads a message's control files.
///
/// # Errors
/// Where one cannot be read or they are too large; never blocks on a pipe or
/// a device.
pub fn read(paths: &[PathBuf]) -> Result<Envelope, Error> {
    let mut envelope = Envelope::default();
    let mut left = MAX_BYTES;
    for path in paths {
        let bytes = read_file(path, left)?;
        left -= bytes.len() as u64;
        envelope.add(&bytes);
    }
    Ok(envelope)
}

fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    let failed = |error| Error::Read(path.into(), error);
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW | OFlag::O_NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(path)
        .map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(Error::NoFile(path.into()));
    }
    let mut bytes = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(Error::TooLarge);
    }
    Ok(bytes)
}

impl Envelope {
    /// Adds the records of one control file. A message with many recipients
    /// has several, each with the sender's records again.
    pub fn add(&mut self, bytes: &[u8]) {
        for line in bytes.split(|byte| *byte == b'\n') {
            let Some((kind, value)) = line.split_first() else {
                continue;
            };
            let text = || String::from_utf8_lossy(value).into_owned();
            match kind {
                b's' => self.sender = Some(text()),
                b'f' => self.from_ip = from_address(&text()),
                b'M' => self.message_id = Some(text()),
                // What `R` says is the last one's, so that none follows a gap.
                b'r' | b'R' if self.has_more => {}
                b'r' if self.recipients.len() >= MAX_RECIPIENTS => self.has_more = true,
                b'r' => self.recipients.push(Recipient {
                    address: text(),
                    original: None,
                }),
                b'R' if !value.is_empty() => {
                    if let Some(recipient) = self.recipients.last_mut() {
                        recipient.original = Some(text());
                    }
                }
                b'i' if !value.is_empty() => self.authenticated = Some(text()),
                b'u' => self.module = Some(text()),
                b'O' => {
                    if let Some(address) = value.strip_prefix(b"TCPREMOTEIP=") {
                        self.remote_ip = parse_address(&String::from_utf8_lossy(address));
                    } else if value.starts_with(b"RELAYCLIENT=") {
                        self.relay_client = true;
                    }
                }
                _ => {}
            }
        }
    }

    /// Whether the message came in by SMTP.
    #[must_use]
    pub fn is_smtp(&self) -> bool {
        matches!(self.module.as_deref(), Some("smtp" | "authsmtp"))
    }

    /// Whether the control files say that the message came from `client`: at
    /// least one record does, and none says otherwise.
    #[must_use]
    pub fn agrees_with(&self, client: IpAddr) -> bool {
        let mut said = [self.remote_ip, self.from_ip]
            .into_iter()
            .flatten()
            .peekable();
        said.peek().is_some() && said.all(|address| address == client)
    }

    /// Where there are recipients, and each is in `exempt` (a local part alone
    /// stands for it at any domain, RFC 5321 §4.5.1): the aliases that must be
    /// as the control file has them for this to be true. `None` where one is
    /// not, and where there are more than are remembered.
    #[must_use]
    pub fn only_for(&self, exempt: &[String]) -> Option<Vec<Alias>> {
        let is_exempt = |address: &str| {
            let local = address.rsplit_once('@').map_or(address, |(local, _)| local);
            exempt
                .iter()
                .any(|known| known == address || known == local)
        };
        let mut aliases = Vec::new();
        for recipient in &self.recipients {
            let address = recipient.address.to_lowercase();
            let original = recipient
                .original
                .as_ref()
                .map(|original| original.to_lowercase());
            if is_exempt(&address) {
                continue;
            }
            match original {
                Some(original) if is_exempt(&original) => aliases.push((original, address)),
                _ => return None,
            }
        }
        (!self.recipients.is_empty() && !self.has_more).then_some(aliases)
    }
}

/// The address in `dns; HELO (RDNS [ADDRESS])`. What comes before the last
/// bracket is the client's to choose.
fn from_address(text: &str) -> Option<IpAddr> {
    let (rest, _) = text.rsplit_once(']')?;
    let (_, address) = rest.rsplit_once('[')?;
    parse_address(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(text: &str) -> Envelope {
        let mut envelope = Envelope::default();
        envelope.add(text.as_bytes());
        envelope
    }

    #[test]
    fn the_records_of_a_session() {
        let envelope = envelope(include_str!("../../tests/data/control/plain"));
        assert_eq!(
            envelope,
            Envelope {
                message_id: Some("00000000000B8023.000000006B047E68.00000F96".into()),
                sender: Some("bob@gmail.com".into()),
                recipients: vec![Recipient {
                    address: "alice@example.test".into(),
                    original: None
                }],
                module: Some("smtp".into()),
                remote_ip: Some("10.66.1.5".parse().unwrap()),
                from_ip: Some("10.66.1.5".parse().unwrap()),
                ..Envelope::default()
            }
        );
        assert!(envelope.is_smtp() && envelope.agrees_with("10.66.1.5".parse().unwrap()));
        assert!(!envelope.agrees_with("10.66.1.6".parse().unwrap()));
    }

    #[test]
    fn a_user_who_logged_in_is_told_by_three_records() {
        let envelope = envelope(include_str!("../../tests/data/control/authenticated"));
        assert_eq!(envelope.authenticated.as_deref(), Some("alice@lab.test"));
        assert!(envelope.relay_client && envelope.is_smtp());
    }

    #[test]
    fn addresses_that_disagree_agree_with_nobody() {
        let envelope = envelope("fdns; a (b [::ffff:10.0.0.1])\nOTCPREMOTEIP=::ffff:10.0.0.2\n");
        assert!(!envelope.agrees_with("10.0.0.1".parse().unwrap()));
        assert!(!envelope.agrees_with("10.0.0.2".parse().unwrap()));
        assert!(!Envelope::default().agrees_with("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn a_helo_that_looks_like_an_address_is_not_taken_for_it() {
        let envelope = envelope("fdns; x ([::ffff:10.9.9.9]) (softdnserr [::ffff:10.0.0.1])\n");
        assert_eq!(envelope.from_ip, Some("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn exempt_are_messages_for_exempt_recipients_alone() {
        let exempt = ["postmaster".to_owned(), "abuse@b.test".to_owned()];
        let none: Option<&[(&str, &str)]> = None;
        for (records, expected) in [
            ("rPostmaster@a.test\n", Some(&[][..])),
            ("rpostmaster\nR\nN\nrabuse@b.test\n", Some(&[])),
            (
                "ralice@a.test\nRPostmaster@a.test\nN\n",
                Some(&[("postmaster@a.test", "alice@a.test")]),
            ),
            ("rpostmaster@a.test\nralice@a.test\nR\n", none),
            ("ralice@a.test\nRcarol@a.test\n", none),
            ("rabuse@a.test\n", none),
            ("ralice+postmaster@a.test\n", none),
            ("sbob@a.test\n", none),
        ] {
            let aliases = envelope(records).only_for(&exempt);
            let expected = expected.map(|pairs| {
                pairs
                    .iter()
                    .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
                    .collect::<Vec<_>>()
            });
            assert_eq!(aliases, expected, "{records}");
        }
    }

    #[test]
    fn more_recipients_than_are_remembered_are_not_all_exempt() {
        let exempt = ["postmaster".to_owned()];
        let mut many = envelope(&"rpostmaster\n".repeat(MAX_RECIPIENTS));
        assert_eq!(many.only_for(&exempt), Some(vec![]));
        many.add(b"ralice@a.test\nRpostmaster\nrbob@a.test\n");
        assert_eq!(many.recipients.len(), MAX_RECIPIENTS);
        assert_eq!(many.recipients.last().unwrap().original, None);
        assert_eq!(many.only_for(&exempt), None);
    }

    #[test]
    fn only_regular_files_are_read() {
        let folder = std::env::temp_dir();
        assert!(matches!(
            read(std::slice::from_ref(&folder)),
            Err(Error::NoFile(_))
        ));
        assert!(matches!(read(&["/dev/zero".into()]), Err(Error::NoFile(_))));
        assert!(matches!(
            read(&[folder.join("there is none")]),
            Err(Error::Read(..))
        ));
        let fifo = folder.join(format!("rblfilter-fifo-{}", std::process::id()));
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(matches!(
            read(std::slice::from_ref(&fifo)),
            Err(Error::NoFile(_))
        ));
        std::fs::remove_file(fifo).unwrap();
    }

    #[test]
    fn control_files_have_a_limit_together() {
        let path = std::env::temp_dir().join(format!("rblfilter-large-{}", std::process::id()));
        std::fs::File::create(&path)
            .unwrap()
            .set_len(MAX_BYTES / 2 + 1)
            .unwrap();
        assert!(read(std::slice::from_ref(&path)).is_ok());
        assert!(matches!(
            read(&[path.clone(), path.clone()]),
            Err(Error::TooLarge)
        ));
        std::fs::remove_file(path).unwrap();
    }
}
