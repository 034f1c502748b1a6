//! What keys and answers do.

use super::*;
use crate::sessions::{Session, State, Verdict};

pub(in super::super) fn session(pid: i32) -> Session {
    Session {
        pid,
        client: [127, 66, 0, u8::try_from(pid % 256).unwrap()].into(),
        port: 40_000,
        local_port: 25,
        age: 61,
        state: State::Open,
        verdict: Verdict::Ban,
        zone: "bl.test".into(),
    }
}

fn sessions(pids: &[i32]) -> Sessions {
    Sessions {
        total: pids.len(),
        sessions: pids.iter().map(|pid| session(*pid)).collect(),
    }
}

fn told(pids: &[i32]) -> Event {
    Event::Told(Box::new(News {
        sessions: sessions(pids),
        ..News::default()
    }))
}

pub(in super::super) fn entry(network: &str, what: What) -> Entry {
    Entry {
        what,
        network: network.parse().unwrap(),
        since: Some(1),
        left: 3600,
        offence: Some(1),
        zones: vec!["bl.test".into()],
        reason: String::new(),
        by: "lists".into(),
    }
}

fn press(model: &mut Model, keys: &str) -> Option<Effect> {
    let mut last = None;
    for key in keys.chars() {
        last = model.on(Event::Key(Key::Char(key)));
    }
    last
}

#[test]
fn nothing_is_done_without_a_yes() {
    let mut model = Model::default();
    model.on(told(&[7, 8]));
    for key in ['e', 'b', 'a', 'u'] {
        assert_eq!(press(&mut model, &key.to_string()), None);
        assert!(model.question.is_some(), "{key}");
        assert_eq!(press(&mut model, "xe1"), None, "neither yes nor no");
        assert!(model.question.is_some(), "{key}");
        assert_eq!(press(&mut model, "n"), None);
        assert!(model.question.is_none(), "{key}");
        press(&mut model, &key.to_string());
        assert_eq!(model.on(Event::Key(Key::Escape)), None);
        assert!(model.question.is_none(), "{key}");
    }
    let request = Request::End {
        pid: 7,
        client: "127.66.0.7".parse().unwrap(),
        port: 40_000,
    };
    assert_eq!(press(&mut model, "ey"), Some(Effect::Ask(request)));
    assert!(model.question.is_none());
}

#[test]
fn each_key_asks_for_what_it_says() {
    let mut model = Model::default();
    model.on(told(&[7]));
    let network = "127.66.0.7".parse().unwrap();
    assert_eq!(
        press(&mut model, "by"),
        Some(Effect::Ask(Request::Ban {
            network,
            seconds: None,
            reason: "rblfilter top".into(),
            force: false
        }))
    );
    let unban = Effect::Ask(Request::Unban {
        networks: vec![network],
        seconds: 86_400,
    });
    assert_eq!(press(&mut model, "uy"), Some(unban.clone()));
    let allow = |seconds| Effect::Ask(Request::Allow { network, seconds });
    assert_eq!(press(&mut model, "ay"), Some(allow(86_400)));
    assert_eq!(press(&mut model, "2"), Some(Effect::WantBans(true)));
    let bans = vec![
        entry("127.66.0.7", What::Ban),
        entry("127.66.0.7", What::Allow),
    ];
    model.bans = bans;
    assert_eq!(press(&mut model, "uy"), Some(unban));
    press(&mut model, "b");
    assert_eq!(model.message, Some(("it is banned already".into(), false)));
    model.on(Event::Key(Key::Down));
    assert_eq!(press(&mut model, "uy"), Some(allow(0)));
    press(&mut model, "e");
    assert!(model.question.is_none() && model.message.is_some());
    assert_eq!(press(&mut model, "3"), Some(Effect::WantBans(false)));
    press(&mut model, "beau");
    assert!(model.question.is_none() && model.message.is_none());
}

#[test]
fn the_question_is_of_the_session_that_was_chosen_whatever_comes() {
    let mut model = Model::default();
    model.on(told(&[7, 8, 9]));
    model.on(Event::Key(Key::Down));
    press(&mut model, "e");
    model.on(told(&[9, 10]));
    assert!(matches!(
        press(&mut model, "y"),
        Some(Effect::Ask(Request::End { pid: 8, .. }))
    ));
}

