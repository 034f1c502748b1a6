//! `rblfilter report` on a large mail log, beside `grep -c` and pflogsumm (where it is installed) on the same file.
//!
//!     cargo bench --bench report [-- [MIB] [--keep FILE]]
//!
//! The log is generated, the same for the same size: a server with some mail, its users, strangers who knock, and a
//! wave of listed clients every six hours, half of the time without rblfilter.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};

const MIB: u64 = 1024;
/// Times that each program reads the file; the fastest counts.
const RUNS: usize = 3;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|word| word != "--bench");
    let (mut mib, mut keep) = (MIB, None);
    while let Some(word) = arguments.next() {
        if word == "--keep" {
            keep = Some(PathBuf::from(arguments.next().unwrap()));
        } else {
            mib = word.parse().unwrap();
        }
    }
    let name = format!("rblfilter-bench-{}.log", std::process::id());
    let path = keep
        .clone()
        .unwrap_or_else(|| std::env::temp_dir().join(name));
    let begun = Instant::now();
    let lines = Generator::write(&path, mib << 20);
    println!(
        "{mib} MiB, {lines} lines, written in {:.1} s; the least of {RUNS} runs, on {} cores",
        begun.elapsed().as_secs_f64(),
        std::thread::available_parallelism().unwrap(),
    );
    let log = path.to_str().unwrap();
    let report = env!("CARGO_BIN_EXE_rblfilter");
    run("rblfilter report", mib, report, &["report", log]);
    // Of all children so far, of which there was only this one.
    let memory = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss();
    println!(
        "  {:24} {:7.1} MiB at most",
        "  its memory",
        memory as f64 / 1024.0
    );
    run("  with --json", mib, report, &["report", "--json", log]);
    run(
        "grep -c started,ip=",
        mib,
        "grep",
        &["-c", "started,ip=", log],
    );
    run("pflogsumm", mib, "pflogsumm", &[log]);
    if keep.is_none() {
        std::fs::remove_file(&path).unwrap();
    }
}

fn run(name: &str, mib: u64, program: &str, arguments: &[&str]) {
    let (mut fastest, mut least) = (Duration::MAX, Duration::MAX);
    for _ in 0..RUNS {
        let (begun, cpu) = (Instant::now(), cpu());
        let status = Command::new(program)
            .args(arguments)
            // grep looks no further than the first match where this is /dev/null.
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .env("LC_ALL", "C.UTF-8")
            .output()
            .map(|output| output.status);
        match status {
            Ok(status) if status.success() => {
                fastest = fastest.min(begun.elapsed());
                least = least.min(self::cpu() - cpu);
            }
            Ok(status) => return println!("  {name:24} failed: {status}"),
            Err(error) => return println!("  {name:24} not run: {error}"),
        }
    }
    println!(
        "  {name:24} {:7.2} s {:7.0} MiB a second {:7.2} s of processor time",
        fastest.as_secs_f64(),
        mib as f64 / fastest.as_secs_f64(),
        least.as_secs_f64(),
    );
}

/// What all children so far have used.
fn cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    let times = [usage.user_time(), usage.system_time()];
    let micros = |time: nix::sys::time::TimeVal| time.tv_sec() * 1_000_000 + time.tv_usec();
    let all: i64 = times.into_iter().map(micros).sum();
    Duration::from_micros(all.unsigned_abs())
}

/// Writes the log, second after second.
struct Generator {
    out: BufWriter<File>,
    written: u64,
    lines: u64,
    /// xorshift64*, Vigna 2016.
    state: u64,
    second: u64,
    messages: u64,
    /// Sessions that sit until Courier ends them, by the second of their end.
    sitting: std::collections::VecDeque<(u64, Ipv4Addr)>,
}

/// A day, in seconds.
const DAY: u64 = 86_400;
/// How often a wave begins, and how long it lasts.
const EVERY: u64 = 6 * 3600;
const WAVE: u64 = 900;
/// When courieresmtpd ends a silent session.
const SILENCE: u64 = 600;

impl Generator {
    fn write(path: &Path, bytes: u64) -> u64 {
        let mut log = Self {
            out: BufWriter::with_capacity(1 << 20, File::create(path).unwrap()),
            written: 0,
            lines: 0,
            state: 0x9e37_79b9_7f4a_7c15,
            second: 0,
            messages: 0,
            sitting: std::collections::VecDeque::new(),
        };
        // The first day alone is 30 MiB; a smaller log is the end of its first wave.
        while log.written < bytes {
            log.one_second();
            log.second += 1;
        }
        log.out.flush().unwrap();
        log.lines
    }

    fn random(&mut self, below: u64) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        (self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % below
    }

