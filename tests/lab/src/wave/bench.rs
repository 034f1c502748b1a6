//! One run of the benchmark: a lab, a guard, a wave, and the figures of it.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::figures::{Cpu, Figures, Mail, Memory, Percentiles, Slots, Spam};
use super::kernel::{self, Lives, Observer};
use super::meter::{self, Meter};
use super::{Kind, Load, Tally, Wave};
use crate::stub::{Answer, Stub};
use crate::{Config, Dns, Error, Lab, Product, Spaces, wait_for};

/// Longer than any filter needs to say how it watches.
const LIMIT: Duration = Duration::from_secs(5);
/// Both parts of 127.66.0.0/15, so that there are enough addresses for any run.
const LISTED: [&str; 2] = ["127.66.0.0/15", "fd00:66::/32"];

/// What keeps the spammers from the slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// Nothing; no list is asked.
    None,
    /// `BLACKLISTS` with `BLOCK`: Courier answers 511 at RCPT, as on the blog's server.
    Block,
    /// The same with couriertcpd's `-drop`.
    Drop,
    /// rblfilter with a list of its own, and no `BLACKLISTS`.
    Rblfilter,
    /// The same with the gate.
    Gate,
    /// rblfilter, which takes Courier's verdict of `BLOCK`, and no list of its own.
    RblfilterBlock,
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Block => "BLOCK",
            Self::Drop => "-drop",
            Self::Rblfilter => "rblfilter",
            Self::Gate => "rblfilter with the gate",
            Self::RblfilterBlock => "rblfilter by BLOCK",
        })
    }
}

impl Guard {
    fn is_ours(self) -> bool {
        matches!(self, Self::Rblfilter | Self::Gate | Self::RblfilterBlock)
    }

    fn blacklists(self) -> &'static str {
        match self {
            Self::None | Self::Rblfilter | Self::Gate => "",
            Self::Block | Self::Drop | Self::RblfilterBlock => {
                "-block=bl.test,BLOCK,Listed_by_bl.test"
            }
        }
    }
}

/// One run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What is sent; the servers are the lab's.
    pub wave: Wave,
    /// What guards the slots.
    pub guard: Guard,
    /// Where it runs.
    pub spaces: Spaces,
    /// When the list answers; none for a real rbldnsd, which does so at once.
    pub list: Option<Answer>,
    /// Whether nobody answers for the names of clients. Couriertcpd asks for them first.
    pub names_silent: bool,
    /// couriertcpd's `-nodnslookup`.
    pub no_names: bool,
    /// `MAXDAEMONS`.
    pub slots: u32,
    /// How long the filter's idle processor time is measured before the wave.
    pub idle: Duration,
    /// rblfilter.
    pub product: Product,
    /// More of its configuration: keys first, then tables, as TOML has it.
    pub toml: String,
    /// The keys of `[firewall]` that limit new connections. The rules are those of `rblfilter firewall apply`, also
    /// where the filter itself does not run.
    pub limits: Option<String>,
    /// Kill the gate after this long.
    pub kill_gate: Option<Duration>,
    /// Send every packet to the queue, also of those whom the kernel knows already.
    pub all_to_queue: bool,
}

impl Plan {
    fn config(&self) -> Config {
        let drop = if self.guard == Guard::Drop {
            "-drop"
        } else {
            ""
        };
        let dns = match (self.list, self.names_silent) {
            (None, false) => Dns::Rbldnsd,
            (list, silent) => Dns::Stub(Stub {
                list: list.unwrap_or_default(),
                names: if silent {
                    Answer::Never
                } else {
                    Answer::AtOnce
                },
                ..Stub::default()
            }),
        };
        let code = std::net::Ipv4Addr::new(127, 0, 0, 2);
        Config {
            spaces: self.spaces,
            measured: true,
            blacklists: self.guard.blacklists().into(),
            drop: drop.into(),
            max_daemons: self.slots,
            tcpd_options: if self.no_names { "-nodnslookup" } else { "" }.into(),
            dns,
            listed: LISTED.iter().map(|net| ((*net).into(), code)).collect(),
            ..Config::default()
        }
    }

