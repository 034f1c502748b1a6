//! A DNS server that is slow or silent where it is told to be: for lists, and for the names of clients.
//!
//! Below `bl.test` it answers as the lab's rbldnsd does; other names do not exist. One thread serves it; it ends with
//! the server.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::Listing;

/// When a kind of question is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Answer {
    /// Without delay.
    #[default]
    AtOnce,
    /// After this long.
    After(Duration),
    /// Not at all.
    Never,
}

/// What a server says that does not tell the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// Each name in the list's zone has the address 127.0.0.2.
    AllListed,
    /// Each name that does not exist has an address, as some providers' resolvers have it.
    Hijacked,
}

/// How it answers; the default is a server like any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stub {
    /// Questions below `bl.test`.
    pub list: Answer,
    /// Questions for the name of an address (`in-addr.arpa`, `ip6.arpa`).
    pub names: Answer,
    /// What the TXT record of each listed address says, in place of a text that does no harm; any bytes.
    pub text: Option<&'static [u8]>,
}

const ZONE: &str = "bl.test";
const TEXT: &[u8] = b"Listed by bl.test";
const A: u16 = 1;
const TXT: u16 = 16;
const ANY: u16 = 255;
const NO_SUCH_NAME: u8 = 3;
/// Where a hijacker would have everybody go (RFC 5737).
const HIJACKER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
/// How long the thread may not notice that it shall end.
const LOOK: Duration = Duration::from_millis(50);

/// A running one.
pub(crate) struct Server {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts it on port 53 of this address.
    pub(crate) fn start(address: Ipv4Addr, stub: Stub, listed: &[Listing]) -> io::Result<Self> {
        Self::serving(address, stub, List::new(listed))
    }

    /// One that lies, at once.
    pub(crate) fn lying(address: Ipv4Addr, lie: Lie, listed: &[Listing]) -> io::Result<Self> {
        let list = List {
            lie: Some(lie),
            ..List::new(listed)
        };
        Self::serving(address, Stub::default(), list)
    }

