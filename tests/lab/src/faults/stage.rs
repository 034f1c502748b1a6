//! Where a fault happens: a lab with rblfilter, a wave, bystanders and legitimate mail.

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{io, thread};

use tokio::sync::watch;

use super::mail::{Post, Senders};
use super::memory::MemoryGroup;
use super::normal::{Looks, TOLD_AFTER};
use super::visits::{End, Visitors, Visits};
use crate::{Config, Error, Lab, ProcessInfo, Product, wait_for};

/// Between two looks at the set and at what the clients saw.
const LOOK: Duration = Duration::from_millis(250);
/// For the mail that was accepted to arrive.
const DELIVERY: Duration = Duration::from_secs(60);

/// How much is sent, and by whom what is guarded.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Listed clients each second.
    pub rate: u32,
    /// Bystanders each second.
    pub bystanders: u32,
    /// Messages each second.
    pub mail: u32,
    /// How long a client holds its slot where it is let.
    pub hold: Duration,
    /// How long all must be normal to be called so.
    pub normal: Duration,
    /// What is at once.
    pub at_once: Duration,
    /// rblfilter.
    pub product: Product,
}

/// A running one.
pub struct Stage {
    /// The lab.
    pub lab: Lab,
    /// rblfilter, where there is one.
    pub product: Option<Product>,
    /// Its configuration.
    pub toml: String,
    /// The group that bounds the filter's memory, where the fault wants one.
    pub memory: Option<MemoryGroup>,
    plan: Plan,
    visits: Arc<Visits>,
    post: Arc<Post>,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<io::Result<()>>>,
    nftables: bool,
}

impl Stage {
    /// Starts everything. `prepare` is done before rblfilter is.
    ///
    /// # Errors
    /// Whatever does not start.
    pub fn start(
        plan: &Plan,
        config: Config,
        toml: String,
        filter: bool,
        memory: Option<MemoryGroup>,
        prepare: impl FnOnce(&Lab) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let lab = Lab::start(config)?;
        prepare(&lab)?;
        if let Some(group) = &memory {
            super::process::bound_memory(&lab, group)?;
        }
        if filter {
            plan.product.start(&lab, &toml)?;
        }
        let failed = |error: io::Error| Error::Load(error.to_string());
        let (visits, post) = (Arc::<Visits>::default(), Arc::<Post>::default());
        let (stop, stopped) = watch::channel(false);
        let server = lab.server_for(Ipv4Addr::LOCALHOST);
        let visitors = Visitors {
            listed: plan.rate,
            bystanders: plan.bystanders,
            hold: plan.hold,
            server,
        };
        let senders = Senders {
            rate: plan.mail,
            // Few, so that each has been seen before the fault.
            addresses: 12,
            server,
        };
        let coming = Arc::clone(&visits).come(visitors, stopped.clone());
        let sending = Arc::clone(&post).send(senders, stopped);
        let threads = vec![
            crate::wave::thread("visitors", coming).map_err(failed)?,
            crate::wave::thread("senders", sending).map_err(failed)?,
        ];
        Ok(Self {
            nftables: toml.contains("nftables"),
            product: filter.then(|| plan.product.clone()),
            lab,
            toml,
            memory,
            plan: plan.clone(),
            visits,
            post,
            stop,
            threads,
        })
    }

    /// rblfilter, for faults that are done to it.
    ///
    /// # Errors
    /// Where there is none.
    pub fn product(&self) -> Result<&Product, Error> {
        let none = || Error::Load("this fault needs rblfilter".into());
        self.product.as_ref().ok_or_else(none)
    }

    /// The living processes of rblfilter.
    #[must_use]
    pub fn filter_processes(&self) -> Vec<ProcessInfo> {
        let mut all = self.lab.processes();
        all.retain(|process| process.comm.starts_with("rblfilter") && process.state != 'Z');
        all
    }

