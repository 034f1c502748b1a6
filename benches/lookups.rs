//! Distinct look-ups a second against a local rbldnsd, beside a bare hickory
//! loop on the same machine in the same run; and what a cached verdict takes.
//!
//! `cargo bench --bench lookups` (loopback alone; takes some seconds)
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RecordType};
use nix::sys::time::TimeValLike;
use rblfilter::config;
use rblfilter::dnsbl::{Answer, Cache, Entry, Key, Lists};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

const LOOKUPS: u32 = 20_000;
const AT_ONCE: usize = 512;
const MILLION: u32 = 1_000_000;

/// Ended with the benchmark; the only process that it starts.
struct Rbldnsd(Child);

impl Drop for Rbldnsd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() {
    let folder = std::env::temp_dir().join(format!("rblfilter-bench-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    fs::write(
        folder.join("four"),
        ":127.0.0.2:Listed\n127.0.0.2\n10.0.0.0/12\n",
    )
    .unwrap();
    // A port that is free now.
    let port = UdpSocket::bind("127.0.0.1:0")
        .and_then(|socket| socket.local_addr())
        .unwrap()
        .port();
    let child = Command::new("rbldnsd")
        .args(["-n", "-b", &format!("127.0.0.1/{port}"), "-r"])
        .arg(&folder)
        .args(["-u", "nobody", "bl.test:ip4set:four"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(child) = child else {
        println!("rbldnsd is missing: no look-ups measured");
        bytes();
        return;
    };
    let _server = Rbldnsd(child);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let text = format!(
            "lookup.query-non-global = true\nlookup.nameservers = [\"127.0.0.1:{port}\"]\n[[dnsbl]]\nzone = \"bl.test\"\nipv6 = false\n"
        );
        let resolver = bare(port);
        answering(&resolver).await;
        for round in 1..=3_u32 {
            let base = Ipv4Addr::new(10, 0, 0, 0).to_bits() + round * LOOKUPS;
            let bare = rate(|host| {
                let resolver = resolver.clone();
                async move {
                    let [a, b, c, d] = Ipv4Addr::from(base + host).octets();
                    let name = Name::from_ascii(format!("{d}.{c}.{b}.{a}.bl.test.")).unwrap();
                    resolver.lookup(name, RecordType::A).await.is_ok()
                }
            })
            .await;
            let config = config::parse(&text).unwrap();
            let (lists, _notices) = Lists::new(
                config.zones,
                config.resolver,
                config.cache,
                config.thresholds,
            );
            let testing = tokio::spawn(Arc::clone(&lists).keep_tested());
            lists.ask("10.15.0.1".parse().unwrap(), vec![]).await;
            let ours = rate(|host| {
                let lists = Arc::clone(&lists);
                async move {
                    let client = IpAddr::V4(Ipv4Addr::from(base + host));
                    let evidence = lists.ask(client, vec![]).await;
                    !evidence.listings.is_empty()
                }
            })
            .await;
            testing.abort();
            println!(
                "round {round}: rblfilter {:.0} look-ups/s, {:.0} a second of processor time; bare hickory loop {:.0}, {:.0}; {:.2} times its time, {:.2} times its processor time",
                ours.by_clock,
                ours.by_processor,
                bare.by_clock,
                bare.by_processor,
                bare.by_clock / ours.by_clock,
                bare.by_processor / ours.by_processor
            );
        }
    });
    let _ = fs::remove_dir_all(&folder);
    bytes();
}

fn bare(port: u16) -> TokioResolver {
    let mut server = NameServerConfig::udp_and_tcp(Ipv4Addr::LOCALHOST.into());
    for connection in &mut server.connections {
        connection.port = port;
    }
    let config = ResolverConfig::from_name_servers(vec![server]);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    options.cache_size = 0;
    options.max_active_requests = AT_ONCE;
    options.timeout = Duration::from_secs(2);
    builder.build().unwrap()
}

async fn answering(resolver: &TokioResolver) {
    let name = Name::from_ascii("2.0.0.127.bl.test.").unwrap();
    for _ in 0..100 {
        if resolver.lookup(name.clone(), RecordType::A).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("rbldnsd does not answer");
}

/// Listed answers a second, by the clock and by this process's processor time,
/// which a busy machine disturbs less.
struct Rate {
    by_clock: f64,
    by_processor: f64,
}

fn processor_seconds() -> f64 {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).unwrap();
    let seconds = |time: nix::sys::time::TimeVal| {
        Duration::from_micros(u64::try_from(time.num_microseconds()).unwrap()).as_secs_f64()
    };
    seconds(usage.user_time()) + seconds(usage.system_time())
}

async fn rate<F: Future<Output = bool> + Send + 'static>(look: impl Fn(u32) -> F) -> Rate {
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = JoinSet::new();
    let (begun, processor) = (Instant::now(), processor_seconds());
    for host in 0..LOOKUPS {
        let turn = Arc::clone(&turns).acquire_owned().await.unwrap();
        let look = look(host);
        tasks.spawn(async move {
            let listed = look.await;
            drop(turn);
            u32::from(listed)
        });
    }
    let listed: u32 = tasks.join_all().await.into_iter().sum();
    assert!(listed > LOOKUPS * 99 / 100, "{listed} of {LOOKUPS}");
    Rate {
        by_clock: f64::from(listed) / begun.elapsed().as_secs_f64(),
        by_processor: f64::from(listed) / (processor_seconds() - processor),
    }
}

/// What the process grows by with a million cached verdicts.
fn bytes() {
    let resident = || {
        let me = procfs::process::Process::myself().unwrap();
        me.statm().unwrap().resident * procfs::page_size()
    };
    let config = config::parse("cache.entries = 1100000").unwrap();
    let before = resident();
    let cache = Cache::new(config.cache);
    let empty = resident();
    let entry = Entry::new(&Answer::NotListed, None, 1000, &config.cache).unwrap();
    for client in 0..MILLION {
        cache.insert(Key::new(1, Ipv4Addr::from(client).into()), entry);
    }
    let held = u64::try_from(cache.iter().count()).unwrap();
    let grown = resident() - before;
    println!(
        "{held} cached verdicts take {grown} bytes resident, {} each (an empty cache: {})",
        grown / held,
        empty - before
    );
}
