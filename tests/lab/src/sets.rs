//! The ipsets of the lab's network namespace.

/// A member of an ipset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetMember {
    /// An address or network, as ipset prints it: `127.66.1.2`, `fd00:66::/64`.
    pub net: String,
    /// The seconds it still stays, in a set with timeouts; 0 is for ever.
    pub timeout: Option<u32>,
}

/// The members in the output of `ipset list -output save NAME`.
pub(crate) fn members(saved: &str) -> Vec<SetMember> {
    let member = |line: &str| {
        let mut words = line.strip_prefix("add ")?.split_whitespace().skip(1);
        let net = words.next()?.to_owned();
        let timeout = words
            .skip_while(|word| *word != "timeout")
            .nth(1)
            .and_then(|seconds| seconds.parse().ok());
        Some(SetMember { net, timeout })
    };
    saved.lines().filter_map(member).collect()
}

#[cfg(test)]
mod tests {
    use super::{SetMember, members};

    #[test]
    fn members_and_their_timeouts_are_read() {
        let saved = "create s hash:net family inet hashsize 1024 maxelem 65536 timeout 600 counters\n\
                     add s 127.66.1.2 timeout 599 packets 0 bytes 0\nadd s 127.67.0.0/16\n";
        let member = |net: &str, timeout| SetMember {
            net: net.into(),
            timeout,
        };
        assert_eq!(
            members(saved),
            [
                member("127.66.1.2", Some(599)),
                member("127.67.0.0/16", None)
            ]
        );
    }
}
