//! Faults under a wave: each is done to a running lab in which listed clients come, others come who are to be left
//! alone, and mail is sent; and it is told what became of all of them, and when all was normal again.
//!
//! What is counted is what the clients saw and what is in the mailbox: a message is lost when it never arrived although
//! its sender tried again as a real one does; a session is wrongly ended when a client that no list names saw its
//! connection closed, or when rblfilter's log says so.

pub mod mail;
pub mod memory;
pub mod normal;
mod process;
pub mod report;
mod restart;
pub mod scenario;
pub mod stage;
mod surroundings;
pub mod visits;

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::{Config, Error, Product};
use memory::MemoryGroup;
use scenario::{Lasts, Scenario};
use stage::{Plan, Stage};

/// How long all may take to be normal before the fault, and after it is mended.
const SETTLE: Duration = Duration::from_secs(60);

/// What one fault did. Times are in seconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// Which fault.
    pub name: String,
    /// In words.
    pub title: String,
    /// How long it was left; none: it was over at once.
    pub lasted_s: Option<f64>,
    /// Whether somebody had to mend it.
    pub mended: bool,
    /// Messages that were begun.
    pub offered: usize,
    /// Those that arrived.
    pub delivered: usize,
    /// Replies of 4xx; the sender tried again.
    pub tempfailed: u32,
    /// Tries that reached nobody; the sender tried again.
    pub unconnected: u32,
    /// Messages that never arrived.
    pub lost: usize,
    /// Messages that arrived more than once.
    pub duplicated: usize,
    /// Unlisted clients whose session was ended.
    pub wrongly_ended: Vec<IpAddr>,
    /// Clients that were ended on the word of a list before anything said that it lies.
    pub unaware: usize,
    /// Sessions that Courier itself has closed.
    pub closed_by_courier: usize,
    /// Listed clients, and how many of them were ended.
    pub listed: [usize; 2],
    /// Unlisted clients that came beside the mail's.
    pub bystanders: usize,
    /// How many addresses were banned before it, and how many of these are at the end.
    pub bans: [usize; 2],
    /// Whether they are lifted, as the documents say, where a list has failed on which they rest.
    pub lifts: bool,
    /// Whether a banned client gets no answer at the end; none where nobody is banned.
    pub kept_out: Option<bool>,
    /// From the fault to the end of the last trouble; none: it was not over in time.
    pub until_normal_s: Option<f64>,
    /// What the log says of rblfilter's state.
    pub said: Vec<String>,
    /// The mail's fate where the same is done without rblfilter.
    pub without: Option<Without>,
}

/// The same fault without rblfilter.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Without {
    /// Replies of 4xx.
    pub tempfailed: u32,
    /// Tries that reached nobody.
    pub unconnected: u32,
    /// Messages that never arrived.
    pub lost: usize,
    /// Messages that arrived more than once.
    pub duplicated: usize,
    /// Sessions that Courier has closed.
    pub closed_by_courier: usize,
    /// From the fault to the end of the last trouble.
    pub until_normal_s: Option<f64>,
}

impl Row {
    /// What is wrong with it, in words; none where it is as it must be.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        let mut all = Vec::new();
        let mut complain = |is: bool, text: String| {
            if is {
                all.push(text);
            }
        };
        complain(self.lost > 0, format!("{} messages lost", self.lost));
        complain(
            self.duplicated > 0,
            format!("{} messages duplicated", self.duplicated),
        );
        complain(
            !self.wrongly_ended.is_empty(),
            format!("wrongly ended: {:?}", self.wrongly_ended),
        );
        complain(
            self.until_normal_s.is_none(),
            format!("not normal within {} s", SETTLE.as_secs()),
        );
        complain(
            self.kept_out == Some(false),
            "a banned client is answered".to_owned(),
        );
        complain(
            self.bans[1] < self.bans[0] && !self.lifts,
            format!("{} of {} bans are left", self.bans[1], self.bans[0]),
        );
        all
    }
}

/// What is sent in the report, and in a test.
#[must_use]
pub fn plan(product: Product, short: bool) -> Plan {
    Plan {
        rate: if short { 20 } else { 50 },
        bystanders: 2,
        mail: if short { 5 } else { 8 },
        // So that fewer slots are taken than the slot guard begins at, also where nobody is ended.
        hold: Duration::from_secs(if short { 8 } else { 4 }),
        normal: Duration::from_millis(if short { 1500 } else { 3000 }),
        at_once: if short {
            normal::AT_ONCE_BUSY
        } else {
            normal::AT_ONCE
        },
        product,
    }
}

