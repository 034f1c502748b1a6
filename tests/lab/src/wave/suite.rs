//! The rows of the table in `docs/performance.md`, each guard side by side.

use std::time::Duration;

use super::bench::{Guard, Plan};
use super::{Kind, Wave};
use crate::Spaces;
use crate::stub::Answer;

/// One row: a wave, and what is set against it.
#[derive(Debug, Clone)]
pub struct Row {
    /// How `--only` names it.
    pub name: &'static str,
    /// What the table says.
    pub title: &'static str,
    /// The runs, in the order in which they are made.
    pub plans: Vec<Plan>,
}

const BY_BLOCK: &[(Guard, Spaces)] = &[
    (Guard::Block, Spaces::Private),
    (Guard::Drop, Spaces::Private),
    (Guard::RblfilterBlock, Spaces::Machine),
    (Guard::RblfilterBlock, Spaces::Private),
];
const BY_LIST: &[(Guard, Spaces)] = &[
    (Guard::Drop, Spaces::Private),
    (Guard::Rblfilter, Spaces::Machine),
    (Guard::Rblfilter, Spaces::Private),
];
const BOTH: &[(Guard, Spaces)] = &[
    (Guard::Drop, Spaces::Private),
    (Guard::RblfilterBlock, Spaces::Machine),
    (Guard::RblfilterBlock, Spaces::Private),
    (Guard::Rblfilter, Spaces::Machine),
    (Guard::Rblfilter, Spaces::Private),
];
const UNLISTED: &[(Guard, Spaces)] = &[
    (Guard::None, Spaces::Private),
    (Guard::Rblfilter, Spaces::Machine),
    (Guard::Rblfilter, Spaces::Private),
];

/// The limits that the admin guide starts from.
const LIMITS: &str = "limit = \"200/second\"\nlimit-per-network = \"1/second\"";
/// What a minute allows may come at once: the same rate lets 60 times as many come in the first moment.
const BY_THE_MINUTE: &str = "limit = \"200/second\"\nlimit-per-network = \"60/minute\"";

/// All rows; `model` says what they have in common (the product, the length).
#[must_use]
pub fn rows(model: &Plan) -> Vec<Row> {
    let plan = |change: &dyn Fn(&mut Plan)| {
        let mut plan = model.clone();
        change(&mut plan);
        plan
    };
    let row = |name, title, guards: &[(Guard, Spaces)], plan: Plan| Row {
        name,
        title,
        plans: guards
            .iter()
            .map(|(guard, spaces)| Plan {
                guard: *guard,
                spaces: *spaces,
                ..plan.clone()
            })
            .collect(),
    };
    let list = |answer| move |plan: &mut Plan| plan.list = Some(answer);
    vec![
        row(
            "block",
            "100/s hang, verdict by BLOCK",
            BY_BLOCK,
            plan(&|_| {}),
        ),
        row("own", "100/s hang, own lookup", BY_LIST, plan(&|_| {})),
        row(
            "fast",
            "600/s hang, distinct addresses",
            BOTH,
            plan(&|plan| plan.wave.rate = 600),
        ),
        row(
            "return",
            "600/s return from 200 addresses",
            BY_LIST,
            plan(&|plan| {
                plan.wave = Wave {
                    kind: Kind::Return,
                    rate: 600,
                    addresses: 200,
                    ..plan.wave.clone()
                };
            }),
        ),
        row(
            "slow",
            "100/s hang, list after 1 s",
            BY_LIST,
            plan(&list(Answer::After(Duration::from_secs(1)))),
        ),
        row(
            "dead",
            "100/s hang, list dead",
            BY_LIST,
            plan(&list(Answer::Never)),
        ),
        row(
            "ptr",
            "100/s hang, PTR silent",
            BY_LIST,
            plan(&|plan| plan.names_silent = true),
        ),
        row(
            "ptr-nodnslookup",
            "100/s hang, PTR silent, -nodnslookup",
            BY_LIST,
            plan(&|plan| {
                plan.names_silent = true;
                plan.no_names = true;
            }),
        ),
        row(
            "zero-hour",
            "100/s hang, listed nowhere",
            UNLISTED,
            plan(&|plan| plan.wave.listed_percent = 0),
        ),
        flood(model),
    ]
    .into_iter()
    .chain(gate(model))
    .collect()
}

/// The gate beside the watch alone and `-drop`.
fn gate(model: &Plan) -> Vec<Row> {
    let all = [Guard::Drop, Guard::Rblfilter, Guard::Gate];
    let row = |name, title, guards: &[Guard], change: &dyn Fn(&mut Plan)| Row {
        name,
        title,
        plans: guards
            .iter()
            .map(|guard| {
                let mut plan = Plan {
                    guard: *guard,
                    spaces: Spaces::Private,
                    ..model.clone()
                };
                change(&mut plan);
                plan
            })
            .collect(),
    };
    let packets = |listed_percent, rate, addresses| {
        move |plan: &mut Plan| {
            plan.wave = Wave {
                kind: Kind::Syn,
                rate,
                addresses,
                listed_percent,
                ..plan.wave.clone()
            };
        }
    };
    vec![
        row("gate-none", "no wave", &all, &|plan| plan.wave.rate = 0),
        row(
            "gate-fast",
            "600/s hang, distinct addresses",
            &all,
            &|plan| {
                plan.wave.rate = 600;
            },
        ),
        row(
            "gate-packets",
            "5000/s first packets of 100,000 listed addresses",
            &all,
            &packets(100, 5000, 100_000),
        ),
        row(
            "gate-unlisted",
            "5000/s first packets of 100,000 unlisted addresses",
            &all,
            &packets(0, 5000, 100_000),
        ),
        row("gate-slow", "100/s hang, list after 0.2 s", &all, &|plan| {
            plan.list = Some(Answer::After(Duration::from_millis(200)));
            plan.wave.mail_addresses = 20;
        }),
        row("gate-dead", "100/s hang, list dead", &all, &|plan| {
            plan.list = Some(Answer::Never);
            plan.wave.mail_addresses = 20;
        }),
        row(
            "gate-killed",
            "100/s hang, gate killed half-way",
            &[Guard::Rblfilter, Guard::Gate],
            &|plan| plan.kill_gate = Some(plan.wave.length / 2),
        ),
        row(
            "gate-path",
            "1000/s first packets, all to the queue, verdict cached",
            &[Guard::Gate],
            &|plan| {
                packets(100, 1000, 200)(plan);
                // What the filter does for mail is no part of a packet's path.
                plan.wave.mail_rate = 0;
                plan.all_to_queue = true;
            },
        ),
    ]
}

/// Nobody lists the flooders: the limit on new connections and the slot guard are alone with them.
fn flood(model: &Plan) -> Row {
    let plans = [
        (Guard::None, None),
        (Guard::None, Some(LIMITS)),
        (Guard::Rblfilter, None),
        (Guard::Rblfilter, Some(BY_THE_MINUTE)),
        (Guard::Rblfilter, Some(LIMITS)),
    ];
    Row {
        name: "flood",
        title: "1000/s hang from 50 networks, listed nowhere",
        plans: plans
            .into_iter()
            .map(|(guard, limits)| Plan {
                wave: Wave {
                    rate: 1000,
                    addresses: 10_000,
                    networks: 50,
                    listed_percent: 0,
                    ..model.wave.clone()
                },
                guard,
                spaces: Spaces::Private,
                limits: limits.map(str::to_owned),
                ..model.clone()
            })
            .collect(),
    }
}
