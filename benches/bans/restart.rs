//! A restart of the filter with an emptied set: until all bans of its file are in the kernel again.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use rblfilter_lab::{Config, Lab, Product};
use rusqlite::Connection;

use super::{address, line};

const STATE: &str = "/var/lib/courier/rblfilter/state.db";
/// One that is there already, like which the others are made.
const MODEL: Ipv4Addr = Ipv4Addr::new(127, 9, 9, 9);
const LIMIT: Duration = Duration::from_secs(60);

/// The row of one backend.
pub fn row(product: &Product, backend: &str, number: u32) -> String {
    let lab = Lab::start(Config::default()).unwrap();
    let toml = format!("watch = \"off\"\n[ban]\nbackend = \"{backend}\"\n");
    product.start(&lab, &toml).unwrap();
    let ban = format!("until rblfilter ban {MODEL} --for 2h; do sleep 0.1; done");
    lab.run_ok(&["timeout", "20", "sh", "-c", &ban]).unwrap();
    product.filterctl_stop(&lab).unwrap();
    fill(number);
    lab.run_ok(&["rblfilter", "firewall", "remove"]).unwrap();
    lab.run_ok(&["rblfilter", "firewall", "apply"]).unwrap();
    lab.clear_log();
    let begun = Instant::now();
    product.filterctl_start(&lab).unwrap();
    let all = number + 1;
    let told = format!("restored,bans={all},of={all},");
    lab.wait_for_log(&told, LIMIT).unwrap();
    let at = lab.log().into_iter().find(|line| line.text.contains(&told));
    let took = at.unwrap().at - begun;
    format!(
        "{}  ({number} bans)",
        line("rblfilter, restarted", number, took)
    )
}

/// Writes the bans into the file, like the one that it has.
fn fill(number: u32) {
    let mut connection = Connection::open(STATE).unwrap();
    let columns: Vec<String> = {
        let mut statement = connection
            .prepare("SELECT name FROM pragma_table_info('bans')")
            .unwrap();
        let names = statement.query_map([], |row| row.get(0)).unwrap();
        names.map(Result::unwrap).collect()
    };
    let value = |name: &String| match name.as_str() {
        "network" => "?1".to_owned(),
        "client" => "?2".to_owned(),
        other => other.to_owned(),
    };
    let values: Vec<String> = columns.iter().map(value).collect();
    let insert = format!(
        "INSERT INTO bans SELECT {} FROM bans WHERE network = ?3",
        values.join(", ")
    );
    let transaction = connection.transaction().unwrap();
    {
        let mut statement = transaction.prepare(&insert).unwrap();
        for number in 0..number {
            let client = address(number);
            let row = (
                format!("{client}/32"),
                client.to_string(),
                format!("{MODEL}/32"),
            );
            statement.execute(row).unwrap();
        }
    }
    transaction.commit().unwrap();
}