    fn toml(&self) -> String {
        let zone = "[lookup]\nquery-non-global = true\n[[dnsbl]]\nzone = \"bl.test\"\n";
        let own = matches!(self.guard, Guard::Rblfilter | Guard::Gate);
        let mut text = format!("{}\n{}", self.toml, if own { zone } else { "" });
        if let Some(keys) = &self.limits {
            text.push_str(&format!("[firewall]\n{keys}\n"));
        }
        if self.guard == Guard::Gate {
            text.push_str("[gate]\nenabled = true\n");
        }
        text
    }

    /// The limit acts by itself, without the filter.
    fn limit_new_connections(&self, lab: &Lab) -> Result<(), Error> {
        if self.spaces == Spaces::Machine {
            let text = "a limit needs private namespaces: the machine's firewall is left as it is";
            return Err(Error::Load(text.into()));
        }
        let toml = self.toml();
        self.product.install(lab, &toml, &["--no-start"]).map(drop)
    }

    fn words(&self) -> String {
        let Wave {
            kind,
            rate,
            addresses,
            networks,
            listed_percent,
            hold,
            mail_rate,
            ..
        } = self.wave;
        let kind = match kind {
            Kind::Banner => "banner",
            Kind::Hang => "hang",
            Kind::Data => "data",
            Kind::Return => "return",
            Kind::Syn => "first packets",
        };
        let list = match self.list {
            None | Some(Answer::AtOnce) => "list at once".into(),
            Some(Answer::After(delay)) => format!("list after {} s", delay.as_secs_f64()),
            Some(Answer::Never) => "list silent".into(),
        };
        let spread = if networks > 0 {
            format!(" in {networks} networks")
        } else {
            String::new()
        };
        let mut words = format!(
            "{rate}/s {kind}, hold {} s, {addresses} addresses{spread}, {listed_percent} % listed, {list}, mail {mail_rate}/s",
            hold.as_secs()
        );
        for (is, text) in [
            (self.wave.ipv6, ", IPv6"),
            (self.names_silent, ", PTR silent"),
            (self.no_names, ", -nodnslookup"),
        ] {
            if is {
                words.push_str(text);
            }
        }
        words
    }

