//! The spammers: as many sessions as the wave has, on one thread.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::{Kind, Tally, Wave, clock, count, locked};

/// For the connection itself.
const CONNECT: Duration = Duration::from_secs(2);
/// The same for one that comes back.
const CONNECT_AGAIN: Duration = Duration::from_secs(1);
/// More than any of Courier's replies here.
const REPLY: usize = 1024;

/// Runs until the wave is over; then all of them hang up.
pub(super) async fn all(wave: Arc<Wave>, tally: Arc<Tally>, begun: Instant) {
    let end = begun + wave.length;
    let mut spammers = JoinSet::new();
    if wave.rate == 0 {
        sleep_until(end).await;
        return;
    }
    if wave.kind == Kind::Return {
        let turns = Arc::new(Turns::new(wave.rate, begun));
        for number in 0..u64::from(wave.addresses) {
            let (wave, tally, turns) = (Arc::clone(&wave), Arc::clone(&tally), Arc::clone(&turns));
            spammers.spawn(async move {
                let source = wave.source(number);
                loop {
                    sleep_until(turns.next()).await;
                    one(&wave, source, CONNECT_AGAIN, &tally).await;
                }
            });
        }
        sleep_until(end).await;
    } else {
        let mut clock = clock(wave.rate);
        let mut number = 0;
        loop {
            tokio::select! {
                () = sleep_until(end) => break,
                _ = clock.tick() => {
                    let (wave, tally) = (Arc::clone(&wave), Arc::clone(&tally));
                    spammers.spawn(async move {
                        one(&wave, wave.source(number), CONNECT, &tally).await;
                    });
                    number += 1;
                }
            }
            while spammers.try_join_next().is_some() {}
        }
    }
    spammers.shutdown().await;
}

/// When each of those who come back may do so, that all together keep to the rate.
struct Turns {
    begun: Instant,
    gap: u64,
    next: AtomicU64,
}

impl Turns {
    fn new(rate: u32, begun: Instant) -> Self {
        Self {
            begun,
            gap: 1_000_000_000 / u64::from(rate.max(1)),
            next: AtomicU64::new(0),
        }
    }

    fn next(&self) -> Instant {
        let passed = u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        // What was not used is lost.
        let before = self.next.load(Ordering::Relaxed).max(passed);
        self.next.store(before + self.gap, Ordering::Relaxed);
        self.begun + Duration::from_nanos(before)
    }
}

async fn one(wave: &Wave, source: IpAddr, patience: Duration, tally: &Tally) {
    count(&tally.spam_sent);
    let Ok(Ok(mut stream)) = timeout(patience, connect(wave, source)).await else {
        count(&tally.spam_unanswered);
        return;
    };
    let open = Instant::now();
    let ended = timeout_at(open + wave.hold, session(&mut stream, wave.kind, tally)).await;
    if ended.is_ok() {
        locked(&tally.ended).push(open.elapsed());
    }
}

async fn connect(wave: &Wave, source: IpAddr) -> io::Result<TcpStream> {
    let (socket, server) = if source.is_ipv4() {
        (TcpSocket::new_v4()?, wave.server)
    } else {
        (TcpSocket::new_v6()?, wave.server6)
    };
    // Else the port is taken at bind(2) for all destinations, and ports run out early.
    setsockopt(&socket, IpBindAddressNoPort, &true)?;
    socket.bind((source, 0).into())?;
    let stream = socket.connect(server).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Returns when the server has ended it.
async fn session(stream: &mut TcpStream, kind: Kind, tally: &Tally) -> io::Result<()> {
    let mut bytes = [0; REPLY];
    if reply(stream, &mut bytes).await? == b'2' {
        count(&tally.spam_greeted);
    }
    let lines: &[&str] = match kind {
        Kind::Banner | Kind::Syn => &[],
        Kind::Hang | Kind::Return => &[
            "EHLO spam.test\r\n",
            "MAIL FROM:<a@spam.test>\r\n",
            "RCPT TO:<alice@lab.test>\r\n",
        ],
        Kind::Data => &[
            "EHLO spam.test\r\n",
            "MAIL FROM:<a@spam.test>\r\n",
            "RCPT TO:<alice@lab.test>\r\n",
            "DATA\r\n",
            "Subject: spam\r\n\r\nBuy.\r\n.\r\n",
        ],
    };
    for (number, line) in lines.iter().enumerate() {
        stream.write_all(line.as_bytes()).await?;
        let digit = reply(stream, &mut bytes).await?;
        if number == 4 && digit == b'2' {
            count(&tally.spam_accepted);
        }
        // It has nothing to send after a refusal, and does not hang up.
        if kind == Kind::Data && digit > b'3' {
            break;
        }
    }
    while stream.read(&mut bytes).await? > 0 {}
    Ok(())
}

/// The first digit of one whole reply.
async fn reply(stream: &mut TcpStream, bytes: &mut [u8; REPLY]) -> io::Result<u8> {
    let mut length = 0;
    loop {
        let more = stream.read(&mut bytes[length..]).await?;
        if more == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        length += more;
        if is_whole(&bytes[..length]) {
            return Ok(bytes[0]);
        }
        if length == bytes.len() {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

/// The last line is there and has no hyphen after its code (RFC 5321, §4.2.1).
fn is_whole(reply: &[u8]) -> bool {
    let Some((b'\n', lines)) = reply.split_last() else {
        return false;
    };
    let last = lines.rsplit(|byte| *byte == b'\n').next().unwrap_or(lines);
    last.get(3) != Some(&b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_whole_when_its_last_line_is_there() {
        for (reply, whole) in [
            (&b""[..], false),
            (b"220 lab", false),
            (b"220 lab\r\n", true),
            (b"250-a\r\n", false),
            (b"250-a\r\n250 b", false),
            (b"250-a\r\n250 b\r\n", true),
            (b"250\r\n", true),
        ] {
            assert_eq!(is_whole(reply), whole, "{reply:?}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn turns_keep_to_the_rate() {
        let begun = Instant::now();
        let turns = Turns::new(1000, begun);
        let last = (0..1000).map(|_| turns.next()).last().unwrap();
        let passed = last - begun;
        assert!(passed >= Duration::from_millis(999), "{passed:?}");
    }
}