    /// The pid of one of rblfilter's processes.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn pid(&self, role: Role) -> Result<i32, Error> {
        let of = |process: &ProcessInfo| match role {
            // The kernel shows 15 bytes of the name.
            Role::Warden => process.comm == "rblfilter-warde",
            Role::Worker => self.is_worker(process.pid),
            Role::Supervisor => process.comm == "rblfilter" && !self.is_worker(process.pid),
        };
        let found = || {
            let all = self.filter_processes();
            all.iter().find(|process| of(process)).map(|one| one.pid)
        };
        wait_for(Duration::from_secs(10), found)
            .ok_or_else(|| Error::Load(format!("there is no {role:?}")))
    }

    fn is_worker(&self, pid: i32) -> bool {
        let arguments = self.lab.arguments(pid);
        arguments.get(1).is_some_and(|word| word.contains("worker"))
    }

    /// The addresses that the kernel keeps out.
    #[must_use]
    pub fn banned(&self) -> HashSet<IpAddr> {
        let mut all = HashSet::new();
        if self.nftables {
            // A line of words: an element is an address, and what else is said of it.
            let sets = ["rblfilter4", "rblfilter6"];
            for set in sets {
                let words = ["nft", "list", "set", "inet", "rblfilter", set];
                let text = self.lab.run_ok(&words).unwrap_or_default();
                all.extend(addresses(&text));
            }
            return all;
        }
        for set in ["rblfilter4", "rblfilter6"] {
            let members = self.lab.set_members(set).unwrap_or_default();
            let address = |net: &str| net.split('/').next()?.parse::<IpAddr>().ok();
            all.extend(members.iter().filter_map(|member| address(&member.net)));
        }
        all
    }

    /// Lets time go by, looking at the set.
    pub fn watch(&self, time: Duration) {
        let end = Instant::now() + time;
        loop {
            self.look();
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::sleep(left.min(LOOK));
        }
    }

    fn look(&self) {
        if self.product.is_some() {
            let banned = self.banned();
            self.visits
                .seen_banned(|source| banned.contains(&source.into()));
        }
    }

    /// Waits until all has been normal for a while since `from`; when that began, or `None` after `limit`.
    #[must_use]
    pub fn until_normal(&self, from: Instant, limit: Duration) -> Option<Instant> {
        let end = Instant::now() + limit;
        let mut start = from;
        loop {
            self.look();
            let now = Instant::now();
            let window = self.plan.normal;
            while start + window + self.plan.at_once + TOLD_AFTER <= now {
                if self.is_normal(start, start + window) {
                    return Some(start);
                }
                start += LOOK;
            }
            if now >= end {
                return None;
            }
            thread::sleep(LOOK);
        }
    }

    fn is_normal(&self, from: Instant, to: Instant) -> bool {
        let (visits, letters) = (self.visits.all(), self.post.all());
        if self.product.is_some() {
            return self.looks(&visits, &letters).is_normal(from, to);
        }
        // Without rblfilter nobody ends a session: the mail alone is looked at.
        let mut within = letters
            .iter()
            .filter(|letter| letter.begun >= from && letter.begun < to)
            .peekable();
        within.peek().is_some() && within.all(|letter| letter.went_well(self.plan.at_once))
    }

    fn looks<'a>(
        &self,
        visits: &'a [super::visits::Visit],
        letters: &'a [super::mail::Letter],
    ) -> Looks<'a> {
        Looks {
            visits: if self.product.is_some() { visits } else { &[] },
            letters,
            bans: true,
            at_once: self.plan.at_once,
        }
    }

    /// How long after `from` the trouble before `to` was over.
    #[must_use]
    pub fn trouble(&self, from: Instant, to: Instant) -> Duration {
        let (visits, letters) = (self.visits.all(), self.post.all());
        self.looks(&visits, &letters).trouble(from, to)
    }

    /// Whether a client that was banned gets no answer any more; `None` where nobody is.
    #[must_use]
    pub fn keeps_out(&self) -> Option<bool> {
        let banned = self.banned();
        let client = banned.into_iter().find(IpAddr::is_ipv4)?;
        let server = self.lab.server_for(client);
        let patience = Duration::from_secs(1);
        let connected = self.lab.block_on(crate::smtp::Client::connect_within(
            client, server, patience,
        ));
        Some(connected.is_err())
    }

    /// Ends the load and waits for what was accepted to arrive; what became of all.
    ///
    /// # Errors
    /// If the load could not be made.
    pub fn finish(&mut self) -> Result<Outcome, Error> {
        let _ = self.stop.send(true);
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            let ended = ended.map_err(|_| Error::Load("the load generator panicked".into()))?;
            ended.map_err(|error| Error::Load(error.to_string()))?;
        }
        let letters = self.post.all();
        let end = Instant::now() + DELIVERY;
        let arrived = loop {
            let arrived = Post::arrived(&self.lab.mailbox());
            let missing = (0..letters.len())
                .any(|number| letters[number].accepted.is_some() && !arrived.contains_key(&number));
            // What is still on its way may be a second one.
            let settled = !missing && self.lab.queue_files().is_empty();
            if settled || Instant::now() >= end {
                break arrived;
            }
            thread::sleep(LOOK);
        };
        let lost = (0..letters.len()).filter(|number| !arrived.contains_key(number));
        let visits = self.visits.all();
        let [unaware, punished] = self.punished();
        let cut: BTreeSet<IpAddr> = visits
            .iter()
            .filter(|visit| !visit.listed && matches!(visit.end, Some((End::Cut, _))))
            .map(|visit| visit.source)
            .chain(
                letters
                    .iter()
                    .filter(|letter| letter.cut > 0)
                    .map(|letter| letter.source),
            )
            .map(IpAddr::V4)
            .collect();
        Ok(Outcome {
            offered: letters.len(),
            delivered: arrived.len(),
            tempfailed: letters.iter().map(|letter| letter.tempfailed).sum(),
            unconnected: letters.iter().map(|letter| letter.unconnected).sum(),
            refused: letters
                .iter()
                .filter_map(|letter| letter.refused.clone())
                .collect(),
            lost: lost.collect(),
            duplicated: arrived
                .iter()
                .filter(|(_, times)| **times > 1)
                .map(|(number, _)| *number)
                .collect(),
            unaware,
            punished,
            cut,
            listed: visits.iter().filter(|visit| visit.listed).count(),
            ended: visits
                .iter()
                .filter(|visit| visit.listed && visit.was_ended(Duration::MAX))
                .count(),
            bystanders: visits.iter().filter(|visit| !visit.listed).count(),
        })
    }

    /// The unlisted clients of whom the log says that rblfilter ended, refused or banned them, before it knew that a
    /// list does not work, and after.
    fn punished(&self) -> [BTreeSet<IpAddr>; 2] {
        let lines = self.lab.log_matching("rblfilter[");
        let known = lines
            .iter()
            .position(|line| line.contains("degraded,what=dnsbl"))
            .unwrap_or(0);
        let (before, after) = lines.split_at(known);
        [before, after].map(|lines| {
            let named = lines.iter().filter_map(|line| punished(line));
            named.filter(|address| !is_listed(*address)).collect()
        })
    }

    /// What the log says of rblfilter's own state, each thing once, in order.
    #[must_use]
    pub fn said(&self) -> Vec<String> {
        let mut said = Vec::new();
        for line in self.lab.log_matching("rblfilter[") {
            if let Some(event) = state_event(&line)
                && !said.contains(&event)
            {
                said.push(event);
            }
        }
        said
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // No thread may be in the lab when it ends. Without a stop of their own they would go on for ever.
        let _ = self.stop.send(true);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// One of rblfilter's processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The one that courierfilter knows.
    Supervisor,
    /// The one that judges.
    Worker,
    /// The one that bans.
    Warden,
}

