//! Where the lines come from: files, plain or compressed, standard input, the
//! journal.
//!
//! Decompression and the journal are other programs' work (gzip, xz, zstd,
//! bzip2, journalctl), which run beside ours on another core; no foreign
//! decoder is linked into the program that is also the filter. A thread reads
//! and hands on blocks of whole lines; a few wait at most.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::tz::TimeZone;

use super::stamp::Clock;

/// Bytes that are read at once. Longer lines are read in pieces.
const BLOCK: usize = 1 << 20;
/// Blocks that may wait.
const AHEAD: usize = 4;
/// Bytes in which the first stamp of a file is looked for.
const PEEK: u64 = 64 * 1024;

/// What reads the journal.
const JOURNALCTL: &str = "journalctl";

/// What could not be read.
#[derive(Debug)]
pub enum Error {
    /// A file or standard input.
    Read {
        /// Its name.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// Another program did not start.
    Start {
        /// Which.
        program: &'static str,
        /// For what.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// Another program failed; it has said why.
    Failed {
        /// Which.
        program: &'static str,
        /// For what.
        name: String,
        /// How.
        status: std::process::ExitStatus,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { name, source } => write!(f, "cannot read {name}: {source}"),
            Self::Start {
                program,
                name,
                source,
            } if source.kind() == io::ErrorKind::NotFound => write!(
                f,
                "cannot read {name}: {program} is not installed (it is needed for this)"
            ),
            Self::Start {
                program,
                name,
                source,
            } => write!(f, "cannot read {name}: cannot run {program}: {source}"),
            Self::Failed {
                program,
                name,
                status,
            } if *program == JOURNALCTL => {
                write!(f, "cannot read {name}: {program} failed ({status})")
            }
            Self::Failed { program, name, .. } => write!(
                f,
                "cannot read {name}: {program} cannot unpack it: it is damaged, or not yet written to its end"
            ),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read { source, .. } | Self::Start { source, .. } => Some(source),
            Self::Failed { .. } => None,
        }
    }
}

/// What is asked of the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Journal {
    /// Lines from this second on.
    pub since: Option<i64>,
    /// Lines before this second.
    pub until: Option<i64>,
    /// Another journal than the machine's.
    pub directory: Option<PathBuf>,
    /// What delivers messages, too.
    pub deliveries: bool,
}

/// A log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file, plain or compressed.
    File(PathBuf),
    /// Standard input, plain or compressed.
    Input,
    /// What the mail programs wrote to the journal.
    Journal(Journal),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Input => f.write_str("standard input"),
            Self::Journal(_) => f.write_str("the journal"),
        }
    }
}

/// Some whole lines.
#[derive(Debug)]
pub struct Block {
    /// The lines.
    pub bytes: Vec<u8>,
    /// Bytes that were read of the file so far, as they are on the disk.
    pub position: u64,
}

/// A log that is being read.
#[derive(Debug)]
pub struct Opened {
    /// When it was last written to, in seconds since 1970.
    pub newest: i64,
    /// The blocks; the last may be an error.
    pub blocks: Receiver<Result<Block, Error>>,
}

