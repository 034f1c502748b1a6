//! `lab wave`: the benchmark.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use rblfilter_lab::stub::Answer;
use rblfilter_lab::wave::bench::{Guard, Plan};
use rblfilter_lab::wave::figures::{Figures, HEAD};
use rblfilter_lab::wave::{Kind, Wave, suite};
use rblfilter_lab::{Error, Product};

use crate::SpacesOption;

/// How long a run of the suite lasts, and a short one.
const SECONDS: u64 = 20;
const SHORT_SECONDS: u64 = 8;
/// No run may go on for longer.
const MOST_SECONDS: u64 = 600;
const MOST_RATE: u32 = 5000;

#[derive(Clone, Copy, ValueEnum)]
enum KindOption {
    /// Connect, then silence.
    Banner,
    /// EHLO, MAIL, RCPT, then silence.
    Hang,
    /// A whole message, then silence.
    Data,
    /// As hang, and each address comes back at once, for ever.
    Return,
    /// First packets of connections alone.
    Syn,
}

#[derive(Clone, Copy, ValueEnum)]
enum GuardOption {
    /// Nothing; no list is asked.
    None,
    /// Courier's BLOCK: 511 at RCPT.
    Block,
    /// couriertcpd's -drop.
    Drop,
    /// rblfilter with a list of its own.
    Rblfilter,
    /// The same with the gate.
    Gate,
    /// rblfilter by Courier's BLOCK.
    RblfilterBlock,
}

/// Send a wave at a Courier, and measure.
#[derive(Args)]
pub struct Options {
    /// What a spammer does.
    #[arg(long, value_enum, default_value_t = KindOption::Hang)]
    kind: KindOption,
    /// Spammers each second.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(..=i64::from(MOST_RATE)))]
    rate: u32,
    /// How long one stays connected, in seconds.
    #[arg(long, default_value_t = 30)]
    hold: u64,
    /// How many addresses they have. [default: 60000; 200 for return]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=131_072))]
    addresses: Option<u32>,
    /// Over how many /24 they are spread, one after the other. [default: each is filled before the next]
    #[arg(long, default_value_t = 0, hide_default_value = true, value_parser = clap::value_parser!(u32).range(..=256))]
    networks: u32,
    /// How many of a hundred of them the list names.
    #[arg(long, default_value_t = 100, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(..=100))]
    share_listed: u32,
    /// They come over IPv6 (private namespaces alone).
    #[arg(long)]
    ipv6: bool,
    /// How long sessions are begun. [default: 20; 8 with --short]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=MOST_SECONDS))]
    seconds: Option<u64>,
    /// Legitimate messages each second.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(..=200))]
    mail_rate: u32,
    /// How long a legitimate sender waits at each step, in seconds.
    #[arg(long, default_value_t = 30)]
    patience: u64,
    /// MAXDAEMONS.
    #[arg(long, default_value_t = 300)]
    slots: u32,
    /// Who answers for the list: "rbldnsd", "slow:SECONDS", or "silent".
    #[arg(long, default_value = "rbldnsd", value_parser = list)]
    dns: List,
    /// Nobody answers for the names of clients.
    #[arg(long)]
    ptr_silent: bool,
    /// couriertcpd's -nodnslookup.
    #[arg(long)]
    nodnslookup: bool,
    /// What keeps the spammers from the slots.
    #[arg(long, value_enum, default_value_t = GuardOption::Rblfilter)]
    guard: GuardOption,
    /// Where: the kernel tells rblfilter of sessions in the machine's namespaces alone.
    #[arg(long, value_enum, default_value_t = SpacesOption::Private)]
    spaces: SpacesOption,
    /// How long the idle filter is measured before, in seconds.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(..=120))]
    idle: u64,
    /// The rows of docs/performance.md instead, each guard side by side, as a Markdown table.
    #[arg(long)]
    suite: bool,
    /// Of these, the one of this name alone.
    #[arg(long, value_name = "ROW", requires = "suite")]
    only: Vec<String>,
    /// Shorter runs.
    #[arg(long)]
    short: bool,
    /// Write all figures there as JSON, too; "-" is standard output, in the place of the table.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The keys of rblfilter.toml's section firewall, such as 'limit = "100/second"', with their rules also where no
    /// rblfilter runs (private namespaces alone).
    #[arg(long, value_name = "KEYS")]
    limits: Option<String>,
    /// More of rblfilter.toml: keys before tables.
    #[arg(long, value_name = "EXTRA", default_value = "")]
    toml: String,
    /// install.sh of the checkout.
    #[arg(long, default_value = "install.sh")]
    install: PathBuf,
    /// The folder with the built programs.
    #[arg(long, default_value = "target/release")]
    programs: PathBuf,
}