    fn line(&mut self, text: &str) {
        let (day, time) = (self.second / DAY, self.second % DAY);
        let (month, day) = if day < 30 {
            ("Sep", day + 1)
        } else {
            ("Oct", day % 31 + 1)
        };
        let line = format!(
            "{month} {day:2} {:02}:{:02}:{:02} mail {text}\n",
            time / 3600,
            time / 60 % 60,
            time % 60
        );
        self.out.write_all(line.as_bytes()).unwrap();
        self.written += line.len() as u64;
        self.lines += 1;
    }

    /// Whether rblfilter is there: from the second of two days on.
    fn guarded(&self) -> bool {
        self.second / (DAY / 2) % 2 == 1
    }

    fn one_second(&mut self) {
        while self
            .sitting
            .front()
            .is_some_and(|(end, _)| *end <= self.second)
        {
            let (_, client) = self.sitting.pop_front().unwrap();
            self.line(&format!(
                "courieresmtpd: [::ffff:{client}]: Connection timed out"
            ));
        }
        // More by day than by night.
        let hour = self.second % DAY / 3600;
        let busy = if (7..20).contains(&hour) { 3 } else { 1 };
        if self.random(4) < busy {
            self.mail();
        }
        if self.random(3) == 0 {
            self.knock();
        }
        let into = (self.second + EVERY / 2) % EVERY;
        if into < WAVE {
            let number = 20 + 30 * into.min(WAVE - into) / WAVE;
            for _ in 0..number {
                self.spammer();
            }
        }
    }

    fn connect(&mut self, client: Ipv4Addr) -> u64 {
        let port = 1024 + self.random(64_000);
        self.line(&format!(
            "courieresmtpd: started,ip=[::ffff:{client}],port=[{port}]"
        ));
        port
    }

    /// A message from one of some thousand servers.
    fn mail(&mut self) {
        let sender = self.random(4000);
        let client = Ipv4Addr::from(0xc633_0000 + u32::try_from(sender * 7).unwrap());
        self.connect(client);
        let id = format!(
            "{:016X}.{:016X}.{:08X}",
            self.messages,
            self.second,
            self.messages % 65_536
        );
        self.messages += 1;
        let from = format!("user{}@company{sender}.example", self.random(50));
        self.line(&format!("courierd: newmsg,id={id}: dns; mail{sender}.example (mail{sender}.example [::ffff:{client}])"));
        self.line(&format!("courierd: started,id={id},from=<{from}>,module=local,host=alice!!5000!5000!/home/alice!/home/alice/Maildir!,addr=<alice>"));
        self.line("courierd: Waiting.  shutdown time=none, wakeup time=none, queuedelivering=1, inprogress=1");
        self.line(&format!("courierlocal: id={id},from=<{from}>,addr=<alice@mail.example>,size=20941,success: Message delivered."));
        self.line(&format!("courierd: completed,id={id}"));
    }

    /// Somebody who tries an address that does not exist, or a server of a good sender that is listed.
    fn knock(&mut self) {
        let (client, from) = if self.random(400) == 0 {
            let sender = self.random(4000);
            let client = Ipv4Addr::from(0xc633_0000 + u32::try_from(sender * 7).unwrap());
            let port = self.connect(client);
            self.line(&format!("courieresmtpd: error,relay=::ffff:{client},port={port},from=<news@company{sender}.example>,to=<alice@mail.example>: 511 https://bl.example/query/{client}"));
            return;
        } else {
            let number = u32::try_from(self.random(1 << 20)).unwrap();
            (
                Ipv4Addr::from(0x2d00_0000 + number * 97),
                format!("x{number}@spam.example"),
            )
        };
        let port = self.connect(client);
        self.line(&format!("courieresmtpd: error,relay=::ffff:{client},port={port},from=<{from}>,to=<nobody@mail.example>: 550 User <nobody> unknown"));
    }

    /// One of a wave.
    fn spammer(&mut self) {
        let number = u32::try_from(self.random(3 << 16)).unwrap();
        let client = Ipv4Addr::from(0x5900_0000 + number * 5);
        if self.guarded() {
            // Most are banned already.
            if self.random(8) == 0 {
                let port = 1024 + self.random(64_000);
                self.line(&format!("rblfilter[4711]: listed,ip=[::ffff:{client}],port=[{port}],zone=zen.spamhaus.org,code=127.0.0.4,score=10,at=connect,action=ban,bantime=3600s,killed=1"));
            }
            return;
        }
        if self.sitting.len() >= 300 {
            if self.random(200) == 0 {
                self.line("courieresmtpd: 300 maximum active connections.");
            }
            return;
        }
        let port = self.connect(client);
        self.line(&format!("courieresmtpd: error,relay=::ffff:{client},port={port},from=<x@spam{number}.example>,to=<alice@mail.example>: 511 https://bl.example/query/{client}"));
        self.sitting.push_back((self.second + SILENCE, client));
    }
}
