//! The kernel's and systemd's texts, read: pure, as hostile as they may be.

use std::collections::HashMap;

/// `CAP_NET_ADMIN` (capabilities(7), linux/capability.h).
pub const NET_ADMIN: u32 = 12;

/// How much of /proc is hidden, and for whom it is not (proc(5), `hidepid=`,
/// `gid=`), in the text of a `mountinfo` file (proc_pid_mountinfo(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hidden {
    /// The group that sees everything.
    pub gid: u32,
}

/// Whether the last mount on /proc hides others' processes.
#[must_use]
pub fn hidden(mountinfo: &str) -> Option<Hidden> {
    let options = mountinfo
        .lines()
        .filter_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let place = before.split(' ').nth(4)?;
            let mut after = after.split(' ');
            let kind = after.next()?;
            (place == "/proc" && kind == "proc").then_some(after.nth(1)?)
        })
        .next_back()?;
    let value = |name: &str| {
        options
            .split(',')
            .filter_map(|option| option.strip_prefix(name)?.strip_prefix('='))
            .next_back()
    };
    let hides = value("hidepid").is_some_and(|how| !matches!(how, "0" | "off"));
    hides.then(|| Hidden {
        gid: value("gid").and_then(|gid| gid.parse().ok()).unwrap_or(0),
    })
}

/// The fields of a `status` file (proc_pid_status(5)).
#[must_use]
pub fn fields(status: &str) -> HashMap<&str, &str> {
    status
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name, value.trim()))
        .collect()
}

/// The hard limit of open files in a `limits` file; `None` where there is none.
#[must_use]
pub fn open_files(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// The path of a process's control group, in its `cgroup` file (cgroups(7), the
/// second version).
#[must_use]
pub fn control_group(cgroup: &str) -> Option<&str> {
    cgroup.lines().find_map(|line| line.strip_prefix("0::"))
}

/// Whether the value of a file's attribute `security.capability` gives it
/// `capability` (linux/capability.h, `struct vfs_cap_data`): in the low byte of
/// the first word flags, then pairs of permitted and inheritable.
#[must_use]
pub fn permits(attribute: &[u8], capability: u32) -> bool {
    let word = |index: usize| {
        let bytes = attribute.get(index * 4..index * 4 + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let revision = word(0).map(|magic| magic >> 24);
    if !matches!(revision, Some(1..=3)) {
        return false;
    }
    let index = 1 + 2 * (capability / 32) as usize;
    word(index).is_some_and(|permitted| permitted & (1 << (capability % 32)) != 0)
}

/// The release of a kernel as two numbers.
#[must_use]
pub fn release(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The addresses of nameservers in a resolv.conf(5).
#[must_use]
pub fn nameservers(text: &str) -> Vec<std::net::IpAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next()? == "nameserver").then_some(words.next()?)
        })
        .filter_map(|word| word.split('%').next()?.parse().ok())
        .take(8)
        .collect()
}

/// Whether `if_inet6` (proc(5)) has an address of global scope.
#[must_use]
pub fn has_global_ipv6(text: &str) -> bool {
    text.lines()
        .any(|line| line.split_whitespace().nth(3) == Some("00"))
}

/// The properties that `systemctl show` prints.
#[must_use]
pub fn properties(text: &str) -> Vec<(String, String)> {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn proc_is_hidden_by_its_last_mount() {
        let mount = |options: &str| {
            format!(
                "22 27 0:21 / /proc rw,nosuid shared:13 - proc proc {options}\n23 22 0:9 / /proc/x rw - tmpfs t rw,hidepid=2\n"
            )
        };
        for (options, expected) in [
            ("rw", None),
            ("rw,hidepid=0", None),
            ("rw,hidepid=off", None),
            ("rw,hidepid=2", Some(Hidden { gid: 0 })),
            ("rw,gid=110,hidepid=invisible", Some(Hidden { gid: 110 })),
            ("rw,hidepid=ptraceable,gid=x", Some(Hidden { gid: 0 })),
        ] {
            assert_eq!(hidden(&mount(options)), expected, "{options}");
        }
        let both = mount("rw,hidepid=2") + &mount("rw");
        assert_eq!(hidden(&both), None);
        assert_eq!(hidden(""), None);
    }

    #[test]
    fn a_file_capability_is_known_by_its_bit() {
        // What setcap(8) writes for cap_net_admin=p and for cap_net_raw=ep.
        let attribute = |magic: u32, permitted: u32| {
            let mut bytes = Vec::new();
            for word in [magic, permitted, 0, 0, 0] {
                bytes.extend(word.to_le_bytes());
            }
            bytes
        };
        assert!(permits(&attribute(0x0200_0000, 1 << 12), NET_ADMIN));
        assert!(!permits(&attribute(0x0200_0001, 1 << 13), NET_ADMIN));
        assert!(!permits(&attribute(0x0900_0000, 1 << 12), NET_ADMIN));
        assert!(!permits(&[], NET_ADMIN));
    }

    #[test]
    fn the_kernels_texts_are_read() {
        let status = fields("Name:\tcourierfilter\nNoNewPrivs:\t1\nCapBnd:\t000001ffffffffff\n");
        assert_eq!(status["NoNewPrivs"], "1");
        assert_eq!(status["CapBnd"], "000001ffffffffff");
        let limits = |hard: &str| {
            format!(
                "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 {hard}               files\n"
            )
        };
        assert_eq!(open_files(&limits("524288")), Some(524_288));
        assert_eq!(open_files(&limits("unlimited")), None);
        assert_eq!(
            control_group("1:cpu:/x\n0::/a.slice/b\n"),
            Some("/a.slice/b")
        );
        assert_eq!(release("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(release("5.10"), Some((5, 10)));
        assert_eq!(release("x"), None);
        let servers = nameservers(
            "# x\nnameserver 127.0.0.1\nnameserver fe80::1%eth0\nsearch 1.1.1.1\nnameserver x\n",
        );
        assert_eq!(servers.len(), 2, "{servers:?}");
        let address =
            |scope: &str| format!("20010db8000000000000000000000001 02 40 {scope} 80 eth0\n");
        assert!(has_global_ipv6(&address("00")));
        assert!(!has_global_ipv6(&address("20")));
        assert_eq!(
            properties("NoNewPrivileges=yes\nx\nA=b=c\n"),
            [
                ("NoNewPrivileges".into(), "yes".into()),
                ("A".into(), "b=c".into())
            ]
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "([0-9a-z:/ .,=\\-\n\t]|hidepid=|/proc| - |nameserver ){0,60}", bytes: Vec<u8>) {
            let _ = (hidden(&text), fields(&text), open_files(&text), control_group(&text));
            let _ = (release(&text), has_global_ipv6(&text), properties(&text));
            prop_assert!(nameservers(&text).len() <= 8);
            let _ = permits(&bytes, NET_ADMIN);
        }
    }
}
