//! Whether the kernel's set of bans holds an address, as ipset(8) and nft(8) say.

use std::net::IpAddr;

use super::{Error, is_dry, is_ipset, output, words};
use crate::config::Config;

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
