//! Whom the admin trusts: the text files that makesmtpaccess(8) makes
//! `smtpaccess.dat` of (couriertcpd(8), "ACCESS FILE").
//!
//! Read for the gate, which sees a client before couriertcpd does. Whatever is
//! not plain is taken for more trust, not for less: whom the gate lets in, the
//! watch sees.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use ipnetwork::IpNetwork;

/// More than any file of this kind; what is beyond is an error.
const MOST_BYTES: u64 = 16 << 20;
/// The most networks that are of use.
pub const MOST_NETWORKS: usize = 65_536;

/// Whom a line trusts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Network(IpNetwork),
    /// Everybody, or who it is cannot be told.
    Anybody,
}

/// Those that `smtpaccess` trusts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trusted {
    /// Networks, each once.
    pub networks: Vec<IpNetwork>,
    /// Whether it may be anybody.
    pub anybody: bool,
}

impl Trusted {
    /// Those of all files in `folder`: with `RELAYCLIENT`, or with one of
    /// `block_variables` emptied. A folder that is not there trusts nobody.
    ///
    /// # Errors
    /// Where something in it cannot be read.
    pub fn read(folder: &Path, block_variables: &[String]) -> io::Result<Self> {
        let mut all = Self::default();
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(all),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            let meta = fs::metadata(&path)?;
            if !meta.is_file() {
                continue;
            }
            if meta.len() > MOST_BYTES {
                return Err(io::Error::other(format!("{} is too large", path.display())));
            }
            let text = fs::read(&path)?;
            all.add(&String::from_utf8_lossy(&text), block_variables);
        }
        all.networks.sort_unstable();
        all.networks.dedup();
        if all.networks.len() > MOST_NETWORKS {
            return Err(io::Error::other("it names too many networks"));
        }
        Ok(all)
    }

    /// Takes in one file.
    fn add(&mut self, text: &str, block_variables: &[String]) {
        for line in text.lines() {
            match trusted(line, block_variables) {
                Some(Who::Network(network)) => self.networks.push(network),
                Some(Who::Anybody) => self.anybody = true,
                None => {}
            }
        }
    }
}

/// Whom a line trusts, where it does: `netblock<tab>allow,VARIABLE[=value],…`.
fn trusted(line: &str, block_variables: &[String]) -> Option<Who> {
    let line = line.trim();
    if line.starts_with('#') {
        return None;
    }
    let (netblock, action) = line.split_once(char::is_whitespace)?;
    let mut words = action.trim().split(',').map(str::trim);
    if words.next() != Some("allow") {
        return None;
    }
    let trusts = |word: &str| {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        name == "RELAYCLIENT"
            || (block_variables.iter().any(|variable| variable == name)
                && matches!(value, "" | "\"\"" | "''"))
    };
    words.any(trusts).then(|| who(netblock))
}

fn who(netblock: &str) -> Who {
    let network = match netblock.strip_prefix(':') {
        Some(words) => ipv6(words),
        None if netblock.contains('/') => netblock.parse().ok(),
        None => ipv4(netblock),
    };
    network.map_or(Who::Anybody, |network| {
        Who::Network(rblfilter_warden::protected::canonical(network))
    })
}

/// `192.168.0`: one to four numbers.
fn ipv4(netblock: &str) -> Option<IpNetwork> {
    let mut octets = [0; 4];
    let mut count = 0;
    for word in netblock.trim_end_matches('.').split('.') {
        *octets.get_mut(usize::from(count))? = word.parse().ok()?;
        count += 1;
    }
    IpNetwork::new(Ipv4Addr::from(octets).into(), count * 8).ok()
}

/// `2002:c0a8`: one to eight words of hexadecimal digits.
fn ipv6(words: &str) -> Option<IpNetwork> {
    let mut segments = [0; 8];
    let mut count = 0;
    for word in words.trim_end_matches(':').split(':') {
        *segments.get_mut(usize::from(count))? = u16::from_str_radix(word, 16).ok()?;
        count += 1;
    }
    IpNetwork::new(Ipv6Addr::from(segments).into(), count * 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(text: &str) -> Trusted {
        let mut all = Trusted::default();
        all.add(text, &["BLOCK".into()]);
        all
    }

    #[test]
    fn who_may_relay_is_trusted() {
        for (line, expected) in [
            ("127.0.0.1\tallow,RELAYCLIENT", Some("127.0.0.1/32")),
            ("10\tallow,RELAYCLIENT", Some("10.0.0.0/8")),
            ("192.168.\tallow,RELAYCLIENT=", Some("192.168.0.0/16")),
            (
                "192.68.0.10\tallow,SIZELIMIT=1000000,RELAYCLIENT=@x",
                Some("192.68.0.10/32"),
            ),
            (
                ":0000:0000:0000:0000:0000:0000:0000:0001\tallow,RELAYCLIENT",
                Some("::1/128"),
            ),
            (":2002:c0a8\tallow,RELAYCLIENT", Some("2002:c0a8::/32")),
            ("10.9.0.0/24  allow,RELAYCLIENT", Some("10.9.0.0/24")),
            // couriertcpd's verdict is emptied: the client is exempt.
            ("192.168.2.3\tallow,BLOCK", Some("192.168.2.3/32")),
            ("192.168.2.3\tallow,BLOCK=\"\"", Some("192.168.2.3/32")),
            ("192.168.5\tallow,BLOCK=\"550 Shoo! Go away!\"", None),
            ("192.168.5\tdeny", None),
            ("192.168.5\tallow,SIZELIMIT=1", None),
            ("#10\tallow,RELAYCLIENT", None),
            ("", None),
        ] {
            let networks: Vec<IpNetwork> = expected.iter().map(|n| n.parse().unwrap()).collect();
            let trusted = of(line);
            assert_eq!(trusted.networks, networks, "{line}");
            assert!(!trusted.anybody, "{line}");
        }
    }

    #[test]
    fn whom_we_cannot_tell_is_anybody() {
        for line in [
            "*\tallow,RELAYCLIENT",
            "*.25\tallow,RELAYCLIENT",
            "1.2.3.4.25\tallow,RELAYCLIENT",
            "1.2.300\tallow,RELAYCLIENT",
            ":xyz\tallow,RELAYCLIENT",
        ] {
            let trusted = of(line);
            assert!(trusted.anybody && trusted.networks.is_empty(), "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_line_is_read_or_not(line in "[0-9a-f:./*\t ,=A-Z]{0,40}(allow,RELAYCLIENT)?") {
            let _ = of(&line);
        }
    }

    #[test]
    fn too_many_networks_are_an_error() {
        let folder = std::env::temp_dir().join(format!("rblfilter-access-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let read = |networks: u32| {
            let lines = (0..networks).map(|number| {
                let address = Ipv4Addr::from(0x0a00_0000 + number);
                format!("{address}\tallow,RELAYCLIENT\n")
            });
            fs::write(folder.join("default"), lines.collect::<String>()).unwrap();
            Trusted::read(&folder, &[]).map(|trusted| trusted.networks.len())
        };
        assert_eq!(read(65_536).unwrap(), 65_536);
        let error = read(65_537).unwrap_err().to_string();
        assert!(error.contains("too many networks"), "{error}");
        fs::remove_dir_all(&folder).unwrap();
    }
}