/// What became of all who came.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Messages that were begun.
    pub offered: usize,
    /// Those that are in the mailbox.
    pub delivered: usize,
    /// Replies of 4xx, each of which a later try followed.
    pub tempfailed: u32,
    /// Tries that reached nobody.
    pub unconnected: u32,
    /// Replies of 5xx.
    pub refused: Vec<String>,
    /// The numbers of those that never arrived.
    pub lost: Vec<usize>,
    /// The numbers of those that arrived twice.
    pub duplicated: Vec<usize>,
    /// Unlisted clients that the log names as ended, refused or banned before it says that a list does not work.
    pub unaware: BTreeSet<IpAddr>,
    /// Those that it names after that, or where it never says so.
    pub punished: BTreeSet<IpAddr>,
    /// Unlisted clients whose connection was closed without a reply.
    pub cut: BTreeSet<IpAddr>,
    /// Listed clients.
    pub listed: usize,
    /// Those whose session the server ended.
    pub ended: usize,
    /// Clients that no list names, beside the mail's.
    pub bystanders: usize,
}

fn is_listed(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(four) => four.octets()[1] == 66,
        IpAddr::V6(six) => six.segments()[1] == 0x66,
    }
}

/// The client of a line that says that its session was ended, or it was refused or banned (docs/logging.md).
fn punished(line: &str) -> Option<IpAddr> {
    let done = line.contains("listed,ip=") && !line.contains(",action=none")
        || line.contains(": ended,ip=")
        || line.contains(": shed,ip=");
    let address = line.split("ip=[").nth(1)?.split(']').next()?;
    let address: Ipv6Addr = address.parse().ok()?;
    done.then(|| {
        address
            .to_ipv4_mapped()
            .map_or(IpAddr::V6(address), IpAddr::V4)
    })
}

