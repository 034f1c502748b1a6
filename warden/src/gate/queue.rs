//! The kernel's queue of packets (include/uapi/linux/netfilter/nfnetlink_queue.h).
//!
//! The crate nfq does not show its descriptor, so that it cannot be waited for
//! beside a limit and the worker; it keeps 4 KiB for each packet that is held,
//! and sends one verdict a system call.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rblfilter_warden::netfilter::{self, Message, Netfilter, QUEUE};
use rustix::io::Errno;

use super::pending::{Fate, Packet};

/// `NFQNL_MSG_PACKET`, `_VERDICT`, `_CONFIG`.
const PACKET: u16 = QUEUE << 8;
const VERDICT: u16 = 1;
const CONFIG: u16 = 2;
/// `NFQA_CFG_CMD`, `_PARAMS`, `_QUEUE_MAXLEN`, `_MASK`, `_FLAGS`.
const CFG_CMD: u16 = 1;
const CFG_PARAMS: u16 = 2;
const CFG_MAXLEN: u16 = 3;
const CFG_MASK: u16 = 4;
const CFG_FLAGS: u16 = 5;
/// `NFQNL_CFG_CMD_BIND`, `NFQNL_COPY_PACKET`, `NFQA_CFG_F_FAIL_OPEN`.
const BIND: u8 = 1;
const COPY_PACKET: u8 = 2;
const FAIL_OPEN: u32 = 1;
/// `NFQA_PACKET_HDR`, `NFQA_VERDICT_HDR`, `NFQA_PAYLOAD`.
const PACKET_HDR: u16 = 1;
const VERDICT_HDR: u16 = 2;
const PAYLOAD: u16 = 10;
/// `NF_DROP`, `NF_ACCEPT` (include/uapi/linux/netfilter.h).
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
/// What is copied of a packet: the headers, with extensions.
const COPIED: u32 = 192;
/// Verdicts in one system call.
const AT_ONCE: usize = 256;

/// A queue that is ours.
pub struct Queue {
    netfilter: Netfilter,
    number: u16,
}

impl Queue {
    /// Takes queue `number`, which holds up to `most` packets; beyond, and where
    /// we are not fast enough, the kernel lets packets in. What comes meanwhile
    /// is handed to `each`.
    pub fn open(number: u16, most: u32, mut each: impl FnMut(Packet, &[u8])) -> io::Result<Self> {
        let mut netfilter = Netfilter::open()?;
        let mut params = COPIED.to_be_bytes().to_vec();
        params.push(COPY_PACKET);
        let message = Message::about(QUEUE, CONFIG, number)
            .with(CFG_CMD, &[BIND, 0, 0, 0])
            .with(CFG_PARAMS, &params)
            .with_be32(CFG_MAXLEN, most)
            .with_be32(CFG_MASK, FAIL_OPEN)
            .with_be32(CFG_FLAGS, FAIL_OPEN);
        netfilter.ask_amid(message, |kind, body| hand_over(kind, body, &mut each))?;
        Ok(Self { netfilter, number })
    }

    /// Hands a packet that waits to `each`; whether there may be more.
    pub fn read(&mut self, mut each: impl FnMut(Packet, &[u8])) -> io::Result<bool> {
        match self
            .netfilter
            .read_now(|kind, body| hand_over(kind, body, &mut each))
        {
            // Those that had no room were let in.
            Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => Ok(true),
            result => result,
        }
    }

    /// Tells the kernel what becomes of packets.
    pub fn decide(&self, decided: &[(Packet, Fate)]) -> io::Result<()> {
        for some in decided.chunks(AT_ONCE) {
            let mut bytes = Vec::with_capacity(some.len() * 32);
            for (packet, fate) in some {
                let verdict = match fate {
                    Fate::Accept => NF_ACCEPT,
                    Fate::Drop => NF_DROP,
                };
                let mut header = verdict.to_be_bytes().to_vec();
                header.extend_from_slice(&packet.to_be_bytes());
                Message::about(QUEUE, VERDICT, self.number)
                    .with(VERDICT_HDR, &header)
                    .append_to(&mut bytes);
            }
            self.netfilter.send(&bytes)?;
        }
        Ok(())
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.netfilter.as_fd()
    }
}

/// What is no packet is an error about one that is gone: nothing to do.
fn hand_over(kind: u16, body: &[u8], each: &mut impl FnMut(Packet, &[u8])) {
    if kind != PACKET {
        return;
    }
    // A message of the kernel's has its header.
    if let Some(header) = netfilter::attribute(body, PACKET_HDR)
        && let Some(number) = header.first_chunk()
    {
        let payload = netfilter::attribute(body, PAYLOAD).unwrap_or(&[]);
        each(u32::from_be_bytes(*number), payload);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_handed_over_and_nothing_else() {
        let mut body = Vec::new();
        netfilter::put(&mut body, PACKET_HDR, &[0, 0, 1, 2, 8, 0, 1]);
        netfilter::put(&mut body, PAYLOAD, &[0x45, 1, 2]);
        let mut seen = Vec::new();
        let mut each = |number: Packet, payload: &[u8]| seen.push((number, payload.to_vec()));
        hand_over(PACKET, &body, &mut each);
        hand_over(2, &body, &mut each);
        hand_over(PACKET, &[1, 2, 3], &mut each);
        // Without its bytes it is still to be decided.
        hand_over(PACKET, &body[..12], &mut each);
        assert_eq!(seen, [(258, vec![0x45, 1, 2]), (258, vec![])]);
    }
}