/// None is a real rbldnsd.
#[derive(Clone, Copy)]
struct List(Option<Answer>);

fn list(text: &str) -> Result<List, String> {
    let answer = match text {
        "rbldnsd" => None,
        "silent" => Some(Answer::Never),
        _ => {
            let seconds: Option<f64> = text.strip_prefix("slow:").and_then(|s| s.parse().ok());
            let delay = seconds.and_then(|s| Duration::try_from_secs_f64(s).ok());
            let delay = delay.ok_or("expected rbldnsd, slow:SECONDS or silent")?;
            Some(Answer::After(delay))
        }
    };
    Ok(List(answer))
}

impl Options {
    fn plan(&self) -> Result<Plan, Error> {
        let found = |path: &Path| {
            std::path::absolute(path)
                .map_err(|error| Error::Load(format!("{}: {error}", path.display())))
        };
        if self.ipv6 && matches!(self.spaces, SpacesOption::Machine) {
            let text = "--ipv6 needs --spaces private: the machine's network is left as it is";
            return Err(Error::Load(text.into()));
        }
        let kind = match self.kind {
            KindOption::Banner => Kind::Banner,
            KindOption::Hang => Kind::Hang,
            KindOption::Data => Kind::Data,
            KindOption::Return => Kind::Return,
            KindOption::Syn => Kind::Syn,
        };
        let addresses = if kind == Kind::Return { 200 } else { 60_000 };
        let seconds = if self.short { SHORT_SECONDS } else { SECONDS };
        Ok(Plan {
            wave: Wave {
                kind,
                rate: self.rate,
                addresses: self.addresses.unwrap_or(addresses),
                networks: self.networks,
                listed_percent: self.share_listed,
                ipv6: self.ipv6,
                hold: Duration::from_secs(self.hold),
                mail_rate: self.mail_rate,
                patience: Duration::from_secs(self.patience),
                length: Duration::from_secs(self.seconds.unwrap_or(seconds)),
                ..Wave::default()
            },
            guard: match self.guard {
                GuardOption::None => Guard::None,
                GuardOption::Block => Guard::Block,
                GuardOption::Drop => Guard::Drop,
                GuardOption::Rblfilter => Guard::Rblfilter,
                GuardOption::Gate => Guard::Gate,
                GuardOption::RblfilterBlock => Guard::RblfilterBlock,
            },
            spaces: self.spaces.into(),
            list: self.dns.0,
            names_silent: self.ptr_silent,
            no_names: self.nodnslookup,
            slots: self.slots,
            idle: Duration::from_secs(self.idle),
            product: Product {
                installer: found(&self.install)?,
                programs: found(&self.programs)?,
            },
            toml: self.toml.clone(),
            limits: self.limits.clone(),
            kill_gate: None,
            all_to_queue: false,
        })
    }

    /// Runs what the options say.
    pub fn run(&self) -> Result<(), Error> {
        let plan = self.plan()?;
        let json_only = self.json.as_deref() == Some(Path::new("-"));
        let all = if self.suite {
            self.suite(&plan, json_only)?
        } else {
            let figures = plan.run()?;
            if !json_only {
                print!("{}", figures.list());
            }
            vec![figures]
        };
        let Some(path) = &self.json else {
            return Ok(());
        };
        let text = serde_json::to_string_pretty(&all).map_err(|e| Error::Load(e.to_string()))?;
        if json_only {
            println!("{text}");
            return Ok(());
        }
        fs::write(path, text + "\n").map_err(|source| Error::Io {
            operation: "write",
            object: path.display().to_string(),
            source,
        })
    }

    fn suite(&self, model: &Plan, json_only: bool) -> Result<Vec<Figures>, Error> {
        let rows = suite::rows(model);
        let names: Vec<&str> = rows.iter().map(|row| row.name).collect();
        if let Some(unknown) = self
            .only
            .iter()
            .find(|name| !names.contains(&name.as_str()))
        {
            return Err(Error::Load(format!(
                "no row {unknown:?}: there are {}",
                names.join(", ")
            )));
        }
        if !json_only {
            println!("{HEAD}");
        }
        let mut all = Vec::new();
        for row in rows {
            if !self.only.is_empty() && !self.only.iter().any(|name| name == row.name) {
                continue;
            }
            for plan in &row.plans {
                let figures = plan.run()?;
                if !json_only {
                    println!("{}", figures.markdown(row.title));
                }
                all.push(figures);
            }
        }
        Ok(all)
    }
}