    /// Runs it to its end. To be called outside of any lab.
    ///
    /// # Errors
    /// If the lab, the filter or the load does not start.
    pub fn run(&self) -> Result<Figures, Error> {
        // Before the thread is in other namespaces, where the kernel tells nothing.
        let observer = Observer::start();
        let lab = Lab::start(self.config())?;
        let mut notes = Vec::new();
        let mut watch = None;
        let mut filter = Vec::new();
        if self.guard.is_ours() {
            self.product.start(&lab, &self.toml())?;
            // The warden is started with the first ban, or to be asked whether there may be one.
            let line = lab.wait_for_log("watching,by=", LIMIT)?;
            watch = line.split("by=").nth(1).map(|by| {
                by.split(|c: char| !c.is_ascii_alphanumeric())
                    .next()
                    .unwrap_or_default()
                    .to_owned()
            });
            if self.guard == Guard::Gate {
                self.await_gate(&lab)?;
            }
            filter = filter_pids(&lab);
            if self.spaces == Spaces::Machine {
                notes.push("no set in the machine's namespaces".into());
            }
        } else if self.limits.is_some() {
            self.limit_new_connections(&lab)?;
        }
        let counted = filter.iter().all(|pid| lab.count_as_filter(*pid).is_ok());
        let time = |lab: &Lab, filter: &[i32]| {
            lab.filter_cpu()
                .filter(|_| counted)
                .unwrap_or_else(|| meter::processor_time(filter))
        };
        let idle = if filter.is_empty() {
            None
        } else {
            let (before, begun) = (time(&lab, &filter), Instant::now());
            std::thread::sleep(self.idle);
            let used = time(&lab, &filter).saturating_sub(before);
            Some(100.0 * used.as_secs_f64() / begun.elapsed().as_secs_f64())
        };

        match &observer {
            Ok(observer) => observer.follow(
                lab.couriertcpd_pid()
                    .and_then(|pid| lab.pid_on_machine(pid))
                    .map_err(|e| Error::io("find", "couriertcpd", e))?,
            ),
            Err(error) => notes.push(format!("no events of the kernel: {error}")),
        }
        if lab.cpu().is_none() {
            notes.push("processor time of all: no cgroup version 2 here".into());
        }
        let tally = Arc::new(Tally::default());
        let meter = Meter::start(&lab, self.wave.length)
            .map_err(|e| Error::io("watch", "couriertcpd", e))?;
        let own_before = meter::own_time();
        let (all_before, filter_before) = (lab.cpu(), time(&lab, &filter));
        let begun = kernel::now();
        let mut gate = GateMeter::start(&lab, self.kill_gate);
        let load = self.start_load(&lab, &tally)?;
        // The wave's own length; after that the last legitimate senders wait, and nothing else happens.
        let limit = self.wave.length + self.wave.patience * 8;
        let finished = || {
            gate.look(&lab);
            load.is_finished().then_some(())
        };
        if wait_for(self.wave.length, finished).is_none() {
            let gate_percent = gate.percent();
            wait_for(limit, || load.is_finished().then_some(()));
            gate.ended = gate_percent;
        }
        let ended = kernel::now();
        load.join().map_err(|e| Error::Load(e.to_string()))?;
        let slots = meter.finish().map_err(|e| Error::Load(e.to_string()))?;
        let used = |before: Option<Duration>, now: Option<Duration>| {
            Some(now?.saturating_sub(before?).as_secs_f64())
        };
        let all_s = used(all_before, lab.cpu());
        let generator_s = used(own_before, meter::own_time());
        let filter_s =
            used(Some(filter_before), Some(time(&lab, &filter))).filter(|_| !filter.is_empty());
        let lives = match observer {
            Ok(observer) => Some(observer.finish().map_err(|e| Error::Load(e.to_string()))?),
            Err(_) => None,
        };
        if let Some(lives) = &lives
            && lives.overruns > 0
        {
            notes.push(format!(
                "{} overruns of the kernel's events",
                lives.overruns
            ));
        }
        // The kernel's numbers of the wave's own time alone.
        let wave_end = ended.min(begun + nanos(self.wave.length));
        let kernel_slots = lives.as_ref().map(|lives| lives.slots(begun, wave_end));
        let seconds = Duration::from_nanos(ended - begun).as_secs_f64();
        Ok(Figures {
            guard: match &self.limits {
                Some(keys) => format!("{}, {}", self.guard, limits_in_words(keys)),
                None => self.guard.to_string(),
            },
            spaces: match self.spaces {
                Spaces::Private => "private",
                Spaces::Machine => "machine",
            }
            .into(),
            watch,
            wave: self.words(),
            seconds: self.wave.length.as_secs(),
            slots: Slots {
                all: self.slots,
                peak: slots.peak,
                mean: slots.mean,
                series: slots.series,
                kernel_peak: kernel_slots.map(|(peak, _)| peak),
                kernel_mean: kernel_slots.map(|(_, mean)| mean),
            },
            spam: Spam {
                dropped: dropped(&lab),
                ..spam(&tally, lives.as_ref(), &self.wave, wave_end)
            },
            mail: mail(&tally, self.wave.length),
            cpu: Cpu {
                all_s,
                generator_s,
                filter_s,
                filter_percent: filter_s.map(|used| 100.0 * used / seconds),
                filter_idle_percent: idle,
                gate_percent: gate.ended.or_else(|| gate.percent()),
                packet_us: gate.packet_us(),
            },
            memory: (!filter.is_empty()).then(|| {
                let memory = meter::Memory::of(&filter_pids(&lab));
                Memory {
                    rss_kib: memory.rss,
                    pss_kib: memory.pss,
                    peak_kib: memory.peak,
                }
            }),
            banned: banned(&lab, self.guard),
            notes,
        })
    }

