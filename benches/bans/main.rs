//! Bans a second: through the worker's client, the warden and the kernel, beside `ipset restore` and `nft -f` of the
//! same list, and fail2ban's `banip` of fewer where it is installed; and how long it takes until all are back after a
//! restart. Each in a lab of its own.
//!
//!     cargo build --release --workspace && sudo cargo bench --bench bans [-- NUMBER]
#![allow(missing_docs, clippy::unwrap_used)]

mod fail2ban;
mod restart;

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use rblfilter::enforce::warden::{Error, Warden};
use rblfilter_lab::{Config, Lab, Product};
use rblfilter_warden::request::{Outcome, Request};

const WARDEN: &str = "/usr/lib/courier/rblfilter-warden";
const LIST: &str = "/run/bans";
const INSIDE: &str = "inside-the-lab";
const NUMBER: u32 = 100_000;
/// As many as the client has in flight.
const TASKS: usize = 1024;

fn main() {
    let arguments: Vec<String> = std::env::args().filter(|word| word != "--bench").collect();
    if arguments.get(1).is_some_and(|word| word == INSIDE) {
        inside(arguments[2].parse().unwrap());
        return;
    }
    let number: u32 = arguments
        .get(1)
        .map_or(NUMBER, |word| word.parse().unwrap());
    // /proc/self is not in the lab.
    let program = std::env::current_exe().unwrap();
    println!("{number} bans of single IPv4 addresses, and what each way takes:");
    let product = Product {
        installer: Path::new(env!("CARGO_MANIFEST_DIR")).join("install.sh"),
        programs: Path::new(env!("CARGO_BIN_EXE_rblfilter"))
            .parent()
            .unwrap()
            .to_owned(),
    };
    for backend in ["ipset", "nftables"] {
        through_the_warden(&product, &program, backend, number);
        for row in fail2ban::rows(backend, number) {
            println!("  {backend:9} {row}");
        }
        let row = restart::row(&product, backend, number);
        println!("  {backend:9} {row}");
    }
}

/// The rows of the warden, and of the tool that loads the same list.
fn through_the_warden(product: &Product, program: &Path, backend: &str, number: u32) {
    let lab = Lab::start(Config {
        courier: false,
        ..Config::default()
    })
    .unwrap();
    let toml = format!("[ban]\nbackend = \"{backend}\"\nnew-per-second = 200000\n");
    product.install(&lab, &toml, &["--no-start"]).unwrap();
    let output = lab
        .command(program)
        .args([INSIDE, &number.to_string()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    print!("  {backend:9} {}", String::from_utf8_lossy(&output.stdout));
    lab.run_ok(&["rblfilter", "firewall", "remove"]).unwrap();
    lab.run_ok(&["rblfilter", "firewall", "apply"]).unwrap();
    let command: &[&str] = if backend == "ipset" {
        fs::write(LIST, list(number, "add rblfilter4 ", " timeout 3600\n", "")).unwrap();
        &["ipset", "restore", "-file", LIST]
    } else {
        let mut text = "add element inet rblfilter rblfilter4 { ".to_owned();
        text.push_str(&list(number, "", " timeout 3600s, ", "}\n"));
        fs::write(LIST, text).unwrap();
        &["nft", "-f", LIST]
    };
    let begun = Instant::now();
    lab.run_ok(command).unwrap();
    let what = format!("{} {}", command[0], command[1]);
    println!("  {backend:9} {}", line(&what, number, begun.elapsed()));
}

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0b00_0000 + number)
}

fn list(number: u32, before: &str, after: &str, end: &str) -> String {
    let mut text = String::new();
    for number in 0..number {
        write!(text, "{before}{}{after}", address(number)).unwrap();
    }
    text + end
}

fn line(what: &str, number: u32, took: Duration) -> String {
    let seconds = took.as_secs_f64();
    format!(
        "{what:24} {seconds:6.2} s  {:9.0}/s",
        f64::from(number) / seconds
    )
}

/// The worker's part: one thread, as the worker has.
fn inside(number: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .unwrap();
    let mut process = Command::new(WARDEN).stdin(theirs).spawn().unwrap();
    runtime.block_on(async {
        let warden = Arc::new(Warden::default());
        warden.arrived(ours);
        // Started, and the set read.
        let ready = warden.ask(Request::Check).await.unwrap();
        assert_eq!(ready.outcome, Outcome::Done);
        let next = Arc::new(AtomicU32::new(0));
        let begun = Instant::now();
        let tasks: Vec<_> = (0..TASKS)
            .map(|_| {
                let (warden, next) = (Arc::clone(&warden), Arc::clone(&next));
                tokio::spawn(async move {
                    loop {
                        let mine = next.fetch_add(1, Ordering::Relaxed);
                        if mine >= number {
                            return;
                        }
                        let request = Request::Restore {
                            network: std::net::IpAddr::from(address(mine)).into(),
                            seconds: 3600,
                        };
                        // While it reads a large set anew it may be silent; then it is asked again.
                        let outcome = loop {
                            match warden.ask(request).await {
                                Ok(reply) => break reply.outcome,
                                Err(Error::Silent(_)) => {}
                                Err(error) => panic!("{error}"),
                            }
                        };
                        assert!(outcome.is_banned(), "{outcome}");
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let took = line("client, warden, kernel", number, begun.elapsed());
        println!("{took}  (the warden holds {})", warden_memory().trim());
    });
    drop(runtime);
    process.wait().unwrap();
}

/// What the warden's memory is, as the kernel says it.
fn warden_memory() -> String {
    let status = |entry: fs::DirEntry| {
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        // The kernel cuts a name off after 15 bytes.
        let ours = status.lines().next()?.ends_with("rblfilter-warde");
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        ours.then(|| line.trim_start_matches("VmRSS:").to_owned())
    };
    let mut processes = fs::read_dir("/proc").unwrap().flatten();
    processes.find_map(status).unwrap_or_default()
}