/// Does one fault. To be called outside of any lab.
///
/// # Errors
/// Where the lab, the load or the fault cannot be made.
pub fn run(scenario: &Scenario, plan: &Plan) -> Result<Row, Error> {
    let mut row = one(scenario, plan, true)?;
    if scenario.compared {
        let other = one(scenario, plan, false)?;
        row.without = Some(Without {
            tempfailed: other.tempfailed,
            unconnected: other.unconnected,
            lost: other.lost,
            duplicated: other.duplicated,
            closed_by_courier: other.closed_by_courier,
            until_normal_s: other.until_normal_s,
        });
    }
    Ok(row)
}

fn one(scenario: &Scenario, plan: &Plan, filter: bool) -> Result<Row, Error> {
    let mut config = Config::default();
    (scenario.config)(&mut config);
    // Made before there is a lab, whose /proc does not know this process.
    let memory = scenario.bounded.then(MemoryGroup::make).flatten();
    let (toml, prepare) = (scenario.toml(), scenario.prepare);
    let mut stage = Stage::start(plan, config, toml, filter, memory, prepare)?;
    let begun = Instant::now();
    if stage.until_normal(begun, SETTLE).is_none() {
        return Err(Error::Load(format!(
            "{}: not normal before the fault; {}",
            scenario.name,
            stage.said().join(", ")
        )));
    }
    stage.watch(scenario.after.saturating_sub(begun.elapsed()));
    let before: HashSet<IpAddr> = stage.banned();

    let fault = Instant::now();
    let mend = (scenario.inject)(&mut stage)?;
    let healed = match scenario.lasts {
        Lasts::AMoment => None,
        Lasts::For(time) => {
            stage.watch(time.saturating_sub(fault.elapsed()));
            None
        }
        Lasts::UntilOver(limit) => stage.until_normal(fault, limit),
    };
    let lasted = fault.elapsed();
    let mended = mend.done(&mut stage)? && healed.is_none();
    let normal = healed.or_else(|| stage.until_normal(Instant::now(), SETTLE));
    let mut until_normal = normal.map(|normal| stage.trouble(fault, normal));

    let kept = || before.intersection(&stage.banned()).count();
    let mut left = kept();
    if left < before.len() && !scenario.lifts {
        // A set that was emptied is filled again.
        if crate::wait_for(SETTLE, || (kept() == before.len()).then_some(())).is_some() {
            until_normal = until_normal.map(|_| fault.elapsed());
        }
        left = kept();
    }
    let kept_out = if filter && !scenario.lifts {
        stage.keeps_out()
    } else {
        None
    };
    let said = stage.said();
    let outcome = stage.finish()?;
    // Without rblfilter nobody but Courier closes a session.
    let by_courier = scenario.cuts || !filter;
    let unaware = if scenario.lies {
        outcome.unaware
    } else {
        BTreeSet::new()
    };
    let mut wrong: BTreeSet<IpAddr> = outcome.punished;
    let cut = outcome.cut.difference(&unaware).copied();
    let cut: BTreeSet<IpAddr> = cut.collect();
    let closed = cut.difference(&wrong).count();
    if !by_courier {
        wrong.extend(cut);
    }
    Ok(Row {
        name: scenario.name.to_owned(),
        title: scenario.title.to_owned(),
        lasted_s: match scenario.lasts {
            Lasts::AMoment => None,
            Lasts::For(_) => Some(tenths(lasted)),
            // It was over when the trouble was.
            Lasts::UntilOver(_) => Some(tenths(if mended {
                lasted
            } else {
                until_normal.unwrap_or(lasted)
            })),
        },
        mended,
        offered: outcome.offered,
        delivered: outcome.delivered,
        tempfailed: outcome.tempfailed,
        unconnected: outcome.unconnected,
        lost: outcome.lost.len(),
        duplicated: outcome.duplicated.len(),
        wrongly_ended: wrong.into_iter().collect(),
        unaware: unaware.len(),
        closed_by_courier: if by_courier { closed } else { 0 },
        listed: [outcome.listed, outcome.ended],
        bystanders: outcome.bystanders,
        bans: [before.len(), left],
        lifts: scenario.lifts,
        kept_out,
        until_normal_s: until_normal.map(tenths),
        said,
        without: None,
    })
}

/// Seconds, to a tenth.
fn tenths(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).round() / 10.0
}
