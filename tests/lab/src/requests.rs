//! `lab requests`: how long filters take to answer, one after the other and driven in the same way.
//!
//! A filter may ask who its peer is, so the requests come from where Courier's do: a process `submit`, child of a
//! `courieresmtpd`, child of a `couriertcpd`, all of Courier's user. All three are copies of this program under those
//! names, see [`mod@drive`]; the real couriertcpd of the lab knows nothing of them.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use nix::unistd::User;
use rblfilter_lab::{Config, Error, Lab, Product, wait_for};
use serde::Serialize;

use crate::drive::{self, Answered};

const FOLDER: &str = "/run/lab/drive";
const CONTROL: &str = "/run/lab/drive/control";
const DATA: &str = "/run/lab/drive/data";
const LIMIT: std::time::Duration = std::time::Duration::from_secs(10);
/// As Courier writes it for an unlisted client; the folder `tests/data/control` has recorded ones.
const RECORDS: &str = "sbob@client.test\nfdns; client.test (softdnserr [::ffff:127.1.2.3])\ne\nt\n\
M00000000000B8023.000000006B047E68.00000F96\nralice@lab.test\nR\nN\nOTCPREMOTEIP=::ffff:127.1.2.3\nusmtp\n\
E1796061416\np1795485416\nW1795471016\nT\n";
const MESSAGE: &str =
    "From: <bob@client.test>\nTo: alice@lab.test\nSubject: a test\n\nHello Alice.\n";

/// Measure how fast filters answer: Courier's ratefilter and rblfilter.
#[derive(Args)]
pub struct Options {
    /// Requests, for each filter and each way.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,
    /// How many at a time, the second way.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=64))]
    in_flight: u32,
    /// Print JSON, not a table.
    #[arg(long)]
    json: bool,
    /// install.sh of the checkout.
    #[arg(long, default_value = "install.sh")]
    install: PathBuf,
    /// The folder with the built programs.
    #[arg(long, default_value = "target/release")]
    programs: PathBuf,
}

/// What one filter did.
#[derive(Serialize)]
struct Row {
    filter: &'static str,
    one_by_one: Answered,
    in_flight: Answered,
}

/// Runs it and prints what it shows.
pub fn run(options: &Options) -> Result<(), Error> {
    let found = |path: &Path| {
        std::path::absolute(path).map_err(|e| Error::Load(format!("{}: {e}", path.display())))
    };
    let product = Product {
        installer: found(&options.install)?,
        programs: found(&options.programs)?,
    };
    // In the lab there is no /proc/self.
    let own = std::env::current_exe().map_err(|e| Error::Load(e.to_string()))?;
    let lab = Lab::start(Config::default())?;
    prepare(&lab, &own)?;

    lab.append_config("filters/ratefilter-mode", "all\n")?;
    lab.run_ok(&["filterctl", "start", "ratefilter"])?;
    let theirs = measure(&lab, "ratefilter", options)?;
    lab.run_ok(&["filterctl", "stop", "ratefilter"])?;

    product.start(
        &lab,
        "[lookup]\nquery-non-global = true\n[[dnsbl]]\nzone = \"bl.test\"\n",
    )?;
    let ours = measure(&lab, "rblfilter", options)?;
    // A peer that it could not tell is accepted without being judged: that would be no measure.
    if let Some(line) = lab.log_matching("unidentified").first() {
        return Err(Error::Load(format!("rblfilter did not judge: {line}")));
    }
    print(&[theirs, ours], options)
}

fn prepare(lab: &Lab, own: &Path) -> Result<(), Error> {
    let failed = |object: &str| {
        let object = object.to_owned();
        move |source| Error::Io {
            operation: "write",
            object,
            source,
        }
    };
    fs::create_dir(FOLDER).map_err(failed(FOLDER))?;
    for name in [drive::LISTENER, drive::SESSION, drive::SUBMIT] {
        let place = format!("{FOLDER}/{name}");
        fs::copy(own, &place).map_err(failed(&place))?;
        lab.run_ok(&["chmod", "0755", &place])?;
    }
    fs::write(CONTROL, RECORDS).map_err(failed(CONTROL))?;
    fs::write(DATA, MESSAGE).map_err(failed(DATA))
}

fn measure(lab: &Lab, filter: &'static str, options: &Options) -> Result<Row, Error> {
    let folders = ["allfilters", "filters"].map(|it| format!("/var/lib/courier/{it}/{filter}"));
    let socket = wait_for(LIMIT, || {
        folders.iter().find(|socket| Path::new(socket).exists())
    });
    let socket = socket.ok_or_else(|| Error::Timeout {
        what: format!("the socket of {filter}"),
        limit: LIMIT,
    })?;
    // The first ones ask the lists and fill caches.
    drive(lab, socket, 200, 1)?;
    Ok(Row {
        filter,
        one_by_one: drive(lab, socket, options.count, 1)?,
        in_flight: drive(lab, socket, options.count, options.in_flight)?,
    })
}

fn drive(lab: &Lab, socket: &str, count: u32, in_flight: u32) -> Result<Answered, Error> {
    let failed = |text: String| Error::Load(format!("requests to {socket}: {text}"));
    let user = User::from_name("courier")
        .ok()
        .flatten()
        .ok_or_else(|| failed("there is no user courier".into()))?;
    let mut command = lab.command(format!("{FOLDER}/{}", drive::LISTENER));
    command
        .args([FOLDER, socket, DATA, CONTROL])
        .args([count.to_string(), in_flight.to_string()])
        .user(user.uid.as_raw(), user.gid.as_raw())
        .current_dir("/var/lib/courier");
    let output = command.output().map_err(|e| failed(e.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(failed(format!("{}: {text}{errors}", output.status)));
    }
    serde_json::from_str(text.trim()).map_err(|e| failed(format!("{e}: {text:?}")))
}

fn print(rows: &[Row], options: &Options) -> Result<(), Error> {
    if options.json {
        let text = serde_json::to_string_pretty(rows).map_err(|e| Error::Load(e.to_string()))?;
        println!("{text}");
        return Ok(());
    }
    println!(
        "| filter | one by one, ms p50 / p99 | requests/s | {} in flight, ms p50 / p99 | requests/s | reply |\n\
         |---|---|---|---|---|---|",
        options.in_flight
    );
    for row in rows {
        let (one, many) = (&row.one_by_one, &row.in_flight);
        println!(
            "| {} | {:.3} / {:.3} | {:.0} | {:.3} / {:.3} | {:.0} | {} |",
            row.filter,
            one.p50_ms,
            one.p99_ms,
            one.per_second,
            many.p50_ms,
            many.p99_ms,
            many.per_second,
            many.reply
        );
    }
    Ok(())
}
