//! How somebody gets out of the kernel's set while the filter is stopped.

use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use ipnetwork::IpNetwork;

use crate::config::{self, Config};
use crate::control::shown;
use crate::courier::paths::Paths;
use crate::enforce::ban::around;
use crate::firewall;
use crate::report::now;
use crate::store::{self, FILE};

/// How long the file is waited for, which may be on a file system that hangs.
const TIME: Duration = Duration::from_secs(8);

/// What takes `networks` out of the kernel's sets, or all where there are none, and
/// what then remains to be done with `command` once the filter runs.
pub fn way_in(networks: &[IpNetwork], command: &str, path: &Path) -> String {
    // What the admin typed is told of without it, too.
    let config = config::read(path).ok();
    let banned = |network: IpNetwork| bans_of(network).unwrap_or_default();
    told(networks, command, config.as_ref(), banned)
}

fn told(
    networks: &[IpNetwork],
    command: &str,
    config: Option<&Config>,
    banned: impl Fn(IpNetwork) -> Vec<IpNetwork>,
) -> String {
    let names: Vec<String> = networks.iter().map(|network| shown(*network)).collect();
    let mut commands: Vec<String> = Vec::new();
    if let Some(config) = config {
        for network in networks {
            let mut held = banned(*network);
            if held.is_empty() {
                held.push(as_banned(*network, config.ban.prefix6));
            }
            commands.extend(
                held.iter()
                    .filter_map(|ban| firewall::deletion(config, *ban)),
            );
        }
        commands.dedup();
    }
    let again = if networks.is_empty() {
        format!("rblfilter {command} --all")
    } else {
        format!("rblfilter {command} {}", names.join(" "))
    };
    let mut text =
        String::from("The bans go on in the kernel's sets while it is stopped, and in its file.");
    if commands.is_empty() {
        text.push_str(" Out of the kernel, now:\n    rblfilter firewall remove\n    rblfilter firewall apply\n(that ends all bans in the kernel, and makes empty sets.)");
    } else {
        text.push_str(" Out of the kernel's set, now:\n");
        for command in &commands {
            text.push_str(&format!("    {command}\n"));
        }
        text.push_str(
            "(All bans: rblfilter firewall remove, then rblfilter firewall apply for empty sets.)",
        );
    }
    text.push_str(&format!(
        "\nWhen it starts it puts the bans of its file back. So once it runs:\n    {again}\n"
    ));
    text
}

/// The network that is banned with a client: an IPv6 client's, by `ban.prefix6`.
fn as_banned(network: IpNetwork, prefix6: u8) -> IpNetwork {
    match network {
        IpNetwork::V6(v6) if v6.prefix() > prefix6 => around(v6.ip().into(), prefix6),
        network => network,
    }
}

/// The networks of the bans in the file that keep `network` out.
///
/// # Errors
/// Where that cannot be read.
fn bans_of(network: IpNetwork) -> Result<Vec<IpNetwork>, String> {
    let (sender, read) = mpsc::channel();
    thread::spawn(move || {
        let path = Paths::from_env().real_state().join(FILE);
        let now = u32::try_from(now()).unwrap_or(u32::MAX);
        // Nobody waits for one that is late.
        let _ = sender.send(store::kept(&path, network.ip(), network, 0, now));
    });
    let held = read.recv_timeout(TIME).map_err(|error| error.to_string())?;
    let held = held.map_err(|error| error.to_string())?.unwrap_or_default();
    Ok(held.bans.iter().map(|ban| ban.network).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    #[test]
    fn it_names_the_set_of_that_address_and_the_next_step() {
        let config = config::parse("ban.backend = \"ipset\"").unwrap();
        let of = |networks: &[IpNetwork]| told(networks, "unban", Some(&config), |_| Vec::new());
        let text = of(&[net("203.0.113.9/32"), net("2001:db8:1:2::9/128")]);
        for line in [
            "    ipset del rblfilter4 203.0.113.9\n",
            "    ipset del rblfilter6 2001:db8:1:2::/64\n",
            "rblfilter firewall remove",
            "    rblfilter unban 203.0.113.9 2001:db8:1:2::9\n",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        let text = of(&[]);
        assert!(!text.contains("ipset del"), "{text}");
        assert!(text.contains("    rblfilter firewall remove\n    rblfilter firewall apply\n"));
        assert!(text.ends_with("    rblfilter unban --all\n"), "{text}");
    }

    #[test]
    fn a_ban_of_a_wider_network_is_named_as_the_set_has_it() {
        let config = config::parse("ban.backend = \"ipset\"").unwrap();
        let wider = |_| vec![net("203.0.113.0/24")];
        let text = told(&[net("203.0.113.9/32")], "allow", Some(&config), wider);
        assert!(
            text.contains("    ipset del rblfilter4 203.0.113.0/24\n"),
            "{text}"
        );
        assert!(
            text.ends_with("    rblfilter allow 203.0.113.9\n"),
            "{text}"
        );
    }

    #[test]
    fn without_a_configuration_all_that_is_ours_can_go() {
        let text = told(&[net("203.0.113.9/32")], "unban", None, |_| Vec::new());
        assert!(text.contains("    rblfilter firewall remove\n"), "{text}");
    }
}