    fn serving(address: Ipv4Addr, stub: Stub, list: List) -> io::Result<Self> {
        let socket = UdpSocket::bind((address, 53))?;
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let thread = std::thread::Builder::new()
            .name("lab-dns".into())
            .spawn(move || serve(&socket, stub, &list, &ended))?;
        Ok(Self {
            end,
            thread: Some(thread),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(socket: &UdpSocket, stub: Stub, list: &List, end: &AtomicBool) {
    let mut late: VecDeque<(Instant, SocketAddr, Vec<u8>)> = VecDeque::new();
    let mut bytes = [0; 1500];
    while !end.load(Ordering::Relaxed) {
        let due = late.front().map(|(due, ..)| *due);
        let wait = due.map_or(LOOK, |due| due.saturating_duration_since(Instant::now()));
        let wait = wait.clamp(Duration::from_micros(100), LOOK);
        if socket.set_read_timeout(Some(wait)).is_err() {
            return;
        }
        if let Ok((length, client)) = socket.recv_from(&mut bytes)
            && let Some((kind, answer)) = reply(&bytes[..length], list, stub.text.unwrap_or(TEXT))
        {
            let when = match kind {
                Kind::List => stub.list,
                Kind::Name => stub.names,
                Kind::Other => Answer::AtOnce,
            };
            match when {
                Answer::AtOnce => drop(socket.send_to(&answer, client)),
                // Two kinds with two delays would need an order; the earlier one waits for the later at worst.
                Answer::After(delay) => late.push_back((Instant::now() + delay, client, answer)),
                Answer::Never => {}
            }
        }
        while let Some((_, client, answer)) = late.pop_front_if(|(due, ..)| *due <= Instant::now())
        {
            let _ = socket.send_to(&answer, client);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    List,
    Name,
    Other,
}

/// What is listed.
struct List {
    /// Networks as their first and last address.
    ranges: Vec<(u128, u128, Ipv4Addr)>,
    lie: Option<Lie>,
}

impl List {
    fn new(listed: &[Listing]) -> Self {
        let code = Ipv4Addr::new(127, 0, 0, 2);
        let mut ranges: Vec<_> = listed
            .iter()
            .filter_map(|(network, code)| {
                let (first, last) = range(network)?;
                Some((first, last, *code))
            })
            .collect();
        // The test entry of RFC 5782 (§5).
        let test = number(code.into());
        ranges.push((test, test, code));
        Self { ranges, lie: None }
    }

    fn code(&self, client: IpAddr) -> Option<Ipv4Addr> {
        let client = number(client);
        self.ranges
            .iter()
            .find(|(first, last, _)| (*first..=*last).contains(&client))
            .map(|(.., code)| *code)
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(four) => four.to_ipv6_mapped(),
        IpAddr::V6(six) => six,
    }
    .to_bits()
}

fn range(network: &str) -> Option<(u128, u128)> {
    let (address, length) = network.split_once('/').unwrap_or((network, ""));
    let address: IpAddr = address.parse().ok()?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let length: u32 = if length.is_empty() {
        bits
    } else {
        length.parse().ok()?
    };
    let host = u128::MAX
        .checked_shr(128 - bits.checked_sub(length)?)
        .unwrap_or(0);
    let first = number(address) & !host;
    Some((first, first | host))
}

/// The answer to a query of one question; none to what is no such query.
fn reply(query: &[u8], list: &List, text: &[u8]) -> Option<(Kind, Vec<u8>)> {
    let (name, after) = name_at(query, 12)?;
    let question = query.get(12..after + 4)?;
    let kind = u16::from_be_bytes([query[after], query[after + 1]]);
    let client = name
        .strip_suffix(ZONE)
        .and_then(|front| front.strip_suffix('.'))
        .and_then(client_of);
    let code = client.and_then(|client| list.code(client));
    let code = match list.lie {
        None => code,
        Some(Lie::AllListed) => client.map(|_| Ipv4Addr::new(127, 0, 0, 2)),
        Some(Lie::Hijacked) => code.or((name != ZONE).then_some(HIJACKER)),
    };
    let of_zone = name == ZONE || name.ends_with(".bl.test");
    let exists = name == ZONE || code.is_some();

    let mut answer = Vec::with_capacity(128);
    answer.extend_from_slice(&query[..2]);
    // A response, authoritative, recursion desired as asked.
    answer.extend_from_slice(&[0x84 | query[2] & 1, if exists { 0 } else { NO_SUCH_NAME }]);
    let mut records = Vec::new();
    if let Some(code) = code {
        if kind == A || kind == ANY {
            records.push((A, code.octets().to_vec()));
        }
        if kind == TXT || kind == ANY {
            // Strings of 255 bytes at most; the data have 64 KiB.
            let strings = text.chunks(255).flat_map(|string| {
                let length = u8::try_from(string.len()).unwrap_or(u8::MAX);
                std::iter::once(length).chain(string.iter().copied())
            });
            records.push((TXT, strings.collect()));
        }
    }
    let count = u8::try_from(records.len()).unwrap_or(0);
    answer.extend_from_slice(&[0, 1, 0, count, 0, 0, 0, 0]);
    answer.extend_from_slice(question);
    for (kind, data) in records {
        // The name of the question, IN, an hour.
        answer.extend_from_slice(&[0xc0, 12]);
        answer.extend_from_slice(&kind.to_be_bytes());
        answer.extend_from_slice(&[0, 1, 0, 0, 0x0e, 0x10]);
        answer.extend_from_slice(&u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
        answer.extend_from_slice(&data);
    }
    let kind = if of_zone {
        Kind::List
    } else if name.ends_with(".arpa") {
        Kind::Name
    } else {
        Kind::Other
    };
    Some((kind, answer))
}

/// The name at this place, in lower case, and where it ends. Questions are not compressed.
fn name_at(query: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut name = String::new();
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        match length {
            0 => return Some((name, at)),
            64.. => return None,
            _ => {}
        }
        let label = std::str::from_utf8(query.get(at..at + length)?).ok()?;
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(&label.to_ascii_lowercase());
        at += length;
    }
}

/// `4.3.2.1`, or 32 nibbles (RFC 5782, §2.1 and §2.4).
fn client_of(reversed: &str) -> Option<IpAddr> {
    let labels: Vec<&str> = reversed.rsplit('.').collect();
    match labels.len() {
        4 => labels.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        32 => u128::from_str_radix(&labels.concat(), 16)
            .ok()
            .map(|bits| Ipv6Addr::from_bits(bits).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut bytes = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            bytes.push(u8::try_from(label.len()).unwrap());
            bytes.extend_from_slice(label.as_bytes());
        }
        bytes.push(0);
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&[0, 1]);
        bytes
    }

    fn ask(name: &str, kind: u16) -> (Kind, u8, u8, Vec<u8>) {
        let code = Ipv4Addr::new(127, 0, 0, 2);
        let list = List::new(&[
            ("127.66.0.0/15".into(), code),
            ("fd00:66::/32".into(), code),
        ]);
        let (of, answer) = reply(&query(name, kind), &list, TEXT).unwrap();
        assert_eq!(&answer[..2], [0xab, 0xcd]);
        (of, answer[3] & 15, answer[7], answer)
    }

    #[test]
    fn it_answers_as_a_list_does() {
        for (name, kind, code, count) in [
            ("2.0.0.127.bl.test", A, 0, 1),
            ("1.0.0.127.bl.test", A, 3, 0),
            ("9.8.66.127.BL.test", A, 0, 1),
            ("9.8.67.127.bl.test", TXT, 0, 1),
            ("9.8.68.127.bl.test", A, 3, 0),
            ("9.8.66.127.bl.test", 28, 0, 0),
            ("bl.test", 6, 0, 0),
        ] {
            let (of, rcode, records, _) = ask(name, kind);
            assert_eq!((of, rcode, records), (Kind::List, code, count), "{name}");
        }
        let (.., answer) = ask("2.0.0.127.bl.test", A);
        assert!(answer.ends_with(&[0, 4, 127, 0, 0, 2]));
        let six: String = "6600"
            .chars()
            .chain("00df".chars())
            .map(|c| format!("{c}."))
            .collect();
        let name = format!("{}{six}bl.test", "1.".repeat(24));
        assert_eq!(ask(&name, A).2, 1, "{name}");
    }

    #[test]
    fn other_names_do_not_exist() {
        assert_eq!(ask("1.66.127.in-addr.arpa", 12).0, Kind::Name);
        let (of, code, count, _) = ask("client.test", 15);
        assert_eq!((of, code, count), (Kind::Other, NO_SUCH_NAME, 0));
    }

    #[test]
    fn a_liar_lists_everybody_and_a_hijacker_sends_everybody_to_himself() {
        for (lie, name, address) in [
            (Lie::AllListed, "1.0.0.127.bl.test", Some([127, 0, 0, 2])),
            (Lie::AllListed, "client.test", None),
            (Lie::Hijacked, "1.0.0.127.bl.test", Some([203, 0, 113, 7])),
            (Lie::Hijacked, "2.0.0.127.bl.test", Some([127, 0, 0, 2])),
            (Lie::Hijacked, "client.test", Some([203, 0, 113, 7])),
        ] {
            let list = List {
                lie: Some(lie),
                ..List::new(&[])
            };
            let (_, answer) = reply(&query(name, A), &list, TEXT).unwrap();
            assert_eq!(answer[7] == 1, address.is_some(), "{lie:?} {name}");
            if let Some(address) = address {
                assert!(answer.ends_with(&address), "{lie:?} {name}");
            }
        }
    }

    #[test]
    fn no_bytes_do_harm() {
        let list = List::new(&[]);
        let good = query("2.0.0.127.bl.test", A);
        for end in 0..good.len() {
            assert_eq!(reply(&good[..end], &list, TEXT), None, "cut at {end}");
        }
        let mut bad = good;
        bad[12] = 0xc0;
        assert_eq!(reply(&bad, &list, TEXT), None);
    }
}
