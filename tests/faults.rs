//! Whatever fails, under a wave: no message is lost or duplicated, nobody is wrongly ended, and all is normal again.
//! The faults are the table of `lab faults`, here with less load.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::product;
use rblfilter_lab::faults::{self, Row, scenario};
use rblfilter_lab::soak;

/// Does one fault; what must be true of each was.
fn after(name: &str) -> Row {
    let all = scenario::all();
    let fault = all.iter().find(|one| one.name == name).unwrap();
    let row = faults::run(fault, &faults::plan(product(), true)).unwrap();
    let complaints = row.complaints();
    assert!(complaints.is_empty(), "{complaints:?}: {row:#?}");
    let by_itself = matches!(fault.lasts, scenario::Lasts::UntilOver(_));
    assert!(!(by_itself && row.mended), "not over by itself: {row:#?}");
    assert!(row.offered > 20 && row.listed[0] > 80, "{row:#?}");
    row
}

macro_rules! faults {
    ($($test:ident: $name:literal),* $(,)?) => {
        $(#[test]
        fn $test() {
            after($name);
        })*

        const TESTED: &[&str] = &[$($name),*];
    };
}

faults! {
    a_killed_worker_costs_no_message: "worker-killed",
    a_killed_warden_costs_no_message: "warden-killed",
    a_killed_supervisor_costs_no_message: "supervisor-killed",
    a_stopped_worker_costs_no_message: "worker-stopped",
    a_stopped_warden_costs_no_message: "warden-stopped",
    a_stopped_supervisor_disturbs_nobody: "supervisor-stopped",
    a_worker_without_descriptors_costs_no_message: "descriptors",
    a_filter_out_of_memory_costs_no_message: "memory",
    a_full_disk_costs_no_message_and_no_ban: "disk-full",
    a_dead_dns_server_costs_no_message: "dns-dead",
    a_slow_dns_server_costs_no_message: "dns-slow",
    a_lying_dns_server_is_found_out: "dns-lying",
    a_hijacked_dns_convicts_nobody: "dns-hijacked",
    destroyed_sets_are_made_anew: "sets-destroyed",
    emptied_sets_are_filled_again: "sets-flushed",
    a_flushed_iptables_costs_no_message: "iptables-flushed",
    a_flushed_nftables_costs_no_message: "nft-flushed",
    a_syslogd_that_is_gone_holds_up_nobody: "syslog-gone",
    a_clock_that_jumps_ahead_ends_no_ban: "clock-forward",
    a_clock_that_jumps_back_ends_no_ban: "clock-back",
    couriertcpd_can_be_restarted: "couriertcpd",
    courierd_can_be_restarted: "courierd",
    courierfilter_can_be_restarted: "courierfilter",
    the_filter_can_be_restarted: "filter-restarted",
    a_configuration_of_garbage_costs_no_message: "config-garbage",
    the_filter_can_be_reloaded: "reload",
    a_reload_of_garbage_costs_no_message: "reload-garbage",
}

#[test]
fn each_fault_of_the_table_is_tested() {
    let names: Vec<_> = scenario::all().iter().map(|one| one.name).collect();
    assert_eq!(TESTED, names);
}

#[test]
fn nothing_grows_in_two_minutes_of_a_mixed_wave() {
    let figures = soak::run(&product(), Duration::from_secs(120), &|_| {}).unwrap();
    let complaints = figures.complaints();
    assert!(complaints.is_empty(), "{complaints:?}: {figures:#?}");
    assert!(figures.samples >= 8 && figures.banned > 50, "{figures:#?}");
    assert!(
        figures.mail[0] > 100 && figures.spam[0] > 500,
        "{figures:#?}"
    );
}
