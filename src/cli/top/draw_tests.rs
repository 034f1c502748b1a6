//! What it looks like, on terminals of several sizes.

use ratatui::backend::TestBackend;
use ratatui::{Terminal, buffer::Buffer};

use super::*;
use crate::cli::top::model::tests::{entry, session};
use crate::cli::top::model::{Event, Key, News};
use crate::control::What;
use crate::sessions::Sessions;
use crate::status::{Degraded, Health, List, Listener, Said, Took, Zone};

const SIZES: [(u16, u16); 6] = [(80, 24), (40, 10), (200, 60), (20, 5), (1, 1), (80, 12)];
const UNICODE: Look = Look {
    colour: true,
    unicode: true,
};

fn drawn(model: &Model, (width, height): (u16, u16), look: Look) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, model, look)).unwrap();
    terminal.backend().buffer().clone()
}

fn text(buffer: &Buffer) -> String {
    let area = buffer.area;
    let row = |y| (0..area.width).map(move |x| buffer[(x, y)].symbol());
    (0..area.height)
        .map(|y| row(y).collect::<String>().trim_end().to_owned() + "\n")
        .collect()
}

/// A filter with `count` of everything.
fn model(count: usize) -> Model {
    let few = count.min(1000);
    let number = count as u64;
    let said = Said {
        asked: number,
        hits: number,
        answers: number,
        listed: number / 2,
        timeouts: number,
        errors: 0,
        took: Took {
            count: number,
            median_us: (number > 0).then_some(900),
            p99_us: (number > 0).then_some(1_200_000),
        },
    };
    let status = Status {
        version: "0.1.0".into(),
        mode: "enforce".into(),
        watch: "events".into(),
        uptime: 90_061,
        sessions: count,
        bans: count,
        listeners: vec![Listener {
            name: "esmtpd".into(),
            pid: 1,
            used: count,
            slots: Some(count.max(300)),
            each_second: (0..600)
                .map(|at| u32::try_from(count * at / 600).unwrap())
                .collect(),
        }],
        lists: vec![List {
            name: "bl.test".into(),
            allows: false,
            family: "ipv4".into(),
            health: Health::Down,
            passed: None,
        }],
        zones: vec![
            Zone {
                name: "bl.test".into(),
                counted: said,
                ..Zone::default()
            };
            few
        ],
        degraded: vec![
            Degraded {
                what: "dnsbl".into(),
                name: "bl.test".into(),
                age: 61,
                reason: "no answer \u{1b}[31m".into(),
                advice: "wait".into(),
            };
            few
        ],
        ..Status::default()
    };
    let mut model = Model::default();
    model.on(Event::Told(Box::new(News {
        status,
        sessions: Sessions {
            total: count,
            sessions: (0..i32::try_from(few).unwrap()).map(session).collect(),
        },
        bans: Some(vec![entry("203.0.113.0/24", What::Ban); few]),
    })));
    model
}

#[test]
fn every_pane_of_nothing_one_and_a_million_fits_every_size() {
    for count in [0, 1, 1_000_000] {
        for size in SIZES {
            for look in [UNICODE, Look::default()] {
                let mut model = model(count);
                for pane in Pane::ALL {
                    model.pane = pane;
                    model.on(Event::Key(Key::End));
                    let drawn = drawn(&model, size, look);
                    let text = text(&drawn);
                    assert!(
                        !text.replace('\n', "").chars().any(char::is_control),
                        "{text:?}"
                    );
                    if !look.unicode {
                        assert!(text.is_ascii(), "{text}");
                    }
                    if !look.colour {
                        let plain = |cell: &ratatui::buffer::Cell| {
                            cell.fg == Color::Reset && cell.bg == Color::Reset
                        };
                        assert!(drawn.content.iter().all(plain), "{text}");
                    }
                }
                model.help = true;
                drawn(&model, size, look);
                model.help = false;
                model.pane = Pane::Sessions;
                model.on(Event::Key(Key::Char('b')));
                drawn(&model, size, look);
            }
        }
    }
}

#[test]
fn all_that_matters_is_on_80_columns_and_24_lines() {
    let mut model = model(1);
    let text_of = |model: &Model| text(&drawn(model, (80, 24), UNICODE));
    let sessions = text_of(&model);
    for part in [
        "rblfilter  0.1.0 enforce, running for 1day 1h, watching by events",
        "slots of esmtpd: 1 of 300 (<1 %), 0 at most in 10m",
        "    300 ─────",
        "\n      0\n",
        " 1 Sessions 1   2 Bans 1   3 Lists 1   4 Troubles 1\n",
        "127.66.0.0                40000   25    1m 1s open     ban      bl.test",
        "e: end  b: ban  a: let in  u: unban  Tab: next pane",
    ] {
        assert!(sessions.contains(part), "{part:?} in\n{sessions}");
    }
    model.pane = Pane::Bans;
    let bans = text_of(&model);
    assert!(
        bans.contains("203.0.113.0/24              banned       1h       1 lists      bl.test"),
        "{bans}"
    );
    model.pane = Pane::Lists;
    let zones = text_of(&model);
    assert!(
        zones.contains(
            "bl.test                DOWN             1         1   0 %       1  900 us  1.2 s"
        ),
        "{zones}"
    );
    model.pane = Pane::Troubles;
    let troubles = text_of(&model);
    assert!(
        troubles.contains("dnsbl bl.test, for 1m 1s: no answer \\u{1b}[31m\n  wait"),
        "{troubles}"
    );
}

#[test]
fn a_full_server_is_as_high_as_its_maximum() {
    let mut model = model(1);
    if let Some(status) = &mut model.status {
        status.listeners[0].used = 300;
        status.listeners[0].each_second = vec![300; 600];
    }
    let buffer = drawn(&model, (80, 24), UNICODE);
    let text = text(&buffer);
    assert_eq!(text.matches('█').count(), 67 * 5, "{text}");
    assert!(
        text.contains("300 of 300 (100 %), 300 at most in 10m"),
        "{text}"
    );
    let ascii = drawn(&model, (80, 24), Look::default());
    assert!(tests::text(&ascii).contains("####"));
}

#[test]
fn the_chosen_row_is_on_the_screen() {
    let mut model = model(1_000_000);
    for key in [Key::End, Key::PageUp, Key::Home] {
        model.on(Event::Key(key));
        let buffer = drawn(&model, (80, 24), Look::default());
        let rows: Vec<u16> = (12..24)
            .filter(|y| buffer[(0, *y)].modifier.contains(Modifier::REVERSED))
            .collect();
        assert_eq!(rows.len(), 1, "{key:?}: {}", text(&buffer));
    }
    model.on(Event::Key(Key::End));
    let text = text(&drawn(&model, (80, 24), UNICODE));
    assert!(text.contains("1 Sessions 1,000,000"), "{text}");
}

#[test]
fn a_question_a_trouble_and_a_pause_are_seen() {
    let mut model = model(1);
    model.on(Event::Key(Key::Char('p')));
    model.on(Event::Key(Key::Char('e')));
    model.on(Event::Failed("the filter does not run".into()));
    for size in [(80, 24), (40, 10)] {
        let text = text(&drawn(&model, size, Look::default()));
        for part in ["PAUSED", "End the session of 127.66.0.0", "does not run"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }
}