    /// Waits until somebody reads the queue.
    fn await_gate(&self, lab: &Lab) -> Result<(), Error> {
        let read = || queued(lab).map(drop);
        wait_for(LIMIT, read).ok_or_else(|| Error::Timeout {
            what: "the gate".into(),
            limit: LIMIT,
        })?;
        if self.all_to_queue {
            lab.run_ok(&["iptables", "-t", "mangle", "-F", "INPUT"])?;
            let rule = "iptables -t mangle -A INPUT -p tcp --syn --dport 25 -j NFQUEUE --queue-num 25 --queue-bypass";
            lab.run_ok(&rule.split(' ').collect::<Vec<_>>())?;
        }
        Ok(())
    }

    fn start_load(&self, lab: &Lab, tally: &Arc<Tally>) -> Result<Load, Error> {
        let wave = Wave {
            server: lab.server_for(std::net::Ipv4Addr::LOCALHOST),
            server6: lab.server_for(std::net::Ipv6Addr::LOCALHOST),
            ..self.wave.clone()
        };
        wave.start(tally).map_err(|e| Error::Load(e.to_string()))
    }
}

/// How many packets have been put into queue 25, which somebody reads (nf_queue's line in /proc: number, port, waiting,
/// mode, range, dropped, dropped, packets, 1).
fn queued(lab: &Lab) -> Option<u64> {
    let text = lab
        .run_ok(&["cat", "/proc/net/netfilter/nfnetlink_queue"])
        .ok()?;
    let words = |line: &str| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let line = text
        .lines()
        .map(words)
        .find(|words| words.first().is_some_and(|word| word == "25"))?;
    line.get(7)?.parse().ok()
}

/// What the gate uses while a wave goes on.
struct GateMeter {
    gate: Option<i32>,
    others: Vec<i32>,
    kill: Option<Instant>,
    begun: Instant,
    at_start: Duration,
    last: (Instant, Duration, Duration, u64),
    slices: Vec<(f64, f64)>,
    ended: Option<f64>,
}

/// How long a slice is.
const SLICE: Duration = Duration::from_millis(250);
/// A slice with fewer packets tells nothing.
const LEAST_PACKETS: u64 = 20;

impl GateMeter {
    fn start(lab: &Lab, kill: Option<Duration>) -> Self {
        let (gate, others): (Vec<i32>, Vec<i32>) = filter_pids(lab).into_iter().partition(|pid| {
            lab.arguments(*pid)
                .get(1)
                .is_some_and(|word| word == "gate")
        });
        let gate = gate.first().copied();
        let now = Instant::now();
        let (at_start, rest) = (
            meter::exact_time(gate.as_slice()),
            meter::exact_time(&others),
        );
        Self {
            kill: kill.map(|after| now + after),
            begun: now,
            at_start,
            last: (now, at_start, rest, queued(lab).unwrap_or(0)),
            slices: Vec::new(),
            ended: None,
            gate,
            others,
        }
    }

    fn look(&mut self, lab: &Lab) {
        let Some(gate) = self.gate else { return };
        let now = Instant::now();
        if self.kill.take_if(|at| *at <= now).is_some() {
            let _ = lab.kill(gate, nix::sys::signal::Signal::SIGKILL);
        }
        let (at, gate_before, rest_before, packets_before) = self.last;
        if now.duration_since(at) < SLICE {
            return;
        }
        let packets = queued(lab).unwrap_or(0);
        let (gate, rest) = (meter::exact_time(&[gate]), meter::exact_time(&self.others));
        self.last = (now, gate, rest, packets);
        let through = packets.saturating_sub(packets_before);
        if through >= LEAST_PACKETS {
            #[expect(clippy::cast_precision_loss, reason = "a mean for people")]
            let each = |before: Duration, now: Duration| {
                now.saturating_sub(before).as_secs_f64() * 1e6 / through as f64
            };
            self.slices
                .push((each(gate_before, gate), each(rest_before, rest)));
        }
    }

    /// Of one processor, since the start.
    fn percent(&self) -> Option<f64> {
        let used = meter::exact_time(&[self.gate?]).checked_sub(self.at_start)?;
        Some(100.0 * used.as_secs_f64() / self.begun.elapsed().as_secs_f64())
    }

