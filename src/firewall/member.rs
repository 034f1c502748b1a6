//! Whether the kernel's set of bans holds an address, as ipset(8) and nft(8) say.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use rblfilter_warden::policy::{NFT_NETWORKS, NFT_TABLE, is_narrow};

use super::{Error, is_dry, is_ipset, output, words};
use crate::config::Config;
use crate::control::shown;

/// Whether the set of `config` for `client`'s family holds it; `None` where nobody
/// is shut out (`dry-run`). A set that is not there holds nobody.
///
/// # Errors
/// Where it cannot be seen.
pub fn holds(config: &Config, client: IpAddr) -> Result<Option<bool>, Error> {
    if is_dry(config) {
        return Ok(None);
    }
    let set = match client {
        IpAddr::V4(_) => &config.ban.set4,
        IpAddr::V6(_) => &config.ban.set6,
    };
    let client = client.to_string();
    if is_ipset(config) {
        let command = words(&["ipset", "test", set, &client]);
        return look(&command, &["is NOT in set", "does not exist"]).map(Some);
    }
    // Addresses are in one set, networks in the other.
    for set in [set.clone(), format!("{set}-nets")] {
        let element = format!("{{ {client} }}");
        let command = words(&["nft", "get", "element", "inet", "rblfilter", &set, &element]);
        if look(&command, &["No such file or directory", "does not exist"])? {
            return Ok(Some(true));
        }
    }
    Ok(Some(false))
}

/// The command that takes `network`, which is banned, out of the set of `config` that
/// holds it, without the filter; `None` where nobody is shut out (`dry-run`).
#[must_use]
pub fn deletion(config: &Config, network: IpNetwork) -> Option<String> {
    if is_dry(config) {
        return None;
    }
    let set = match network {
        IpNetwork::V4(_) => &config.ban.set4,
        IpNetwork::V6(_) => &config.ban.set6,
    };
    let one = shown(network);
    Some(if is_ipset(config) {
        format!("ipset del {set} {one}")
    } else {
        let networks = if is_narrow(network, [32, 128]) {
            ""
        } else {
            NFT_NETWORKS
        };
        format!("nft delete element inet {NFT_TABLE} {set}{networks} '{{ {one} }}'")
    })
}

/// The commands that take all out of the sets of bans, without the filter; the rules
/// stay. None where nobody is shut out (`dry-run`).
#[must_use]
pub fn emptying(config: &Config) -> Vec<String> {
    if is_dry(config) {
        return Vec::new();
    }
    let sets = [&config.ban.set4, &config.ban.set6].into_iter();
    if is_ipset(config) {
        return sets.map(|set| format!("ipset flush {set}")).collect();
    }
    let flush = |set, networks| format!("nft flush set inet {NFT_TABLE} {set}{networks}");
    sets.flat_map(|set| ["", NFT_NETWORKS].map(|networks| flush(set, networks)))
        .collect()
}

/// Whether a command succeeds; `not` is in what it says where it is not in.
fn look(command: &[String], not: &[&str]) -> Result<bool, Error> {
    let output = output(command)?;
    if output.status.success() {
        return Ok(true);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if not.iter().any(|not| said.contains(not)) {
        return Ok(false);
    }
    Err(Error::Failed(
        command.join(" "),
        said.trim().replace('\n', "; "),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    #[test]
    fn the_command_names_the_set_that_holds_the_ban() {
        for (backend, network, expected) in [
            (
                "ipset",
                "203.0.113.9/32",
                Some("ipset del spammers 203.0.113.9"),
            ),
            (
                "ipset",
                "2001:db8:1:2::/64",
                Some("ipset del rblfilter6 2001:db8:1:2::/64"),
            ),
            (
                "nftables",
                "203.0.113.9/32",
                Some("nft delete element inet rblfilter spammers '{ 203.0.113.9 }'"),
            ),
            (
                "nftables",
                "2001:db8:1:2::/64",
                Some("nft delete element inet rblfilter rblfilter6-nets '{ 2001:db8:1:2::/64 }'"),
            ),
            ("dry-run", "203.0.113.9/32", None),
        ] {
            let text = format!("[ban]\nset4 = \"spammers\"\nbackend = {backend:?}");
            let command = deletion(&parse(&text).unwrap(), network.parse().unwrap());
            assert_eq!(command.as_deref(), expected);
        }
    }
}
