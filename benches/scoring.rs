//! What judging a client costs whose answers are in the cache: at most 2 µs.
//!
//! `cargo bench --bench scoring`
#![allow(missing_docs, clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use rblfilter::config;
use rblfilter::dnsbl::{Evidence, Lists, Met};

fn main() {
    divan::main();
}

const TOML: &str = include_str!("../courierfilter/rblfilter.toml");

/// The sample's lists with answers for this client in the cache, read from a
/// file that lists without self-tests wrote.
fn cached(client: IpAddr) -> Arc<Lists> {
    let toml = TOML
        .replace("self-test = true", "self-test = false")
        .replace("trust = {", "self-test = false\ntrust = {");
    let config = config::parse(&toml).unwrap();
    let (lists, _notices) = Lists::new(
        config.zones,
        config.resolver,
        config.cache,
        config.thresholds,
    );
    lists.learn(0, client, &[Ipv4Addr::new(127, 0, 0, 3)]);
    lists.learn(1, client, &[]);
    lists
}

/// From the client's address to the evidence and the level.
#[divan::bench]
fn cached_client(bencher: divan::Bencher) {
    let client: IpAddr = "203.0.113.9".parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let lists = cached(client);
    let thresholds = config::parse(TOML).unwrap().thresholds;
    let evidence = runtime.block_on(lists.ask(client, vec![]));
    assert_eq!(evidence.listings.len(), 1, "{evidence:?}");
    let _inside = runtime.enter();
    bencher.bench_local(|| {
        // All is known, so the first poll is the last.
        let mut asking = std::pin::pin!(lists.ask(divan::black_box(client), vec![]));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match asking.as_mut().poll(&mut context) {
            std::task::Poll::Ready(evidence) => thresholds.level(evidence.tally),
            std::task::Poll::Pending => unreachable!("it is in the cache"),
        }
    });
}

/// The rules alone.
#[divan::bench]
fn rules(bencher: divan::Bencher) {
    let config = config::parse(TOML).unwrap();
    let codes = [Ipv4Addr::new(127, 0, 0, 3), Ipv4Addr::new(127, 0, 0, 10)];
    bencher.bench_local(|| {
        let rules = config.zones[0].rules();
        let met = Met::of(divan::black_box(&codes), rules);
        config
            .thresholds
            .level(Evidence::default().tally.with(met.score(rules)))
    });
}