    fn packet_us(&self) -> Option<(f64, f64)> {
        let median = |pick: fn(&(f64, f64)) -> f64| {
            let mut all: Vec<f64> = self.slices.iter().map(pick).collect();
            all.sort_by(f64::total_cmp);
            all.get(all.len() / 2).copied()
        };
        Some((median(|slice| slice.0)?, median(|slice| slice.1)?))
    }
}

/// `limit 200/second, limit-per-network 60/minute`.
fn limits_in_words(keys: &str) -> String {
    let lines: Vec<String> = keys
        .lines()
        .map(|line| line.replace(" = ", " ").replace('"', ""))
        .collect();
    lines.join(", ")
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn filter_pids(lab: &Lab) -> Vec<i32> {
    lab.processes()
        .iter()
        .filter(|process| process.comm.starts_with("rblfilter"))
        .map(|process| process.pid)
        .collect()
}

fn banned(lab: &Lab, guard: Guard) -> Option<usize> {
    if !guard.is_ours() || lab.spaces() == Spaces::Machine {
        return None;
    }
    let count = |set| lab.set_members(set).ok().map(|members| members.len());
    Some(count("rblfilter4")? + count("rblfilter6")?)
}

/// What the lab's rules of iptables have dropped; it has none but ours.
fn dropped(lab: &Lab) -> Option<u64> {
    if lab.spaces() == Spaces::Machine {
        return None;
    }
    let mut all = None;
    for program in ["iptables", "ip6tables"] {
        let rules = lab.run_ok(&[program, "-nvxL", "INPUT"]).ok()?;
        // The first column counts packets.
        let ours = rules
            .lines()
            .filter(|rule| rule.contains("/* rblfilter */"));
        let counts = ours.filter_map(|rule| rule.split_whitespace().next()?.parse::<u64>().ok());
        for count in counts {
            all = Some(all.unwrap_or(0) + count);
        }
    }
    all
}

fn loaded(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn spam(tally: &Tally, lives: Option<&Lives>, wave: &Wave, wave_end: u64) -> Spam {
    let ended = tally.ended();
    let times = |pick: &dyn Fn(&kernel::Life) -> Option<u64>| {
        // Those that hung up by themselves, at the end of their hold or of the wave, were not ended.
        let hold = nanos(wave.hold.saturating_sub(Duration::from_millis(100)));
        let ended = lives?.ended.iter().filter(|life| {
            !life.legitimate && life.exit < wave_end && life.exit - life.fork < hold
        });
        Percentiles::of(ended.filter_map(pick).map(Duration::from_nanos).collect())
    };
    Spam {
        connects: loaded(&tally.spam_sent),
        unanswered: loaded(&tally.spam_unanswered),
        dropped: None,
        greeted: loaded(&tally.spam_greeted),
        accepted: loaded(&tally.spam_accepted),
        ended: ended.len(),
        open_ms: Percentiles::of(ended),
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        sessions_per_second: lives
            .map(|lives| lives.ended.len() as f64 / wave.length.as_secs_f64()),
        exec_to_kill_ms: times(&|life| life.exec.map(|at| life.exit - at)),
        accept_to_end_ms: times(&|life| Some(life.exit - life.fork)),
    }
}

fn mail(tally: &Tally, length: Duration) -> Mail {
    let mail = tally.mail();
    let late = mail.iter().filter(|mail| mail.begun >= length / 2);
    let of = |first| {
        let some = mail.iter().filter(|mail| mail.is_first == first);
        Percentiles::of(some.map(|mail| mail.latency).collect())
    };
    Mail {
        offered: loaded(&tally.mail_sent),
        accepted: loaded(&tally.mail_accepted),
        latency_late_ms: Percentiles::of(late.map(|mail| mail.latency).collect()),
        latency_first_ms: of(true),
        latency_next_ms: of(false),
        latency_ms: Percentiles::of(mail.iter().map(|mail| mail.latency).collect()),
    }
}

/// rblfilter as built from this checkout.
#[must_use]
pub fn product(installer: &Path, programs: &Path) -> Product {
    Product {
        installer: installer.into(),
        programs: programs.into(),
    }
}
