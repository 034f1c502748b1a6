//! A long mixed wave, and whether the filter grows in it: all kinds of spammers over IPv4 and IPv6, a DNS server that
//! comes and goes, bans by verdict that end and come again, bans by hand, reloads.

pub mod flat;
pub mod report;
pub mod sample;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use std::{io, thread};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::faults::mail::{Post, Senders};
use crate::stub::{Answer, Stub};
use crate::wave::{Kind, Load, Tally, Wave};
use crate::{Config, Dns, Error, Lab, Product};
use flat::Trend;
use sample::{Held, Sample};

/// Between two samples; it is looked at each second, and the least number of descriptors and threads counts, as what
/// is open for a moment is no leak.
const SAMPLE: Duration = Duration::from_secs(10);
/// The least that must be seen to tell a trend.
pub const LEAST: Duration = Duration::from_secs(60);
/// How much may come to be in the second half: KiB (or a twentieth of what is there), descriptors, threads.
const MEMORY_KIB: f64 = 1024.0;
const DESCRIPTORS: f64 = 8.0;
const THREADS: f64 = 4.0;
/// In less than so many minutes a few samples decide, and what is learned once is still being learned: then six times as
/// much. What leaks with each session still shows.
const MINUTES: f64 = 10.0;
const SHORT: f64 = 6.0;
/// Bans end after a minute or two and come again, as do the answers of the lists, so that what is to be remembered has
/// an end.
const TOML: &str = "[lookup]\nquery-non-global = true\n[[dnsbl]]\nzone = \"bl.test\"\n\
                    [ban]\ntime = \"20s\"\nfactor = 1.0\nmax-time = \"30s\"\nwindow = \"1m\"\nlook-again = \"10s\"\n\
                    [cache]\nmin-ttl = \"10s\"\nmax-ttl = \"30s\"\nmax-negative-ttl = \"30s\"\n";

/// What a long run showed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Figures {
    /// The day.
    pub date: String,
    /// Processors and kernel, in general words.
    pub machine: String,
    /// How long.
    pub minutes: f64,
    /// Samples that were taken.
    pub samples: usize,
    /// What each part of the filter held.
    pub parts: BTreeMap<String, Part>,
    /// Times that a part was another process than before.
    pub replaced: usize,
    /// Processes that stayed as zombies, or without a parent, for two samples.
    pub zombies: usize,
    /// See there.
    pub orphans: usize,
    /// What each of those without a parent was, and waited for.
    #[serde(default)]
    pub orphans_seen: Vec<String>,
    /// Processes of the filter that were left after its stop, and files of messages.
    pub left: usize,
    /// Spammers' connects, and those that were ended.
    pub spam: [u64; 2],
    /// The most entries in the kernel's sets.
    pub banned: usize,
    /// Messages begun, delivered, lost, duplicated.
    pub mail: [usize; 4],
    /// Messages that were answered 4xx, some of them more than once.
    pub tempfailed: u32,
    /// Times that the DNS server was away or slow.
    pub dns: usize,
    /// Bans and unbans by hand.
    pub by_hand: usize,
    /// Reloads; none where there is no such command.
    pub reloads: usize,
    /// What the log says of the filter's state.
    pub bugs: usize,
}

/// What one part of the filter held.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Part {
    /// KiB.
    pub rss_kib: Trend,
    /// KiB.
    pub pss_kib: Trend,
    /// Open descriptors.
    pub descriptors: Trend,
    /// Threads.
    pub threads: Trend,
}

impl Figures {
    /// What is wrong, in words.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        let mut all = Vec::new();
        let mut complain = |is: bool, text: String| {
            if is {
                all.push(text);
            }
        };
        for wanted in ["supervisor", "worker", "warden"] {
            complain(
                !self.parts.contains_key(wanted),
                format!("no {wanted} was seen all the time"),
            );
        }
        for (name, part) in &self.parts {
            let factor = if self.minutes < MINUTES { SHORT } else { 1.0 };
            for (what, trend, allowed) in part.judged() {
                complain(
                    !trend.is_flat(allowed * factor),
                    format!("the {name}'s {what} grow: {trend:?}"),
                );
            }
        }
        for (number, what) in [
            // A reload has another worker, with a warden and what looks up aliases.
            (
                self.replaced.saturating_sub(3 * self.reloads),
                "processes were replaced without a reload",
            ),
            (self.zombies, "zombies"),
            (self.left, "things are left after the stop"),
            (self.mail[2], "messages lost"),
            (self.mail[3], "messages duplicated"),
            (self.bugs, "panics"),
        ] {
            complain(number > 0, format!("{number} {what}"));
        }
        let seen = if self.orphans_seen.is_empty() {
            "it was not written down which".to_owned()
        } else {
            self.orphans_seen.join("; ")
        };
        complain(
            self.orphans > 0,
            format!("{} orphans ({seen})", self.orphans),
        );
        all
    }
}