impl Source {
    /// Bytes on the disk, where that is known.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Self::File(path) => path.metadata().map_or(0, |data| data.len()),
            Self::Input | Self::Journal(_) => 0,
        }
    }

    /// Begins to read.
    ///
    /// # Errors
    /// Where it cannot be opened.
    pub fn open(&self) -> Result<Opened, Error> {
        let (newest, mut lines) = self.lines()?;
        let (sender, blocks) = sync_channel(AHEAD);
        thread::spawn(move || {
            let mut rest = Vec::new();
            loop {
                match lines.block(&mut rest) {
                    Ok(Some(block)) => {
                        if sender.send(Ok(block)).is_err() {
                            return;
                        }
                    }
                    Ok(None) => return,
                    Err(error) => {
                        let _ = sender.send(Err(error));
                        return;
                    }
                }
            }
        });
        Ok(Opened { newest, blocks })
    }

    fn lines(&self) -> Result<(i64, Lines), Error> {
        let name = self.to_string();
        match self {
            Self::File(path) => {
                let failed = |source| Error::Read {
                    name: name.clone(),
                    source,
                };
                let file = File::open(path).map_err(failed)?;
                let data = file.metadata().map_err(failed)?;
                if data.is_file() {
                    let newest = data.modified().map_or_else(|_| now(), seconds);
                    Ok((newest, of_file(file, name)?))
                } else if data.is_dir() {
                    Err(failed(io::ErrorKind::IsADirectory.into()))
                } else {
                    Ok((now(), of_stream(file, name)?))
                }
            }
            Self::Input => Ok((now(), of_stream(io::stdin(), name)?)),
            Self::Journal(journal) => {
                let mut command = Command::new(JOURNALCTL);
                command.args(journal.arguments()).stdin(Stdio::null());
                let (child, output) = run(command, JOURNALCTL, &name)?;
                Ok((now(), Lines::of_child(child, output, JOURNALCTL, name)))
            }
        }
    }

    /// The second of the first line that has a stamp.
    fn first(&self, zone: &TimeZone) -> Result<i64, Error> {
        let (newest, mut lines) = self.lines()?;
        let mut bytes = Vec::new();
        lines
            .reader
            .by_ref()
            .take(PEEK)
            .read_to_end(&mut bytes)
            .map_err(|source| Error::Read {
                name: self.to_string(),
                source,
            })?;
        let mut clock = Clock::new(zone.clone(), newest);
        let first = bytes
            .split(|byte| *byte == b'\n')
            .find_map(|line| clock.head(line));
        Ok(first.map_or(newest, |head| head.at))
    }
}

/// Puts files in the order of their lines: a shell writes `mail.log` before `mail.log.1`.
///
/// # Errors
/// Where one of several files cannot be read.
pub fn in_order(sources: Vec<Source>, zone: &TimeZone) -> Result<Vec<Source>, Error> {
    let files = sources
        .iter()
        .all(|source| matches!(source, Source::File(path) if path.is_file()));
    if sources.len() < 2 || !files {
        return Ok(sources);
    }
    let mut stamped = Vec::new();
    for source in sources {
        stamped.push((source.first(zone)?, source));
    }
    stamped.sort_by_key(|(first, _)| *first);
    Ok(stamped.into_iter().map(|(_, source)| source).collect())
}

impl Journal {
    /// journalctl's arguments.
    fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = [
            "--quiet",
            "--no-pager",
            "--output=short-unix",
            "--identifier=courieresmtpd",
            "--identifier=esmtpd-ssl",
            "--identifier=courierd",
            "--identifier=rblfilter",
        ]
        .map(OsString::from)
        .into();
        if self.deliveries {
            let programs = ["courierlocal", "courieresmtp", "courierdsn", "courieruucp"];
            arguments.extend(programs.map(|name| format!("--identifier={name}").into()));
        }
        for (name, second) in [("--since", self.since), ("--until", self.until)] {
            if let Some(second) = second {
                arguments.push(format!("{name}=@{second}").into());
            }
        }
        if let Some(directory) = &self.directory {
            arguments.push("--directory".into());
            arguments.push(directory.into());
        }
        arguments
    }
}

/// What is read, and the program that writes it.
struct Lines {
    reader: Box<dyn Read + Send>,
    name: String,
    /// Shares its position with the file that is read.
    place: Option<File>,
    child: Option<(Child, &'static str)>,
}

impl Lines {
    fn of_child(
        child: Child,
        output: impl Read + Send + 'static,
        program: &'static str,
        name: String,
    ) -> Self {
        Self {
            reader: Box::new(output),
            name,
            place: None,
            child: Some((child, program)),
        }
    }

