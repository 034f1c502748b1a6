//! What is kept of an address, deleted: in time by itself, and at once where the
//! admin asks for it.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ipnetwork::IpNetwork;

use super::Filter;
use super::hand::Told;
use super::lists::CACHE_FILE;
use crate::control::shown;
use crate::enforce::ban::around;
use crate::enforce::book::Why;
use crate::enforce::forget::Whom;
use crate::store::Forgotten;

/// How long the file may take to be written anew; one of a million bans takes
/// some seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was done about one network.
#[derive(Debug, Default)]
struct Done {
    /// What was kept: in memory, or in the file, which hold the same but where
    /// nobody is banned.
    kept: Forgotten,
    answers: usize,
    /// What the admin did to wider networks.
    stays: Vec<String>,
    failed: Vec<String>,
}

impl Filter {
    /// Deletes all that is kept of `networks`, and ends their bans. Who is connected
    /// at that moment, or comes again, is seen anew.
    pub(super) async fn forget(self: &Arc<Self>, networks: &[IpNetwork], user: &str) -> Told {
        let mut all = self.forget_in_memory(networks).await;
        let mut failed = Vec::new();
        match self.store.get() {
            Some(store) => match store.forget(networks, PATIENCE).await {
                Ok(of_file) => {
                    for (done, of_file) in all.iter_mut().zip(of_file) {
                        done.kept = most(done.kept, of_file);
                    }
                }
                Err(error) => failed.push(format!("the file of bans may still hold it: {error}")),
            },
            None => failed.push("there is no file of bans".into()),
        }
        failed.extend(self.rewrite_cache().await);
        let mut told: Vec<String> = networks
            .iter()
            .zip(&all)
            .map(|(network, done)| done.told(*network))
            .collect();
        failed.extend(all.into_iter().flat_map(|done| done.failed));
        // Without the address: it would stand in the log now.
        self.tell("forget", None, 0, user, "");
        told.push("The mail log is not rblfilter's, and names it until it is rotated away; so do backups.".into());
        let told = told.join("\n");
        if failed.is_empty() {
            Ok(told)
        } else {
            failed.push("say it again once that is mended".into());
            Err(format!("{}\n{told}", failed.join("; ")))
        }
    }

    /// What is kept of all of them is gone through once, as it may be much.
    async fn forget_in_memory(&self, networks: &[IpNetwork]) -> Vec<Done> {
        let whom = Whom::new(networks);
        let mut all: Vec<Done> = networks.iter().map(|_| Done::default()).collect();
        for network in networks {
            self.late().forget(*network);
        }
        // First, as the end of a ban takes it along; and after it, as one may have
        // ended by itself meanwhile.
        let past = self.book().forget_past(&whom);
        past.into_iter()
            .for_each(|place| all[place].kept.offences += 1);
        self.end_bans_of(networks, &whom, &mut all).await;
        let past = self.book().forget_past(&whom);
        past.into_iter()
            .for_each(|place| all[place].kept.offences += 1);
        let allows = self.allows().forget(&whom);
        allows
            .into_iter()
            .for_each(|place| all[place].kept.allows += 1);
        let senders = self.senders.forget(&whom);
        senders
            .into_iter()
            .for_each(|place| all[place].kept.senders += 1);
        let answers = self.lists.forget(networks);
        let now = self.now();
        for ((done, network), answers) in all.iter_mut().zip(networks).zip(answers) {
            done.answers = answers;
            for allowed in self.allows().touching(*network, now) {
                done.stays.push(format!(
                    "{} is let in by hand still: rblfilter allow {} --for 0s",
                    shown(allowed),
                    shown(allowed)
                ));
            }
            self.gate.forget(*network);
        }
        all
    }

    /// Whether the admin made this ban, in `observe` before it.
    fn is_by_hand(&self, banned: IpNetwork) -> bool {
        let ban = self.book().get(banned);
        let ban = ban.or_else(|| self.standing().get(&banned).cloned());
        ban.is_some_and(|ban| ban.hand.is_some())
    }

    /// The bans inside `networks`, and those that hold one of them, each with the
    /// place of that; in `observe` those from before it.
    fn bans_around(&self, networks: &[IpNetwork], whom: &Whom) -> Vec<(IpNetwork, usize)> {
        let mut touching = self.book().inside(whom);
        for (place, network) in networks.iter().enumerate() {
            let holding = self.book().holding(*network).into_iter();
            touching.extend(holding.map(|banned| (banned, place)));
        }
        let now = self.now();
        let standing = self.standing();
        let running = standing.values().filter(|ban| ban.until > now);
        let inside = running.filter_map(|ban| Some((ban.network, whom.holder(ban.network)?)));
        touching.extend(inside);
        for (place, network) in networks.iter().enumerate() {
            let wider = (0..=network.prefix()).map(|prefix| around(network.ip(), prefix));
            let holding = wider.filter(|banned| standing.contains_key(banned));
            touching.extend(holding.map(|banned| (banned, place)));
        }
        touching
    }