#[test]
fn the_chosen_row_stays_with_its_session() {
    let mut model = Model::default();
    press(&mut model, "jjk");
    assert_eq!(model.row(), 0, "there is none");
    press(&mut model, "e");
    assert!(model.question.is_none() && model.message.is_some());
    model.on(told(&[7, 8, 9]));
    model.on(Event::Key(Key::End));
    assert_eq!(model.row(), 2);
    model.on(told(&[8, 9, 10]));
    assert_eq!(model.row(), 1, "9");
    model.on(told(&[10]));
    assert_eq!(model.row(), 0, "it has ended");
    model.on(Event::Key(Key::PageDown));
    model.on(Event::Key(Key::PageUp));
    model.on(Event::Key(Key::Home));
    assert_eq!(model.row(), 0);
}

#[test]
fn panes_go_round() {
    let mut model = Model::default();
    model.on(Event::Key(Key::Previous));
    assert_eq!(model.pane, Pane::Troubles);
    model.on(Event::Key(Key::Next));
    assert_eq!(model.pane, Pane::Sessions);
    press(&mut model, "3");
    assert_eq!(model.pane, Pane::Lists);
}

#[test]
fn a_pause_shows_nothing_new() {
    let mut model = Model::default();
    model.on(told(&[7]));
    press(&mut model, "p");
    model.on(told(&[8]));
    assert_eq!(model.sessions.sessions[0].pid, 7);
    press(&mut model, " ");
    model.on(told(&[8]));
    assert_eq!(model.sessions.sessions[0].pid, 8);
}

#[test]
fn a_filter_that_is_gone_is_told_of_until_it_is_back() {
    let mut model = Model::default();
    model.on(told(&[7]));
    assert_eq!(model.trouble(), None);
    model.on(Event::Failed("the filter does not run".into()));
    assert!(
        model
            .trouble()
            .unwrap()
            .contains("does not run; trying again")
    );
    assert_eq!(model.sessions.total, 1, "what was known is shown");
    model.on(told(&[]));
    assert_eq!(model.trouble(), None);
    for _ in 0..5 {
        model.on(Event::Tick);
    }
    assert!(model.trouble().unwrap().contains("no answer for 5 s"));
}

#[test]
fn q_and_ctrl_c_quit_but_not_out_of_a_question_or_the_help() {
    let mut model = Model::default();
    model.on(told(&[7]));
    assert_eq!(press(&mut model, "?"), None);
    assert!(model.help);
    assert_eq!(press(&mut model, "q"), None);
    assert!(!model.help);
    assert_eq!(press(&mut model, "eq"), None, "no");
    assert!(model.question.is_none());
    assert_eq!(press(&mut model, "q"), Some(Effect::Quit));
    press(&mut model, "e");
    assert_eq!(
        model.on(Event::Key(Key::Interrupt)),
        Some(Effect::Quit),
        "always"
    );
}

#[test]
fn what_was_done_is_told_until_the_next_key() {
    let mut model = Model::default();
    model.on(Event::Done(Ok("done".into())));
    assert_eq!(model.message, Some(("done".into(), true)));
    press(&mut model, "j");
    assert_eq!(model.message, None);
    model.on(Event::Done(Err("no".into())));
    assert_eq!(model.message, Some(("no".into(), false)));
}

#[test]
fn the_busiest_listener_is_shown_until_another_is_chosen() {
    let mut model = Model::default();
    press(&mut model, "l");
    let listener = |pid, used| Listener {
        pid,
        used,
        ..Listener::default()
    };
    model.status = Some(Status {
        listeners: vec![listener(1, 0), listener(2, 9), listener(3, 9)],
        ..Status::default()
    });
    let shown = |model: &Model| model.shown_listener().unwrap().pid;
    assert_eq!(shown(&model), 2);
    press(&mut model, "l");
    assert_eq!(shown(&model), 3);
    press(&mut model, "l");
    assert_eq!(shown(&model), 1);
}
