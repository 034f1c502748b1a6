//! `lab demo`: the same wave on a Courier without rblfilter and on one with it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rblfilter_lab::wave::{Tally, Wave};
use rblfilter_lab::{Config, Error, Lab, Product};

const SLOTS: u32 = 300;
const BAR: usize = 38;
/// How often the slots are counted; what is printed is the most of two seconds.
const LOOK: Duration = Duration::from_millis(50);
const LINE: Duration = Duration::from_secs(2);

/// What one run showed.
struct Run {
    slots: Vec<usize>,
    tally: Arc<Tally>,
    bans: usize,
    kills: u64,
}

/// Runs both and prints what they show.
pub fn run(installer: PathBuf, programs: PathBuf, seconds: u64) -> Result<(), Error> {
    let found = |path: PathBuf| {
        std::path::absolute(&path)
            .map_err(|error| Error::Load(format!("{}: {error}", path.display())))
    };
    let product = Product {
        installer: found(installer)?,
        programs: found(programs)?,
    };
    let wave = Wave {
        spam_rate: 40,
        spam_addresses: 400,
        hold: Duration::from_secs(60),
        mail_rate: 4,
        patience: Duration::from_secs(5),
        length: Duration::from_secs(seconds),
    };
    println!(
        "A real Courier with {SLOTS} connection slots, alone in private namespaces.\n\
         Each second {} listed clients connect, send a whole message and then stay\n\
         silent; beside them {} legitimate messages a second, 5 s patience.\n",
        wave.spam_rate, wave.mail_rate
    );
    let without = phase("without rblfilter", &wave, None)?;
    let with = phase("with rblfilter", &wave, Some(&product))?;
    table(&without, &with);
    Ok(())
}

fn phase(title: &str, wave: &Wave, product: Option<&Product>) -> Result<Run, Error> {
    println!("{title}: connection slots in use, and messages accepted so far");
    let lab = Lab::start(Config {
        max_daemons: SLOTS,
        ..Config::default()
    })?;
    if let Some(product) = product {
        product.start(
            &lab,
            "[lookup]\nquery-non-global = true\n[[dnsbl]]\nzone = \"bl.test\"\n",
        )?;
    }
    let tally = Arc::new(Tally::default());
    let load = {
        let (wave, tally) = (wave.clone(), Arc::clone(&tally));
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.map(|runtime| runtime.block_on(wave.run(&tally)))
        })
    };
    let slots = watch(&lab, &load, &tally)?;
    let ended = load
        .join()
        .map_err(|_| Error::Load("the load generator panicked".into()))?;
    ended.map_err(|error| Error::Load(error.to_string()))?;
    println!();
    let bans = if product.is_some() {
        lab.set_members("rblfilter4")?.len()
    } else {
        0
    };
    Ok(Run {
        slots,
        tally,
        bans,
        kills: kills(&lab),
    })
}

/// Prints a line every two seconds while the load runs; returns each line's peak.
fn watch(
    lab: &Lab,
    load: &thread::JoinHandle<std::io::Result<()>>,
    tally: &Tally,
) -> Result<Vec<usize>, Error> {
    let begun = Instant::now();
    let mut peaks = Vec::new();
    while !load.is_finished() {
        let mut peak = 0;
        let line = Instant::now() + LINE;
        while Instant::now() < line && !load.is_finished() {
            let used = lab
                .slots_used()
                .map_err(|e| Error::Load(format!("couriertcpd: {e}")))?;
            peak = peak.max(used);
            thread::sleep(LOOK);
        }
        peaks.push(peak);
        println!(
            "{:>4} s  {:<BAR$} {peak:>3}   spam {:>4}   mail {:>3} of {}",
            begun.elapsed().as_secs(),
            "█".repeat((peak * BAR).div_ceil(SLOTS as usize).min(BAR)),
            load_of(&tally.spam_accepted),
            load_of(&tally.mail_accepted),
            load_of(&tally.mail_sent),
        );
    }
    Ok(peaks)
}

fn load_of(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// The processes that the filter's log lines say it ended.
fn kills(lab: &Lab) -> u64 {
    let killed = |line: &String| line.rsplit_once(",killed=")?.1.parse::<u64>().ok();
    lab.log_matching(",killed=").iter().filter_map(killed).sum()
}

fn table(without: &Run, with: &Run) {
    let row = |name: &str, value: &dyn Fn(&Run) -> String| {
        println!("  {name:<34}{:>16}{:>16}", value(without), value(with));
    };
    let of =
        |part: &AtomicU64, whole: &AtomicU64| format!("{} of {}", load_of(part), load_of(whole));
    println!("  {:<34}{:>16}{:>16}", "", "without", "with rblfilter");
    row("slots in use, peak", &|run| {
        format!("{} of {SLOTS}", run.slots.iter().max().unwrap_or(&0))
    });
    row("spam accepted", &|run| {
        of(&run.tally.spam_accepted, &run.tally.spam_sent)
    });
    row("connections dropped by the kernel", &|run| {
        load_of(&run.tally.spam_unanswered).to_string()
    });
    row("legitimate mail accepted", &|run| {
        of(&run.tally.mail_accepted, &run.tally.mail_sent)
    });
    row("addresses banned", &|run| run.bans.to_string());
    row("processes ended", &|run| run.kills.to_string());
}
