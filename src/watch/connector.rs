//! Messages of the kernel's proc connector (Documentation/driver-api/connector.rst,
//! include/uapi/linux/cn_proc.h), decoded.
//!
//! A datagram holds one or more netlink messages, each `nlmsghdr`, `cn_msg`,
//! `proc_event`, all in the machine's byte order.

/// `struct nlmsghdr`, `struct cn_msg`, and the head of `struct proc_event`.
const NLMSG_HEADER: usize = 16;
const CN_MSG: usize = 20;
const EVENT_HEAD: usize = 16;
/// `CN_IDX_PROC` and `CN_VAL_PROC` (include/uapi/linux/connector.h).
const CN_PROC: u32 = 1;
/// `PROC_EVENT_EXEC`.
const EXEC: u32 = 2;

/// The processes that called exec, in the order in which they did: `pid` of
/// the whole process, as the reader's pid namespace numbers it. Anything else
/// in the datagram, and anything malformed, is passed over.
pub fn execs(datagram: &[u8]) -> impl Iterator<Item = i32> + '_ {
    Messages { rest: datagram }.filter_map(exec)
}

/// The netlink messages in a datagram.
struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Messages<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(word(self.rest, 0)?).ok()?;
        let message = self.rest.get(..length).filter(|_| length >= NLMSG_HEADER)?;
        // NLMSG_ALIGN: the next one starts at a multiple of four.
        self.rest = self
            .rest
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
        message.get(NLMSG_HEADER..)
    }
}

fn exec(message: &[u8]) -> Option<i32> {
    if (word(message, 0)?, word(message, 4)?) != (CN_PROC, CN_PROC) {
        return None;
    }
    let event = message.get(CN_MSG..)?;
    if word(event, 0)? != EXEC {
        return None;
    }
    // After the head: process_pid (the thread), process_tgid (the process).
    i32::try_from(word(event, EVENT_HEAD + 4)?)
        .ok()
        .filter(|pid| *pid > 0)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(what: u32, pid: u32, tgid: u32) -> Vec<u8> {
        let words = [
            76, 3, 0, 0, // nlmsghdr: length, type and flags, sequence, port
            1, 1, 9, 0, 40, // cn_msg: idx, val, seq, ack, length and flags
            what, 0, 1, 2, pid, tgid, 0, 0, 0, 0, // proc_event
        ];
        words
            .iter()
            .flat_map(|word| u32::to_ne_bytes(*word))
            .collect()
    }

    fn pids(datagram: &[u8]) -> Vec<i32> {
        execs(datagram).collect()
    }

    #[test]
    fn execs_are_told_by_process() {
        assert_eq!(pids(&message(EXEC, 4712, 4711)), [4711]);
        let two = [message(EXEC, 1, 1), message(1, 2, 2), message(EXEC, 3, 3)].concat();
        assert_eq!(pids(&two), [1, 3], "a fork is no exec");
        assert_eq!(
            pids(&message(0, 0, 0)),
            [0_i32; 0],
            "nor is the acknowledgement"
        );
    }

    #[test]
    fn no_bytes_do_harm() {
        let good = message(EXEC, 7, 7);
        for end in 0..good.len() - 16 {
            assert_eq!(pids(&good[..end]), [0_i32; 0], "cut at {end}");
        }
        for length in [0, 1, 15, 16, 20, 77, u32::MAX] {
            let mut bad = good.clone();
            bad[..4].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(pids(&bad), [0_i32; 0], "length {length}");
        }
        assert_eq!(pids(&message(EXEC, 7, u32::MAX)), [0_i32; 0]);
    }
}