    /// Ends the bans that are of `networks`, in the kernel first.
    async fn end_bans_of(&self, networks: &[IpNetwork], whom: &Whom, all: &mut [Done]) {
        let touching = self.bans_around(networks, whom);
        // Each network itself, too: the kernel may have what the book has not.
        let named = networks.iter().copied().enumerate();
        let mut of_them: BTreeMap<IpNetwork, usize> =
            named.map(|(place, network)| (network, place)).collect();
        let mut counted = HashSet::new();
        for (banned, place) in touching {
            if whom.of(banned, self.is_by_hand(banned)).is_some() {
                all[place].kept.bans += usize::from(counted.insert(banned));
                of_them.entry(banned).or_insert(place);
            } else {
                all[place].stays.push(format!(
                    "{} is banned by hand still: rblfilter unban {}",
                    shown(banned),
                    shown(banned)
                ));
            }
        }
        for (banned, place) in of_them {
            if let Err(error) = self.try_end(banned, Why::Wrong).await {
                all[place].failed.push(format!(
                    "the warden did not free {}: {error}",
                    shown(banned)
                ));
            }
        }
    }

    /// The lists' answers, as they were when the filter started, lie in a file: it is
    /// written anew from what is kept now, or removed.
    async fn rewrite_cache(self: &Arc<Self>) -> Option<String> {
        let filter = Arc::clone(self);
        let rewritten = tokio::task::spawn_blocking(move || {
            let path = filter.paths.state().join(CACHE_FILE);
            if fs::symlink_metadata(&path).is_err() || filter.lists.write(&path).is_ok() {
                return None;
            }
            let error = fs::remove_file(&path).err()?;
            Some(format!("cannot remove {}: {error}", path.display()))
        });
        rewritten
            .await
            .unwrap_or_else(|error| Some(format!("cannot write the lists' answers: {error}")))
    }

    /// Deletes what is over at `now`: once an hour.
    pub(super) fn forget_over(&self, now: u32) {
        let retention = self.config.retention;
        if let Some(store) = self.store.get() {
            store.tidy(now.saturating_sub(retention));
        }
        let instant = Instant::now();
        self.senders.forget_over(instant);
        let lists = Arc::clone(&self.lists);
        let path = self.paths.state().join(CACHE_FILE);
        let of_use = self
            .config
            .cache
            .max_ttl
            .max(self.config.cache.max_negative_ttl)
            + self.config.cache.stale;
        // There may be a million, and the disk may be slow.
        tokio::task::spawn_blocking(move || {
            lists.forget_over(instant);
            remove_unchanged(&path, of_use);
        });
    }
}

/// Removes a file that was last written longer ago than this, so that nothing in it
/// is of use.
fn remove_unchanged(path: &Path, of_use: Duration) {
    let written = fs::metadata(path).and_then(|data| data.modified());
    let age = written.map(|written| SystemTime::now().duration_since(written));
    if let Ok(Ok(age)) = age
        && age > of_use
    {
        // It is tried again in an hour.
        let _ = fs::remove_file(path);
    }
}

/// The larger of each count: memory and file hold the same.
fn most(one: Forgotten, other: Forgotten) -> Forgotten {
    Forgotten {
        bans: one.bans.max(other.bans),
        offences: one.offences.max(other.offences),
        allows: one.allows.max(other.allows),
        senders: one.senders.max(other.senders),
        files: one.files.max(other.files),
    }
}

impl Done {
    /// What was deleted, in words.
    fn told(&self, network: IpNetwork) -> String {
        let Forgotten {
            bans,
            offences,
            allows,
            senders,
            files,
        } = self.kept;
        let counted = |count: usize, one: &str, more: &str| match count {
            0 => None,
            1 => Some(format!("1 {one}")),
            count => Some(format!("{count} {more}")),
        };
        let parts: Vec<String> = [
            counted(bans, "ban, which is ended", "bans, which are ended"),
            counted(offences, "count of earlier bans", "counts of earlier bans"),
            counted(allows, "leave to come in", "leaves to come in"),
            counted(
                senders,
                "client that delivered mail",
                "clients that delivered mail",
            ),
            counted(self.answers, "answer of a list", "answers of lists"),
            counted(
                files,
                "file of bans that was damaged and may have held it",
                "files of bans that were damaged and may have held it",
            ),
        ]
        .into_iter()
        .flatten()
        .collect();
        let mut lines = vec![if parts.is_empty() {
            format!("{}: nothing was kept of it", shown(network))
        } else {
            format!("{}: deleted: {}", shown(network), parts.join(", "))
        }];
        lines.extend(self.stays.iter().cloned());
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_deleted_is_told_in_words() {
        let network = "203.0.113.9".parse().unwrap();
        let mut done = Done::default();
        assert_eq!(done.told(network), "203.0.113.9: nothing was kept of it");
        done.kept.bans = 1;
        done.kept.senders = 3;
        done.answers = 2;
        done.stays
            .push("203.0.113.0/24 is banned by hand still".into());
        assert_eq!(
            done.told(network),
            "203.0.113.9: deleted: 1 ban, which is ended, 3 clients that delivered mail, 2 answers of lists\n\
             203.0.113.0/24 is banned by hand still"
        );
    }

    #[test]
    fn what_is_in_memory_and_in_the_file_counts_once() {
        let memory = Forgotten {
            bans: 1,
            senders: 2,
            ..Forgotten::default()
        };
        let file = Forgotten {
            bans: 1,
            offences: 1,
            ..Forgotten::default()
        };
        let both = most(memory, file);
        assert_eq!((both.bans, both.offences, both.senders), (1, 1, 2));
    }
}
