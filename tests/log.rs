//! What a wave leaves in the log: every event, by itself or in a sum.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::*;
use rblfilter_lab::{Config, Lab, wait_for};

/// Five lines of a kind at once, then one a second.
const FEW: &str = "[log]\nlines-per-second = 1\n";
const CLIENTS: usize = 40;

/// The number behind `key=` in a line.
fn number(line: &str, key: &str) -> usize {
    let (_, value) = line.split_once(&format!(",{key}=")).unwrap();
    value.split(',').next().unwrap().parse().unwrap()
}

fn ours(lab: &Lab, part: &str) -> Vec<String> {
    let mut lines = lab.log_matching(part);
    lines.retain(|line| line.starts_with("rblfilter["));
    lines
}

#[test]
fn a_wave_is_summed_up_and_each_refusal_told() {
    // At connect: most are in a sum.
    let lab = lab(Config::default(), &format!("{FEW}{ZONE}"));
    let mut clients: Vec<_> = (1..=CLIENTS)
        .map(|host| lab.connect(ip(&format!("127.66.7.{host}"))).unwrap())
        .collect();
    let all = || (lab.set_members("rblfilter4").unwrap().len() == CLIENTS).then_some(());
    wait_for(4 * LIMIT, all).expect("all are banned");
    for client in &mut clients {
        // The greeting may have come before the end.
        while lab.block_on(client.read_reply()).is_ok() {}
    }
    product().filterctl_stop(&lab).unwrap();
    let written = ours(&lab, "listed,ip=");
    assert!(written.len() >= 5, "the first are told: {written:?}");
    let sums = ours(&lab, ": summed,event=listed,at=connect,action=");
    let summed: usize = sums.iter().map(|line| number(line, "lines")).sum();
    assert!(
        summed > 0 && written.len() + summed == CLIENTS,
        "{written:?} {sums:?}"
    );
    drop(lab);

    // At the end of data: each is told by its address.
    let lab = self::lab(Config::default(), &format!("watch = \"off\"\n{FEW}{ZONE}"));
    for host in 1..=12 {
        let source = format!("127.66.8.{host}");
        assert!(!lab.send(&message(), ip(&source)).accepted());
        let told = format!("listed,ip=[::ffff:{source}],");
        lab.wait_for_log(&told, LIMIT).unwrap();
    }
    assert!(ours(&lab, ": summed,event=listed").is_empty());
}