impl Part {
    fn of(points: &[(f64, Held)]) -> Option<Self> {
        let trend = |pick: &dyn Fn(&Held) -> u64| {
            let values: Vec<(f64, f64)> = points
                .iter()
                .map(|(at, held)| (*at, number(pick(held))))
                .collect();
            Trend::of(&values)
        };
        Some(Self {
            rss_kib: trend(&|held| held.rss_kib)?,
            pss_kib: trend(&|held| held.pss_kib)?,
            descriptors: trend(&|held| held.descriptors)?,
            threads: trend(&|held| held.threads)?,
        })
    }

    /// Each with how much it may grow. The memory of its own, for shared pages are other programs' too.
    fn judged(&self) -> [(&'static str, Trend, f64); 3] {
        [
            (
                "KiB",
                self.rss_kib,
                MEMORY_KIB.max(self.rss_kib.middle / 20.0),
            ),
            ("descriptors", self.descriptors, DESCRIPTORS),
            ("threads", self.threads, THREADS),
        ]
    }
}

#[expect(clippy::cast_precision_loss, reason = "KiB and counts")]
fn number(value: u64) -> f64 {
    value as f64
}

/// Runs for so long. To be called outside of any lab. `told` gets each sample.
///
/// # Errors
/// If the lab, the filter or the load does not start.
pub fn run(product: &Product, length: Duration, told: &dyn Fn(&Sample)) -> Result<Figures, Error> {
    let mut lab = Lab::start(Config {
        // Else couriertcpd itself waits where the DNS server is away.
        tcpd_options: "-nodnslookup".into(),
        listed: [
            ("127.66.0.0/15", [127, 0, 0, 2]),
            ("fd00:66::/32", [127, 0, 0, 2]),
        ]
        .map(|(net, code)| (net.to_owned(), Ipv4Addr::from(code)))
        .to_vec(),
        ..Config::default()
    })?;
    product.start(&lab, TOML)?;
    let failed = |error: io::Error| Error::Load(error.to_string());

    let tally = Arc::<Tally>::default();
    let mut loads = Vec::new();
    for wave in waves(&lab, length) {
        loads.push(wave.start(&tally).map_err(failed)?);
    }
    let post = Arc::<Post>::default();
    let (stop, stopped) = watch::channel(false);
    let senders = Senders {
        rate: 2,
        addresses: 100,
        server: lab.server_for(Ipv4Addr::LOCALHOST),
    };
    let sending = Arc::clone(&post).send(senders, stopped);
    let sender = crate::wave::thread("senders", sending).map_err(failed)?;

    let watched = watch(&mut lab, &loads, length, told);
    let _ = stop.send(true);
    let ended = loads.into_iter().try_for_each(Load::join).and_then(|()| {
        sender
            .join()
            .map_err(|_| io::Error::other("the senders panicked"))?
    });
    let watched = watched?;
    ended.map_err(failed)?;
    finish(&lab, product, &watched, &tally, &post)
}

/// Each kind of spammer, over either family, at rates that leave the machine to others.
fn waves(lab: &Lab, length: Duration) -> Vec<Wave> {
    let wave = |kind, rate, ipv6| Wave {
        kind,
        server: lab.server_for(Ipv4Addr::LOCALHOST),
        server6: lab.server_for(std::net::Ipv6Addr::LOCALHOST),
        rate,
        addresses: if ipv6 { 60 } else { 200 },
        listed_percent: 90,
        ipv6,
        hold: Duration::from_secs(5),
        mail_rate: 0,
        length,
        ..Wave::default()
    };
    vec![
        wave(Kind::Banner, 3, false),
        wave(Kind::Hang, 4, false),
        wave(Kind::Data, 3, false),
        wave(Kind::Return, 4, false),
        wave(Kind::Hang, 2, true),
        wave(Kind::Data, 2, true),
    ]
}

/// What was seen and done.
#[derive(Default)]
struct Watched {
    samples: Vec<Sample>,
    zombies: BTreeSet<i32>,
    /// With what each is.
    orphans: BTreeMap<i32, String>,
    dns: usize,
    by_hand: usize,
    reloads: usize,
}

fn watch(
    lab: &mut Lab,
    loads: &[Load],
    length: Duration,
    told: &dyn Fn(&Sample),
) -> Result<Watched, Error> {
    let begun = Instant::now();
    let mut watched = Watched::default();
    let mut next = SAMPLE;
    let mut least: Option<Sample> = None;
    let can_reload = lab
        .run(&["rblfilter", "reload", "--help"])
        .is_ok_and(|output| output.status.success());
    for second in 0.. {
        let at = Duration::from_secs(second);
        if at >= length || loads.iter().all(Load::is_finished) {
            break;
        }
        thread::sleep((begun + at).saturating_duration_since(Instant::now()));
        // Of each minute: the DNS server is away, and later slow.
        match second % 60 {
            20 => {
                lab.dns_start(Dns::None)?;
                watched.dns += 1;
            }
            40 => {
                lab.dns_start(Dns::Stub(Stub {
                    list: Answer::After(Duration::from_secs(1)),
                    ..Stub::default()
                }))?;
                watched.dns += 1;
            }
            25 | 45 => lab.dns_start(Dns::Rbldnsd)?,
            _ => {}
        }
        let host = format!("127.70.0.{}", second % 200);
        match second % 15 {
            5 => {
                lab.run_ok(&["rblfilter", "ban", &host, "--for", "30s"])?;
                watched.by_hand += 1;
            }
            6 => {
                let host = format!("127.70.0.{}", (second - 1) % 200);
                lab.run_ok(&["rblfilter", "unban", &host, "--for", "10s"])?;
                watched.by_hand += 1;
            }
            12 if can_reload => {
                lab.run_ok(&["rblfilter", "reload"])?;
                watched.reloads += 1;
            }
            _ => {}
        }
        let now = Sample::take(lab, begun.elapsed().as_secs_f64());
        let mut sample = match least.take() {
            Some(before) => now.with_least_of(&before),
            None => now,
        };
        if begun.elapsed() < next {
            least = Some(sample);
        } else {
            next += SAMPLE;
            let members = |set| lab.set_members(set).map_or(0, |members| members.len());
            sample.banned = members("rblfilter4") + members("rblfilter6");
            if let Some(before) = watched.samples.last() {
                let both = |of: &dyn Fn(&Sample) -> &Vec<i32>| {
                    let now: BTreeSet<i32> = of(&sample).iter().copied().collect();
                    of(before)
                        .iter()
                        .copied()
                        .filter(|pid| now.contains(pid))
                        .collect::<Vec<_>>()
                };
                watched.zombies.extend(both(&|sample| &sample.zombies));
                for pid in both(&|sample| &sample.orphans) {
                    let what = || sample::what_it_does(lab, pid);
                    watched.orphans.entry(pid).or_insert_with(what);
                }
            }
            told(&sample);
            watched.samples.push(sample);
        }
    }
    Ok(watched)
}

fn finish(
    lab: &Lab,
    product: &Product,
    watched: &Watched,
    tally: &Tally,
    post: &Post,
) -> Result<Figures, Error> {
    let letters = post.all();
    let accepted = letters.iter().filter(|letter| letter.accepted.is_some());
    let accepted = accepted.count();
    let arrived = || Post::arrived(&lab.mailbox());
    // The spammers' mail is in the mailbox, too, so it is looked at for the numbers.
    let end = Instant::now() + Duration::from_secs(60);
    while arrived().len() < accepted && Instant::now() < end {
        thread::sleep(Duration::from_millis(500));
    }
    let arrived = arrived();
    product.filterctl_stop(lab)?;
    let left = lab
        .processes()
        .iter()
        .filter(|process| process.comm.starts_with("rblfilter"))
        .count();
    let mut parts = BTreeMap::new();
    let names: BTreeSet<&String> = watched
        .samples
        .iter()
        .flat_map(|sample| sample.held.keys())
        .collect();
    let mut replaced = 0;
    for name in names {
        let points: Vec<(f64, Held)> = watched
            .samples
            .iter()
            .filter_map(|sample| Some((sample.at_s, *sample.held.get(name)?)))
            .collect();
        // A short-lived helper is no part.
        if points.len() * 10 < watched.samples.len() * 9 {
            continue;
        }
        replaced += points
            .windows(2)
            .filter(|two| two[0].1.pid != two[1].1.pid)
            .count();
        if let Some(part) = Part::of(&points) {
            parts.insert(name.clone(), part);
        }
    }
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    Ok(Figures {
        date: String::new(),
        machine: String::new(),
        minutes: watched.samples.last().map_or(0.0, |last| last.at_s / 60.0),
        samples: watched.samples.len(),
        parts,
        replaced,
        zombies: watched.zombies.len(),
        orphans: watched.orphans.len(),
        orphans_seen: watched.orphans.values().cloned().collect(),
        left: left + lab.courier_tmp_files().len(),
        spam: [
            load(&tally.spam_sent),
            u64::try_from(tally.ended().len()).unwrap_or(0),
        ],
        banned: watched
            .samples
            .iter()
            .map(|sample| sample.banned)
            .max()
            .unwrap_or(0),
        mail: [
            letters.len(),
            arrived.len(),
            letters.len() - arrived.len().min(letters.len()),
            arrived.values().filter(|times| **times > 1).count(),
        ],
        tempfailed: letters.iter().map(|letter| letter.tempfailed).sum(),
        dns: watched.dns,
        by_hand: watched.by_hand,
        reloads: watched.reloads,
        bugs: lab.log_matching(": bug").len(),
    })
}