    /// The next block; `rest` holds the beginning of a line between two calls.
    fn block(&mut self, rest: &mut Vec<u8>) -> Result<Option<Block>, Error> {
        let mut bytes = std::mem::take(rest);
        let mut filled = bytes.len();
        bytes.resize(filled + BLOCK, 0);
        let mut ended = false;
        // Pipes give little at a time.
        while filled < bytes.len() {
            match self.reader.read(&mut bytes[filled..]) {
                Ok(0) => {
                    ended = true;
                    break;
                }
                Ok(length) => filled += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(Error::Read {
                        name: self.name.clone(),
                        source,
                    });
                }
            }
        }
        bytes.truncate(filled);
        if ended {
            if bytes.is_empty() {
                self.wait()?;
                return Ok(None);
            }
        } else if let Some(end) = memchr::memrchr(b'\n', &bytes) {
            *rest = bytes.split_off(end + 1);
        }
        let position = self
            .place
            .as_mut()
            .and_then(|file| file.stream_position().ok())
            .unwrap_or(0);
        Ok(Some(Block { bytes, position }))
    }

    /// The other program's end.
    fn wait(&mut self) -> Result<(), Error> {
        let Some((mut child, program)) = self.child.take() else {
            return Ok(());
        };
        let status = child.wait().map_err(|source| Error::Start {
            program,
            name: self.name.clone(),
            source,
        })?;
        if status.success() {
            return Ok(());
        }
        Err(Error::Failed {
            program,
            name: self.name.clone(),
            status,
        })
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if let Some((child, _)) = &mut self.child {
            // Nobody reads it any longer.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The program that decompresses what begins with these bytes.
fn decompressor(begin: &[u8]) -> Option<&'static str> {
    let known: [(&[u8], &'static str); 4] = [
        (b"\x1f\x8b", "gzip"),
        (b"\xfd7zXZ\0", "xz"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"BZh", "bzip2"),
    ];
    known
        .into_iter()
        .find(|(magic, _)| begin.starts_with(magic))
        .map(|(_, program)| program)
}

/// As many bytes as tell a compression.
fn beginning(reader: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut begin = Vec::new();
    reader.take(6).read_to_end(&mut begin)?;
    Ok(begin)
}

fn of_file(mut file: File, name: String) -> Result<Lines, Error> {
    let failed = |source| Error::Read {
        name: name.clone(),
        source,
    };
    let begin = beginning(&mut file).map_err(failed)?;
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    let place = file.try_clone().map_err(failed)?;
    let mut lines = if let Some(program) = decompressor(&begin) {
        let mut command = Command::new(program);
        command.arg("-dc").stdin(file);
        let (child, output) = run(command, program, &name)?;
        Lines::of_child(child, output, program, name)
    } else {
        Lines {
            reader: Box::new(file),
            name,
            place: None,
            child: None,
        }
    };
    lines.place = Some(place);
    Ok(lines)
}

fn of_stream(mut stream: impl Read + Send + 'static, name: String) -> Result<Lines, Error> {
    let begin = beginning(&mut stream).map_err(|source| Error::Read {
        name: name.clone(),
        source,
    })?;
    let Some(program) = decompressor(&begin) else {
        return Ok(Lines {
            reader: Box::new(Cursor::new(begin).chain(stream)),
            name,
            place: None,
            child: None,
        });
    };
    let mut command = Command::new(program);
    command.arg("-dc").stdin(Stdio::piped());
    let (mut child, output) = run(command, program, &name)?;
    if let Some(mut input) = child.stdin.take() {
        // Ends with the stream, or with its reader.
        thread::spawn(move || {
            let _ = input
                .write_all(&begin)
                .and_then(|()| io::copy(&mut stream, &mut input).map(drop));
        });
    }
    Ok(Lines::of_child(child, output, program, name))
}

fn run(
    mut command: Command,
    program: &'static str,
    name: &str,
) -> Result<(Child, std::process::ChildStdout), Error> {
    let failed = |source| Error::Start {
        program,
        name: name.to_owned(),
        source,
    };
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(failed)?;
    let output = child.stdout.take();
    let output = output.ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
    Ok((child, output))
}

/// Seconds since 1970.
#[must_use]
pub fn now() -> i64 {
    seconds(SystemTime::now())
}

fn seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_secs()).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir()
                .join(format!("rblfilter-source-{name}-{}", std::process::id()));
            std::fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn write(&self, name: &str, bytes: &[u8]) -> Source {
            let path = self.0.join(name);
            std::fs::write(&path, bytes).unwrap();
            Source::File(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn all(source: &Source) -> Result<Vec<u8>, Error> {
        let opened = source.open()?;
        let mut bytes = Vec::new();
        for block in opened.blocks {
            let block = block?;
            bytes.extend(block.bytes);
        }
        Ok(bytes)
    }

    #[test]
    fn blocks_end_with_a_line_and_lose_nothing() {
        let folder = Folder::new("blocks");
        let mut text = Vec::new();
        for number in 0..200_000 {
            text.extend(format!("line {number}\n").as_bytes());
        }
        text.extend(b"the last has no end");
        let source = folder.write("log", &text);
        let opened = source.open().unwrap();
        let blocks: Vec<Block> = opened.blocks.into_iter().map(Result::unwrap).collect();
        assert!(blocks.len() > 2);
        for block in &blocks[..blocks.len() - 1] {
            assert!(block.bytes.ends_with(b"\n"));
        }
        assert_eq!(blocks[blocks.len() - 1].position, text.len() as u64);
        let joined: Vec<u8> = blocks.into_iter().flat_map(|block| block.bytes).collect();
        assert!(joined == text);
        // And one without any line in it is no trap for memory.
        let source = folder.write("zeros", &vec![0; 3 * BLOCK]);
        assert_eq!(all(&source).unwrap().len(), 3 * BLOCK);
        assert_eq!(all(&folder.write("empty", b"")).unwrap(), b"");
    }

    #[test]
    fn compressed_files_are_known_by_their_first_bytes() {
        let folder = Folder::new("compressed");
        let Source::File(plain) = folder.write("log", b"one\ntwo\n") else {
            panic!("a file");
        };
        for program in ["gzip", "xz", "bzip2", "zstd"] {
            let output = Command::new(program).arg("-c").arg(&plain).output();
            let Ok(output) = output else {
                assert_eq!(program, "zstd", "every Debian has the others");
                continue;
            };
            let source = folder.write("old", &output.stdout);
            assert_eq!(all(&source).unwrap(), b"one\ntwo\n", "{program}");
            let cut = folder.write("cut", &output.stdout[..output.stdout.len() - 4]);
            let error = all(&cut).unwrap_err().to_string();
            assert!(
                error.contains(&format!("{program} cannot unpack it")),
                "{error}"
            );
            let stream = of_stream(Cursor::new(output.stdout), "x".into());
            let mut bytes = Vec::new();
            stream.unwrap().reader.read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes, b"one\ntwo\n", "{program} from a pipe");
        }
    }

    #[test]
    fn files_are_read_in_the_order_of_their_lines() {
        let folder = Folder::new("order");
        let new = folder.write("mail.log", b"\nNov 24 09:00:00 mail courierd: x\n");
        let old = folder.write("mail.log.1", b"Nov 17 09:00:00 mail courierd: x\n");
        let older = folder.write("mail.log.2", b"2026-11-10T09:00:00Z mail courierd: x\n");
        let Source::File(path) = &new else {
            panic!("a file");
        };
        let newest = UNIX_EPOCH + std::time::Duration::from_secs(1_795_514_043);
        for source in [path.clone(), path.with_extension("log.1")] {
            File::options()
                .append(true)
                .open(source)
                .unwrap()
                .set_modified(newest)
                .unwrap();
        }
        let given = vec![new.clone(), old.clone(), older.clone()];
        assert_eq!(in_order(given, &TimeZone::UTC).unwrap(), [older, old, new]);
    }

    #[test]
    fn what_cannot_be_read_says_so() {
        let missing = Source::File("/nonexistent/log".into());
        assert_eq!(
            missing.open().unwrap_err().to_string(),
            "cannot read /nonexistent/log: No such file or directory (os error 2)"
        );
        assert!(Source::File("/".into()).open().is_err());
    }

    #[test]
    fn the_journal_is_asked_for_the_mail_programs_alone() {
        let journal = Journal {
            since: Some(7),
            until: None,
            directory: Some("/var/log/old journal".into()),
            deliveries: false,
        };
        let arguments = journal.arguments();
        assert!(arguments.contains(&"--identifier=rblfilter".into()));
        assert!(arguments.contains(&"--since=@7".into()));
        assert_eq!(arguments.last(), Some(&"/var/log/old journal".into()));
    }
}
