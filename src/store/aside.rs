//! Files of bans that were damaged, and are kept beside the one that is in use.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use aho_corasick::AhoCorasick;
use ipnetwork::IpNetwork;

use crate::enforce::ban::around;

/// What the name of a file that was set aside has more than the file's own.
const ASIDE: &str = ".corrupt-";
/// How many of them are kept.
const KEPT: usize = 3;

fn with(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    PathBuf::from(name)
}

/// Moves the file and its companions out of the way, with their name kept, and
/// tells where to; `None` where there is none any longer. Of those that were set
/// aside before the newest stay.
pub fn set_aside(path: &Path, now: u32) -> io::Result<Option<PathBuf>> {
    // Another may have been in the same second.
    let before = set_aside_before(path).unwrap_or_default();
    let numbers = before.iter().filter(|((time, _), _)| *time == now);
    let aside = match numbers.map(|((_, number), _)| number).max() {
        None => with(path, &format!("{ASIDE}{now}")),
        Some(last) => with(path, &format!("{ASIDE}{now}.{}", last.saturating_add(1))),
    };
    let moved = |end| match fs::rename(with(path, end), with(&aside, end)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    };
    let was_there = moved("")?;
    moved("-wal")?;
    moved("-shm")?;
    let old = (before.len() + usize::from(was_there)).saturating_sub(KEPT);
    for (_, path) in before.iter().take(old) {
        // One that stays harms nobody; a directory was somebody else's.
        let _ = remove(path);
    }
    Ok(was_there.then_some(aside))
}

/// Removes a file that was set aside, and its companions; the first error of any.
fn remove(path: &Path) -> io::Result<()> {
    let mut result = Ok(());
    for end in ["", "-wal", "-shm"] {
        match fs::remove_file(with(path, end)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound && result.is_ok() => {
                result = Err(error);
            }
            _ => {}
        }
    }
    result
}

/// Removes those that were set aside at `before` or earlier.
pub fn remove_older(path: &Path, before: u32) {
    for ((time, _), path) in set_aside_before(path).unwrap_or_default() {
        if time <= before {
            // It is tried again in an hour.
            let _ = remove(&path);
        }
    }
}

/// Removes those that may hold something of `networks`, as nobody can take it out
/// of a damaged file; for each, the place of one network that it may hold. Each is
/// read once.
///
/// # Errors
/// Where one cannot be read or removed.
pub fn remove_those_of(path: &Path, networks: &[IpNetwork]) -> io::Result<Vec<usize>> {
    let mut all = set_aside_before(path)?;
    // A directory was somebody else's.
    all.retain(|(_, path)| path.is_file());
    if all.is_empty() {
        return Ok(Vec::new());
    }
    let sought = Sought::of(networks)?;
    let mut places = Vec::new();
    for (_, path) in all {
        if let Some(place) = sought.place_in(&path)? {
            remove(&path)?;
            places.push(place);
        }
    }
    Ok(places)
}

/// What is looked for in a file of bans, and in what belongs to it.
enum Sought {
    /// Any may hold something of this one, which is wider than an address.
    Any(usize),
    /// The texts, and the place of the network of each.
    Texts(AhoCorasick, Vec<usize>),
}

impl Sought {
    /// A single address is looked for as text, an IPv6 one by the networks around it,
    /// too.
    fn of(networks: &[IpNetwork]) -> io::Result<Self> {
        let full = |network: &IpNetwork| if network.is_ipv4() { 32 } else { 128 };
        let wide = |network: &IpNetwork| network.prefix() < full(network);
        if let Some(place) = networks.iter().position(wide) {
            return Ok(Self::Any(place));
        }
        let (mut texts, mut places) = (Vec::new(), Vec::new());
        for (place, network) in networks.iter().enumerate() {
            texts.push(network.ip().to_string());
            if network.is_ipv6() {
                // By which an IPv6 client may be banned (ban.prefix6).
                texts.extend((48..128).map(|prefix| around(network.ip(), prefix).to_string()));
            }
            places.resize(texts.len(), place);
        }
        let texts = AhoCorasick::new(texts).map_err(io::Error::other)?;
        Ok(Self::Texts(texts, places))
    }

    /// The place of a network of which the file may tell.
    fn place_in(&self, path: &Path) -> io::Result<Option<usize>> {
        let (texts, places) = match self {
            Self::Any(place) => return Ok(Some(*place)),
            Self::Texts(texts, places) => (texts, places),
        };
        for end in ["", "-wal"] {
            match File::open(with(path, end)) {
                Ok(file) => {
                    if let Some(found) = texts.stream_find_iter(file).next() {
                        return Ok(Some(places[found?.pattern().as_usize()]));
                    }
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Err(_) => {}
            }
        }
        Ok(None)
    }
}

/// The files that were set aside, by their time and their number in that second,
/// the oldest first.
fn set_aside_before(path: &Path) -> io::Result<Vec<((u32, u32), PathBuf)>> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(Vec::new());
    };
    let begin = format!("{}{ASIDE}", name.to_string_lossy());
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        // Their companions have no number.
        let of = name.strip_prefix(&begin).and_then(|of| {
            let (time, number) = of.split_once('.').unwrap_or((of, "0"));
            Some((time.parse().ok()?, number.parse().ok()?))
        });
        all.extend(of.map(|of| (of, folder.join(name))));
    }
    all.sort_unstable();
    Ok(all)
}
