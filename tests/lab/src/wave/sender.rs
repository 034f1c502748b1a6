//! The legitimate senders, each from an address of its own.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::{Mail, Tally, Wave, clock, count, locked};
use crate::smtp::Client;

const LINES: [&str; 4] = [
    "EHLO client.test",
    "MAIL FROM:<bob@client.test>",
    "RCPT TO:<alice@lab.test>",
    "DATA",
];
const MESSAGE: &str =
    "From: <bob@client.test>\nTo: alice@lab.test\nSubject: a test\n\nHello Alice.\n";

/// Runs until the last message that was begun is accepted or given up.
pub(super) async fn all(wave: &Wave, tally: Arc<Tally>, begun: Instant) {
    let end = begun + wave.length;
    let mut senders = JoinSet::new();
    if wave.mail_rate == 0 {
        return;
    }
    let mut clock = clock(wave.mail_rate);
    let mut number = 0_u16;
    loop {
        tokio::select! {
            () = sleep_until(end) => break,
            _ = clock.tick() => {
                let [high, low] = match wave.mail_addresses {
                    0 => number,
                    all => number % all,
                }
                .to_be_bytes();
                let is_first = wave.mail_addresses == 0 || number < wave.mail_addresses;
                number = number.wrapping_add(1);
                // Each is in another /24 than the one before: they are many, and no limit on one is theirs.
                let source = Ipv4Addr::new(127, 1, low, high).into();
                let (server, patience) = (wave.server, wave.patience);
                let tally = Arc::clone(&tally);
                senders.spawn(async move {
                    count(&tally.mail_sent);
                    let start = Instant::now();
                    if let Ok(Some(latency)) = one(source, server, patience).await {
                        count(&tally.mail_accepted);
                        let begun = start - begun;
                        locked(&tally.mail).push(Mail { begun, is_first, latency });
                    }
                });
            }
        }
        while senders.try_join_next().is_some() {}
    }
    while senders.join_next().await.is_some() {}
}

/// From the connect to the 250; none where it was refused.
async fn one(
    source: IpAddr,
    server: SocketAddr,
    patience: Duration,
) -> io::Result<Option<Duration>> {
    let start = Instant::now();
    let mut client = Client::connect_within(source, server, patience).await?;
    if !client.read_reply().await?.is_positive() {
        return Ok(None);
    }
    for line in LINES {
        if !client.command(line).await?.is_positive() {
            return Ok(None);
        }
    }
    if !client.data(MESSAGE).await?.is_positive() {
        return Ok(None);
    }
    let latency = start.elapsed();
    // Accepted is accepted, whatever becomes of the goodbye.
    let _ = client.command("QUIT").await;
    Ok(Some(latency))
}
