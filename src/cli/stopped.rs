//! How somebody gets out of the kernel's set while the filter is stopped.

use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use ipnetwork::IpNetwork;

use super::ask;
use crate::config::{self, Config};
use crate::control::shown;
use crate::courier::paths::Paths;
use crate::enforce::ban::around;
use crate::firewall;
use crate::report::now;
use crate::store::{self, FILE};

/// How long the file is waited for, which may be on a file system that hangs.
const TIME: Duration = Duration::from_secs(8);
/// For how long somebody is let in where nothing else is said.
pub const USUAL: &str = "24h";

/// What takes `networks` out of the kernel's sets, or all where there are none, and
/// what then remains to be done with `again` once the filter runs.
pub fn way_in(networks: &[IpNetwork], again: &str, path: &Path) -> String {
    // What the admin typed is told of without it, too.
    let config = config::read(path).ok();
    told(networks, again, config.as_ref(), bans_of)
}

/// What the admin is to type again: with `--for` where that is not the usual time.
pub fn again(command: &str, networks: &[IpNetwork], seconds: u32) -> String {
    let mut again = format!("rblfilter {command}");
    if networks.is_empty() {
        again.push_str(" --all");
    } else if ask::seconds(USUAL) != Ok(seconds) {
        again.push_str(&format!(" --for {seconds}s"));
    }
    for network in networks {
        again.push_str(&format!(" {}", shown(*network)));
    }
    again
}

/// `banned`: the bans that keep a client out, by the file; `None` where it does not
/// tell.
fn told(
    networks: &[IpNetwork],
    again: &str,
    config: Option<&Config>,
    banned: impl Fn(IpNetwork) -> Option<Vec<IpNetwork>>,
) -> String {
    let then = format!(
        "\nWhen it starts it puts the bans of its file back. So once it runs:\n    {again}\n"
    );
    let Some(config) = config else {
        return format!(
            "The bans go on in the kernel's sets while it is stopped, and in its file; the configuration cannot be read, which names the sets.{then}"
        );
    };
    let all = firewall::emptying(config);
    if all.is_empty() {
        return format!("Nobody is shut out with ban.backend = \"dry-run\".{then}");
    }
    let mut commands: Vec<String> = Vec::new();
    let mut wide = networks.is_empty();
    for network in networks {
        let one = if network.is_ipv4() {
            32
        } else {
            config.ban.prefix6
        };
        if network.prefix() < one {
            // Any may be banned that is within it.
            wide = true;
            continue;
        }
        let guess = || vec![as_banned(*network, config.ban.prefix6)];
        let held = banned(*network).unwrap_or_else(guess);
        let deletions = held
            .iter()
            .filter_map(|ban| firewall::deletion(config, *ban));
        commands.extend(deletions);
    }
    commands.dedup();
    if !wide && commands.is_empty() {
        return format!("By its file, nobody of them is banned.{then}");
    }
    let mut text =
        String::from("The bans go on in the kernel's sets while it is stopped, and in its file.");
    if !commands.is_empty() {
        text.push_str(" Out of the kernel's set, now:\n");
        text.extend(commands.iter().map(|command| format!("    {command}\n")));
    }
    if wide {
        text.push_str(" Out of the kernel's sets, all of them, now:\n");
        text.extend(all.iter().map(|command| format!("    {command}\n")));
    }
    format!("{}{then}", text.trim_end())
}

/// The network that is banned with a client: an IPv6 client's, by `ban.prefix6`.
fn as_banned(network: IpNetwork, prefix6: u8) -> IpNetwork {
    match network {
        IpNetwork::V6(v6) if v6.prefix() > prefix6 => around(v6.ip().into(), prefix6),
        network => network,
    }
}

/// The networks of the bans in the file that keep `network` out; `None` where there
/// is no file, or it cannot be read.
fn bans_of(network: IpNetwork) -> Option<Vec<IpNetwork>> {
    let (sender, read) = mpsc::channel();
    thread::spawn(move || {
        let path = Paths::from_env().real_state().join(FILE);
        let now = u32::try_from(now()).unwrap_or(u32::MAX);
        // Nobody waits for one that is late.
        let _ = sender.send(store::kept(&path, network.ip(), network, 0, now));
    });
    let held = read.recv_timeout(TIME).ok()?.ok()??;
    Some(held.bans.iter().map(|ban| ban.network).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    fn unban(networks: &[IpNetwork], banned: Option<Vec<IpNetwork>>) -> String {
        let config = config::parse("ban.backend = \"ipset\"").unwrap();
        let again = again("unban", networks, 86_400);
        told(networks, &again, Some(&config), |_| banned.clone())
    }

    #[test]
    fn it_names_the_set_of_that_address_and_the_next_step() {
        let text = unban(&[net("203.0.113.9/32"), net("2001:db8:1:2::9/128")], None);
        for line in [
            "    ipset del rblfilter4 203.0.113.9\n",
            "    ipset del rblfilter6 2001:db8:1:2::/64\n",
            "    rblfilter unban 203.0.113.9 2001:db8:1:2::9\n",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert!(!text.contains("flush"), "{text}");
        let text = unban(&[net("203.0.113.9/32")], Some(Vec::new()));
        assert!(!text.contains("ipset"), "nobody is banned: {text}");
    }

    #[test]
    fn of_all_and_of_a_wider_network_it_names_what_empties_the_sets_and_no_rule_goes() {
        for networks in [
            vec![],
            vec![net("203.0.113.0/24")],
            vec![net("2001:db8::/48")],
        ] {
            let text = unban(&networks, Some(Vec::new()));
            let flush = "    ipset flush rblfilter4\n    ipset flush rblfilter6\n";
            assert!(text.contains(flush), "{text}");
            assert!(
                !text.contains("ipset del") && !text.contains("firewall"),
                "{text}"
            );
        }
        assert!(unban(&[], None).ends_with("    rblfilter unban --all\n"));
        let config = config::parse("ban.backend = \"nftables\"").unwrap();
        let text = told(&[], "rblfilter unban --all", Some(&config), |_| None);
        for set in [
            "rblfilter4",
            "rblfilter4-nets",
            "rblfilter6",
            "rblfilter6-nets",
        ] {
            let line = format!("    nft flush set inet rblfilter {set}\n");
            assert!(text.contains(&line), "{line}: {text}");
        }
    }

    #[test]
    fn a_ban_of_a_wider_network_is_named_as_the_set_has_it() {
        let text = unban(&[net("203.0.113.9/32")], Some(vec![net("203.0.113.0/24")]));
        let line = "    ipset del rblfilter4 203.0.113.0/24\n";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn the_time_that_was_asked_for_is_asked_for_again() {
        let networks = [net("203.0.113.9/32")];
        for (seconds, line) in [
            (86_400, "rblfilter allow 203.0.113.9"),
            (0, "rblfilter allow --for 0s 203.0.113.9"),
            (604_800, "rblfilter allow --for 604800s 203.0.113.9"),
        ] {
            assert_eq!(again("allow", &networks, seconds), line);
        }
    }

    #[test]
    fn where_no_set_is_known_or_used_no_command_is_named_for_it() {
        let networks = [net("203.0.113.9/32")];
        let text = told(&networks, "rblfilter unban 203.0.113.9", None, |_| None);
        assert!(!text.contains("ipset") && text.ends_with("    rblfilter unban 203.0.113.9\n"));
        let config = config::parse("ban.backend = \"dry-run\"").unwrap();
        let text = told(&networks, "again", Some(&config), |_| None);
        assert!(text.starts_with("Nobody is shut out"), "{text}");
    }
}