/// `degraded,what=store`, `worker`, …: what a line says of rblfilter's state, without the rest.
fn state_event(line: &str) -> Option<String> {
    let text = line.split_once("]: ")?.1;
    let event = text.split([',', ':']).next()?;
    match event {
        "degraded" | "recovered" => {
            let end = text.find([':', ' ']).unwrap_or(text.len());
            let head = &text[..end];
            let what = head.split(',').find(|part| part.starts_with("what="))?;
            Some(format!("{event} {}", what.trim_start_matches("what=")))
        }
        "worker" | "warden" | "disabled" | "emptied" | "restored" | "lifted" | "late" | "bug"
        | "failed" | "reloaded" | "unchanged" => Some(event.to_owned()),
        _ => None,
    }
}

/// The addresses among the words of what nft(8) lists.
fn addresses(text: &str) -> impl Iterator<Item = IpAddr> {
    text.split(|c: char| c.is_whitespace() || c == ',')
        .filter_map(|word| word.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_tells_who_was_punished() {
        let ip = |text: &str| text.parse::<IpAddr>().ok();
        for (line, who) in [
            (
                "rblfilter[7]: listed,ip=[::ffff:127.66.1.2],port=[1],zone=bl.test,score=10,at=connect,action=ban,bantime=3600s,killed=1",
                ip("127.66.1.2"),
            ),
            (
                "rblfilter[7]: id=1.2,listed,ip=[fd00:66::1],port=[1],action=reject",
                ip("fd00:66::1"),
            ),
            (
                "rblfilter[7]: shed,ip=[::ffff:127.76.1.2],port=[1],silent=12",
                ip("127.76.1.2"),
            ),
            (
                "rblfilter[7]: listed,ip=[::ffff:127.66.1.2],port=[1],action=none,would=ban",
                None,
            ),
            ("rblfilter[7]: passed,ip=[::ffff:127.1.1.2]", None),
        ] {
            assert_eq!(punished(line), who, "{line}");
        }
        assert!(is_listed("127.66.0.1".parse().unwrap()));
        assert!(!is_listed("127.76.0.1".parse().unwrap()));
    }

    #[test]
    fn states_are_told_from_events() {
        for (line, event) in [
            (
                "rblfilter[7]: degraded,what=dnsbl,zone=bl.test: no answer",
                Some("degraded dnsbl"),
            ),
            (
                "rblfilter[7]: recovered,what=store,after=2s",
                Some("recovered store"),
            ),
            ("rblfilter[7]: worker,pause=0s: x", Some("worker")),
            ("rblfilter[7]: disabled: x", Some("disabled")),
            ("rblfilter[7]: listed,ip=[::1]", None),
            ("courierd: started", None),
        ] {
            assert_eq!(state_event(line).as_deref(), event, "{line}");
        }
    }

    #[test]
    fn addresses_are_found_among_the_words_of_nft() {
        let text = "set rblfilter4 {\n elements = { 127.66.1.2 timeout 1h expires 59m, 127.66.1.3 timeout 1h }\n}";
        assert_eq!(addresses(text).count(), 2);
    }
}
