//! What the file of bans holds of one client, for `rblfilter why` where the filter
//! does not run. It is read, and nothing in it changed.

use std::net::IpAddr;
use std::path::Path;

use ipnetwork::IpNetwork;
use rusqlite::{Connection, OptionalExtension, params_from_iter};

use super::database::{Error, ban, moved, stamp};
use super::reading::{Journal, open};
use super::times::{Stamp, carried};
use crate::control::{Entry, What};
use crate::enforce::ban::around;
use crate::senders::LATELY;
use crate::why::{Former, Held};

/// What the file at `path` holds of `client`, `now` in seconds since 1970, and
/// what counts of the bans of `network` that ended within `window` seconds.
///
/// `None` where there is no file.
///
/// # Errors
/// Where it cannot be read.
pub fn kept(
    path: &Path,
    client: IpAddr,
    network: IpNetwork,
    window: u32,
    now: u32,
) -> Result<Option<Held>, Error> {
    let Some(connection) = open(path, Journal::Read)? else {
        return Ok(None);
    };
    let present = Stamp::now(now);
    let then = stamp(&connection)?.map_or(now, |stamp| stamp.is_now(&present));
    // Every network that holds it, by its name: a million bans are not read.
    let full = if client.is_ipv4() { 32 } else { 128 };
    let networks: Vec<String> = (0..=full)
        .map(|prefix| around(client, prefix).to_string())
        .collect();
    let places = vec!["?"; networks.len()].join(", ");
    let mut held = Held::default();
    let query = format!(
        "SELECT network, client, since, until, count, zones, rests_on, own, user, reason, forced FROM bans WHERE network IN ({places})"
    );
    let mut past = None;
    let mut statement = connection.prepare(&query)?;
    let mut rows = statement.query(params_from_iter(&networks))?;
    while let Some(row) = rows.next()? {
        let Some(ban) = ban(row)? else { continue };
        let Some((since, until)) = carried(ban.since, ban.until, then, now) else {
            past = (ban.network == network && ban.count > 0).then(|| Former {
                count: ban.count,
                ended: moved(ban.until, then, now),
            });
            continue;
        };
        let hand = ban.hand.as_deref();
        held.bans.push(Entry {
            what: What::Ban,
            network: ban.network,
            since: Some(since),
            left: until.saturating_sub(now),
            offence: Some(ban.count).filter(|_| hand.is_none()),
            zones: ban.zones,
            reason: hand.map_or_else(String::new, |hand| hand.reason.clone()),
            by: hand.map_or_else(|| "lists".into(), |hand| hand.user.clone()),
        });
    }
    held.allowed = running(&connection, then, now)?;
    held.allowed.retain(|allow| allow.network.contains(client));
    let former = connection
        .query_row(
            "SELECT count, ended FROM offences WHERE network = ?1",
            [network.to_string()],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?
        .map(|(count, ended)| Former {
            count,
            ended: moved(ended, then, now),
        });
    held.former = former
        .or(past)
        .filter(|former| now.saturating_sub(former.ended) < window);
    let at: Option<u32> = connection
        .query_row(
            "SELECT at FROM senders WHERE client = ?1",
            [client.to_string()],
            |row| row.get(0),
        )
        .optional()?;
    held.delivered = at
        .map(|at| now.saturating_sub(moved(at, then, now)))
        .filter(|ago| u64::from(*ago) < LATELY.as_secs());
    Ok(Some(held))
}

/// Whom the file at `path` lets in by hand, `now` in seconds since 1970; nobody
/// where there is no file.
///
/// # Errors
/// Where it cannot be read.
pub fn allowed(path: &Path, now: u32) -> Result<Vec<Entry>, Error> {
    let Some(connection) = open(path, Journal::Read)? else {
        return Ok(Vec::new());
    };
    let present = Stamp::now(now);
    let then = stamp(&connection)?.map_or(now, |stamp| stamp.is_now(&present));
    Ok(running(&connection, then, now)?)
}

/// Those that run; they are bounded (`enforce/allows.rs`).
fn running(connection: &Connection, then: u32, now: u32) -> Result<Vec<Entry>, rusqlite::Error> {
    let mut all = Vec::new();
    let mut statement = connection.prepare("SELECT network, until FROM allows")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (network, until): (String, u32) = (row.get(0)?, row.get(1)?);
        let until = moved(until, then, now);
        if let (Ok(network), true) = (network.parse(), until > now) {
            all.push(Entry::allowed(network, until - now));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enforce::durations::Past;
    use crate::store::database::Database;
    use crate::store::{Ban, Write};

    #[test]
    fn a_client_is_found_by_every_network_that_holds_it() {
        let folder = std::env::temp_dir().join(format!("rblfilter-kept-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("state.db");
        let now = 1_800_000_000;
        let ban = |network: &str, until| {
            Write::Ban(Box::new(Ban {
                network: network.parse().unwrap(),
                client: "fd00::5".parse().unwrap(),
                since: now - 100,
                until,
                count: 2,
                zones: vec!["bl.test".into()],
                rests_on: Vec::new(),
                own: true,
                hand: None,
            }))
        };
        let net = |text: &str| text.parse::<IpNetwork>().unwrap();
        let past = Past {
            count: 3,
            ended: now - 50,
        };
        let mut database = Database::open(&path).unwrap();
        database
            .write(
                &[
                    ban("fd00::/64", now + 1000),
                    ban("fd01::/64", now + 1000),
                    ban("127.0.0.9/32", now - 5),
                    Write::Allow(net("127.0.0.0/8"), now + 1000),
                    Write::End(net("127.0.0.7/32"), Some(past)),
                    Write::Sender("127.0.0.7".parse().unwrap(), now - 60),
                ],
                now,
            )
            .unwrap();
        drop(database);
        let of = |client: &str, network: &str| {
            kept(&path, client.parse().unwrap(), net(network), 3600, now)
                .unwrap()
                .unwrap()
        };
        let banned = of("fd00::99", "fd00::/64");
        assert_eq!(banned.bans.len(), 1);
        assert!((990..=1000).contains(&banned.bans[0].left), "{banned:?}");
        assert_eq!(banned.bans[0].zones, ["bl.test"]);
        let known = of("127.0.0.7", "127.0.0.7/32");
        assert_eq!((known.bans.len(), known.allowed.len()), (0, 1));
        assert_eq!(known.former.unwrap().count, 3);
        assert!((59..=70).contains(&known.delivered.unwrap()), "{known:?}");
        let all = allowed(&path, now).unwrap();
        assert_eq!(all[0].network, net("127.0.0.0/8"));
        assert_eq!(allowed(&folder.join("none"), now).unwrap(), []);
        let over = of("127.0.0.9", "127.0.0.9/32");
        assert_eq!((over.bans.len(), over.former.unwrap().count), (0, 2));
        assert_eq!(of("fd09::1", "fd09::/64"), Held::default());
        assert!(
            kept(
                &folder.join("none"),
                "127.0.0.7".parse().unwrap(),
                net("127.0.0.7/32"),
                1,
                now
            )
            .unwrap()
            .is_none()
        );
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
