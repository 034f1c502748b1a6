//! A new configuration is put into service without a gap, and a wrong one not at
//! all.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::Signal;
use rblfilter_lab::smtp::{Client, Message, Outcome};
use rblfilter_lab::stub::{Answer, Stub};
use rblfilter_lab::{Config, Dns, Lab, wait_for};

const CONTROL: &str = "/var/lib/courier/rblfilter/control";
const FILE: &str = "/etc/courier/filters/rblfilter.toml";

fn reload(lab: &Lab) -> String {
    lab.run_ok(&["rblfilter", "reload"]).unwrap()
}

/// What a reload that must not be says, and how it exits.
fn refused(lab: &Lab) -> (String, Option<i32>) {
    let output = lab.run(&["rblfilter", "reload"]).unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    (said, output.status.code())
}

/// How many descriptors a process has open.
fn descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn bans(lab: &Lab) -> String {
    let said = lab.run_ok(&["rblfilter", "list", "--json"]).unwrap();
    let mut lines: Vec<&str> = said.lines().collect();
    // When it began is known to the second, and what is left of it changes.
    lines.sort_unstable();
    let networks = lines
        .iter()
        .filter_map(|line| line.split(",\"since\"").next());
    networks.collect::<Vec<_>>().join("\n")
}

/// Bans one network after the other by hand, until what is returned is called,
/// which tells those for which the command has said that they are banned.
fn banning() -> impl FnOnce() -> Vec<String> {
    let stop = Arc::<AtomicBool>::default();
    let banner = thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let mut acknowledged = Vec::new();
            for number in 0..=255 {
                if stop.load(Relaxed) {
                    break;
                }
                let network = format!("127.71.{number}.0/24");
                let mut command = Command::new("/usr/sbin/rblfilter");
                if command
                    .args(["ban", &network])
                    .output()
                    .unwrap()
                    .status
                    .success()
                {
                    acknowledged.push(network);
                }
            }
            acknowledged
        }
    });
    move || {
        stop.store(true, Relaxed);
        banner.join().unwrap()
    }
}

#[test]
fn twenty_reloads_under_mail_lose_nothing_and_leave_nothing_behind() {
    let lab = lab(Config::default(), ZONE);
    assert_banned(&lab, &lab.send(&message(), ip(LISTED)), LISTED, LISTED);
    lab.run_ok(&["rblfilter", "ban", "127.70.0.0/16", "--for", "2h"])
        .unwrap();
    reload(&lab);
    let begun = filter(&lab);
    let open = descriptors(begun.supervisor);
    let own = descriptors(begun.worker);
    let before = bans(&lab);
    assert!(
        before.contains(LISTED) && before.contains("127.70.0.0/16"),
        "{before}"
    );
    let stream = Stream::begin(3);
    let by_hand = banning();
    let (mut last, mut waited) = (begun, Duration::ZERO);
    for round in 0..20 {
        let asked = Instant::now();
        assert!(reload(&lab).contains("as it is now"));
        waited = waited.max(asked.elapsed());
        // Commands find the next one at once.
        let now = bans(&lab);
        assert!(
            before.lines().all(|ban| now.contains(ban)),
            "{round}: {now}"
        );
        let now = filter(&lab);
        assert!(
            now.supervisor == begun.supervisor
                && now.worker != last.worker
                && now.warden != last.warden
        );
        last = now;
    }
    let acknowledged = by_hand();
    let fates = stream.end(&lab, 0);
    let now = bans(&lab);
    let members = lab.set_members("rblfilter4").unwrap();
    for network in &acknowledged {
        assert!(now.contains(network), "{network}: {now}");
        assert!(
            members.iter().any(|member| member.net == *network),
            "{network}"
        );
    }
    println!(
        "20 reloads, the slowest in {waited:?}, {} bans by hand: {fates:?}",
        acknowledged.len()
    );
    assert!(fates.tempfailed == 0 && fates.delivered > 20, "{fates:?}");
    // A moment ago a message may have been open. What each worker inherited from
    // the ones before would be twenty by now; it opens some of its own as it goes.
    let same =
        |pid: i32, count: usize| wait_for(LIMIT, || (descriptors(pid) <= count).then_some(()));
    assert!(
        same(begun.supervisor, open).is_some(),
        "{open} {}",
        descriptors(begun.supervisor)
    );
    assert!(
        same(last.worker, own + 10).is_some(),
        "{own} {}",
        descriptors(last.worker)
    );
    assert!(
        lab.log_matching("cache,read=").len() >= 20,
        "what the lists said is handed on"
    );
    assert!(lab.log_matching(": bug").is_empty() && lab.log_matching("degraded").is_empty());
    // It does its work, and is stopped as before.
    let again = "127.66.1.77";
    assert_banned(&lab, &lab.send(&message(), ip(again)), again, again);
    product().filterctl_stop(&lab).unwrap();
    assert!(!filter_socket().exists());
}

#[test]
fn a_new_configuration_is_in_force_when_the_command_returns() {
    let lab = lab(Config::default(), OWN_ZONE);
    filter(&lab);
    wait_for(LIMIT, || Path::new(CONTROL).exists().then_some(())).unwrap();
    fs::write(FILE, "mode = \"observe\"\n".to_owned() + OWN_ZONE).unwrap();
    reload(&lab);
    assert_delivered(&lab, &message(), LISTED, 1);
    fs::write(FILE, OWN_ZONE).unwrap();
    assert!(!reload(&lab).contains("firewall apply"));
    assert_banned(&lab, &lab.send(&message(), ip(LISTED)), LISTED, LISTED);
    // What the worker cannot put into force is told.
    fs::write(FILE, "ports = [25, 2525]\n".to_owned() + OWN_ZONE).unwrap();
    assert!(reload(&lab).contains("rblfilter firewall apply"));
}

#[test]
fn bans_from_before_observe_are_told_of() {
    let lab = lab(Config::default(), OWN_ZONE);
    filter(&lab);
    wait_for(LIMIT, || Path::new(CONTROL).exists().then_some(())).unwrap();
    assert_banned(&lab, &lab.send(&message(), ip(LISTED)), LISTED, LISTED);
    fs::write(FILE, "mode = \"observe\"\n".to_owned() + OWN_ZONE).unwrap();
    reload(&lab);
    lab.wait_for_log("standing,bans=1", LIMIT).unwrap();
    let status = lab.run_ok(&["rblfilter", "status"]).unwrap();
    assert!(status.contains("1 ban made before observe"), "{status}");
    let listed = lab.run_ok(&["rblfilter", "list"]).unwrap();
    assert!(
        listed.contains(&format!("{LISTED} banned since")),
        "{listed}"
    );
    // What ends them; and they do not come back after it.
    let told = lab.run_ok(&["rblfilter", "unban", "--all"]).unwrap();
    assert!(told.contains("1 ban is ended"), "{told}");
    let status = lab.run_ok(&["rblfilter", "status"]).unwrap();
    assert!(!status.contains("made before observe"), "{status}");
    for toml in [None, Some(OWN_ZONE)] {
        if let Some(toml) = toml {
            fs::write(FILE, toml).unwrap();
            reload(&lab);
        }
        let listed = lab.run_ok(&["rblfilter", "list"]).unwrap();
        assert_eq!(listed, "nobody is banned, nobody is let in by hand\n");
    }
}

#[test]
fn garbage_is_refused_and_told_and_the_configuration_before_stays() {
    let lab = lab(Config::default(), OWN_ZONE);
    let before = filter(&lab);
    let stream = Stream::begin(2);
    for (text, told) in [
        ("\u{0}\u{1}garbage", "line 1"),
        ("wieght = 1\n", "wieght"),
        ("[ban]\nfactor = -3\n", "ban.factor"),
    ] {
        fs::write(FILE, text).unwrap();
        let (said, code) = refused(&lab);
        assert!(
            said.contains(told) && said.contains("stays in force"),
            "{said}"
        );
        assert_eq!(code, Some(78));
        lab.wait_for_log("reload,user=root,failed=yes", LIMIT)
            .unwrap();
    }
    assert_eq!(filter(&lab), before, "nothing was started");
    // What a restart would do is told for as long as it would.
    let status = || lab.run_ok(&["rblfilter", "status"]).unwrap();
    let told = status();
    assert!(
        told.contains("config") && told.contains("would accept every message"),
        "{told}"
    );
    assert_eq!(lab.log_matching("degraded,what=config").len(), 1);
    assert_banned(&lab, &lab.send(&message(), ip(LISTED)), LISTED, LISTED);
    // What the warden would not trust is wrong as well.
    fs::write(FILE, OWN_ZONE).unwrap();
    lab.run_ok(&["chmod", "0666", FILE]).unwrap();
    let (said, code) = refused(&lab);
    assert!(said.contains("writable by root alone"), "{said}");
    assert_eq!(code, Some(78));
    lab.run_ok(&["chmod", "0644", FILE]).unwrap();
    reload(&lab);
    assert!(!status().contains("config"), "{}", status());
    fs::remove_file(FILE).unwrap();
    let (said, code) = refused(&lab);
    assert!(said.contains("there is no such file"), "{said}");
    assert_eq!(code, Some(78));
    fs::write(FILE, OWN_ZONE).unwrap();
    assert_eq!(stream.end(&lab, 0).tempfailed, 0);
}

#[test]
fn a_supervisor_that_is_gone_is_told_and_what_to_do_when_the_filter_is_too() {
    let lab = lab(Config::default(), OWN_ZONE);
    let ours = filter(&lab);
    wait_for(LIMIT, || Path::new(CONTROL).exists().then_some(())).unwrap();
    lab.kill(ours.supervisor, Signal::SIGKILL).unwrap();
    lab.wait_for_log("degraded,what=supervisor", LIMIT).unwrap();
    let status = lab.run_ok(&["rblfilter", "status"]).unwrap();
    assert!(
        status.contains("supervisor") && status.contains("filterctl stop rblfilter"),
        "{status}"
    );
    lab.kill(ours.worker, Signal::SIGKILL).unwrap();
    let advice = || {
        let output = lab.run(&["rblfilter", "status"]).unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.code() == Some(69)).then_some(said)
    };
    let said = wait_for(LIMIT, advice).expect("nobody serves");
    assert!(
        said.contains("every message is answered 432: filterctl stop rblfilter; sleep 1"),
        "{said}"
    );
    product().filterctl_stop(&lab).unwrap();
    let said = advice().expect("nobody serves");
    assert!(said.contains("does not run (filterctl start"), "{said}");
}

#[test]
fn a_filter_that_accepts_everything_is_mended_by_a_reload() {
    let lab = lab(Config::default(), OWN_ZONE);
    product().filterctl_stop(&lab).unwrap();
    fs::write(FILE, "wieght = 1\n").unwrap();
    product().filterctl_start(&lab).unwrap();
    lab.wait_for_log("disabled", LIMIT).unwrap();
    assert_delivered(&lab, &message(), LISTED, 1);
    let output = lab.run(&["rblfilter", "list"]).unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("its configuration is wrong"), "{said}");
    fs::write(FILE, OWN_ZONE).unwrap();
    reload(&lab);
    assert_banned(&lab, &lab.send(&message(), ip(LISTED)), LISTED, LISTED);
}

/// What is returned waits until somebody has read the file since.
fn once_read() -> impl FnOnce() {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).unwrap();
    // It is written with another word.
    inotify
        .add_watch(FILE, AddWatchFlags::IN_CLOSE_NOWRITE)
        .unwrap();
    move || {
        let read = || inotify.read_events().ok();
        wait_for(LIMIT, read).expect("the file is read");
    }
}

#[test]
fn a_change_of_the_file_is_enough_where_that_is_asked_for() {
    let on_change = "[reload]\non-change = true\n";
    let lab = lab(Config::default(), &format!("{OWN_ZONE}{on_change}"));
    let first = filter(&lab);
    // Wrong: told once, however often the same is written.
    fs::write(FILE, "wieght = 1\n").unwrap();
    lab.wait_for_log("reload,user=change,failed=yes", LIMIT)
        .unwrap();
    let read = once_read();
    fs::write(FILE, "wieght = 1\n").unwrap();
    read();
    assert_eq!(filter(&lab), first);
    // As an editor does it.
    let text = format!("{OWN_ZONE}{on_change}[allow]\nnetworks = [\"{LISTED}\"]\n");
    fs::write("/etc/courier/filters/.new", text).unwrap();
    fs::rename("/etc/courier/filters/.new", FILE).unwrap();
    let another = || (filter(&lab).worker != first.worker).then_some(());
    wait_for(LIMIT, another).expect("another worker");
    assert_delivered(&lab, &message(), LISTED, 1);
    assert_eq!(lab.log_matching("failed=yes").len(), 1);
    // The next worker watches too.
    fs::write(FILE, OWN_ZONE).unwrap();
    let banned = || (!lab.send(&impatient(), ip(LISTED)).accepted()).then_some(());
    wait_for(LIMIT, banned).expect("in force");
}

/// What it includes, elsewhere, as well; and what was refused for its mode alone.
#[test]
fn a_change_of_the_included_file_or_of_a_mode_is_enough_too() {
    let folder = "/etc/courier/keys";
    let keys = "/etc/courier/keys/rblfilter.keys";
    let lab = Lab::start(Config::default()).unwrap();
    fs::create_dir(folder).unwrap();
    let put = |text: &str| {
        fs::write("/run/keys", text).unwrap();
        lab.run_ok(&["chmod", "0640", "/run/keys"]).unwrap();
        lab.run_ok(&["chgrp", "courier", "/run/keys"]).unwrap();
        lab.run_ok(&["mv", "-f", "/run/keys", keys]).unwrap();
    };
    put("");
    let toml = format!(
        "include = {keys:?}\nwatch = \"off\"\n[lookup]\nquery-non-global = true\n[reload]\non-change = true\n"
    );
    product().start(&lab, &toml).unwrap();
    wait_for(LIMIT, || Path::new(CONTROL).exists().then_some(())).unwrap();
    let first = filter(&lab);
    assert_delivered(&lab, &message(), LISTED, 1);
    put("[[dnsbl]]\nzone = \"bl.test\"\n");
    lab.wait_for_log("reload,user=change", LIMIT).unwrap();
    let second = filter(&lab);
    assert_ne!(second.worker, first.worker);
    assert_banned(&lab, &lab.send(&message(), ip(LISTED)), LISTED, LISTED);
    // Wrong by its mode, and right again by nothing else.
    lab.run_ok(&[
        "sh",
        "-c",
        &format!("echo '# more' >>{FILE}; chmod 0666 {FILE}"),
    ])
    .unwrap();
    lab.wait_for_log("reload,user=change,failed=yes", LIMIT)
        .unwrap();
    assert_eq!(filter(&lab), second);
    lab.run_ok(&["chmod", "0640", FILE]).unwrap();
    let another = || (filter(&lab).worker != second.worker).then_some(());
    wait_for(LIMIT, another).expect("another worker");
    assert_eq!(lab.log_matching("failed=yes").len(), 1);
}

/// Its message is open in the worker that is replaced, and is answered by that.
#[test]
fn a_message_that_is_open_is_answered_by_the_worker_that_has_it() {
    let lab = with_silent_lists("limit = \"15s\"\nquery-limit = \"15s\"\n");
    let before = filter(&lab);
    let sender = begin_message(&lab, LISTED);
    reload(&lab);
    // That is why it was there to be answered.
    assert!(!sender.is_finished(), "it waits for the list");
    let outcome = sender.join().unwrap();
    assert!(outcome.accepted(), "{outcome:?}");
    lab.wait_for_mail(1, LIMIT).unwrap();
    assert_ne!(filter(&lab).worker, before.worker);
    assert_eq!(messages(&lab), Some(0), "the next one saw none");
}

/// Sends a message of `source` on a thread of its own, and waits until it is judged by
/// a worker that has judged none before.
fn begin_message(lab: &Lab, source: &str) -> thread::JoinHandle<Outcome> {
    let message = Message {
        patience: LIMIT * 4,
        ..message()
    };
    let sender = sending(message, source);
    let judged = || (messages(lab) == Some(1)).then_some(());
    wait_for(LIMIT, judged).expect("a message that is judged");
    sender
}

/// How many messages the worker that serves has seen.
fn messages(lab: &Lab) -> Option<u64> {
    status(lab)["counted"]["messages"].as_u64()
}

/// Its list says so only when the worker that judges it has given up its place: the
/// next one's book would not have the ban.
#[test]
fn a_sentence_that_is_open_for_too_long_at_a_reload_bans_nobody() {
    let config = Config {
        dns: Dns::Stub(Stub {
            list: Answer::After(Duration::from_secs(9)),
            ..Stub::default()
        }),
        tcpd_options: "-nodnslookup".into(),
        ..Config::default()
    };
    let toml = format!(
        "watch = \"off\"\n[lookup]\nlimit = \"24s\"\nquery-limit = \"12s\"\n{OF_LOOKUP}self-test = false\n"
    );
    let lab = lab(config, &toml);
    let sender = begin_message(&lab, LISTED);
    reload(&lab);
    assert!(!sender.is_finished(), "it waits for the list");
    let outcome = sender.join().unwrap();
    assert!(!outcome.accepted(), "{outcome:?}");
    assert_ended(&lab, LISTED);
    let line = lab.wait_for_log(": id=", LIMIT).unwrap();
    assert!(
        line.contains(",listed,") && line.contains(",action=kill"),
        "{line}"
    );
    assert_no_bans(&lab);
}

#[test]
fn no_more_than_four_workers_leave_at_a_time() {
    let lab = with_silent_lists("limit = \"30s\"\nquery-limit = \"15s\"\n");
    let mut senders = Vec::new();
    for source in ["127.1.1.1", "127.1.1.2", "127.1.1.3", "127.1.1.4"] {
        senders.push(begin_message(&lab, source));
        reload(&lab);
    }
    assert!(senders.iter().all(|sender| !sender.is_finished()));
    let (said, code) = refused(&lab);
    assert!(said.contains("the one before serves on"), "{said}");
    assert_eq!(code, Some(1));
    let told = lab.log_matching("noreload");
    assert!(
        told.iter()
            .any(|line| line.contains("too many have not ended yet")),
        "{told:?}"
    );
    for sender in senders {
        let outcome = sender.join().unwrap();
        assert!(outcome.accepted(), "{outcome:?}");
    }
    lab.wait_for_mail(4, LIMIT).unwrap();
    // They have ended by then, and another may come.
    filter(&lab);
    reload(&lab);
}

/// A lab in which couriertcpd asks nobody, and a session of a listed client that has
/// connected while no list was configured.
fn with_an_open_session() -> (Lab, Client) {
    let config = Config {
        tcpd_options: "-nodnslookup".into(),
        ..Config::default()
    };
    let lab = lab(config, "");
    filter(&lab);
    let mut client = lab.connect(ip(LISTED)).unwrap();
    greet(&lab, &mut client);
    (lab, client)
}

#[test]
fn a_session_from_before_is_ended_where_the_new_configuration_convicts_it() {
    let (lab, _client) = with_an_open_session();
    fs::write(FILE, ZONE).unwrap();
    reload(&lab);
    assert_ended(&lab, LISTED);
    assert_banned_too(&lab, LISTED);
}

/// Another listed client.
const OTHER: &str = "127.66.1.8";

/// The sessions of two clients, the other's second, whose list has not passed its
/// first test when they are judged, so that they are left alone.
fn judged_too_early() -> (Lab, [Client; 2]) {
    let (mut lab, mut client) = with_an_open_session();
    let mut other = lab.connect(ip(OTHER)).unwrap();
    greet(&lab, &mut other);
    lab.dns_start(Dns::Silent).unwrap();
    fs::write(FILE, format!("{ZONE}\n[log]\nlevel = \"debug\"\n")).unwrap();
    reload(&lab);
    lab.wait_for_log("degraded,what=dnsbl,zone=bl.test", LIMIT)
        .unwrap();
    // Judged, and left alone.
    assert!(lab.log_matching("at=connect").is_empty());
    let reply = lab.block_on(client.command("NOOP")).unwrap();
    assert!(reply.is_positive(), "{reply}");
    (lab, [client, other])
}

#[test]
fn a_session_is_judged_again_when_a_new_list_has_passed_its_first_test() {
    let (mut lab, _clients) = judged_too_early();
    lab.dns_start(Dns::Rbldnsd).unwrap();
    assert_ended(&lab, LISTED);
    assert_banned_too(&lab, LISTED);
}

#[test]
fn one_that_was_let_in_before_it_is_judged_again_is_left_alone() {
    let (mut lab, [mut client, _other]) = judged_too_early();
    lab.run_ok(&["rblfilter", "allow", LISTED]).unwrap();
    lab.dns_start(Dns::Rbldnsd).unwrap();
    assert_ended(&lab, OTHER);
    let left_alone = format!("exempt,ip=[::ffff:{LISTED}],at=connect");
    lab.wait_for_log(&left_alone, LIMIT).unwrap();
    let reply = lab.block_on(client.command("NOOP")).unwrap();
    assert!(reply.is_positive(), "{reply}");
    let listed = format!("listed,ip=[::ffff:{LISTED}]");
    assert!(lab.log_matching(&listed).is_empty());
}

/// A filter that submit asks after ours, and that answers when it is told to.
struct Later {
    asked: mpsc::Receiver<()>,
    answer: mpsc::Sender<()>,
}

impl Later {
    fn start() -> Self {
        let path = "/var/lib/courier/allfilters/zz-later";
        let listener = UnixListener::bind(path).unwrap();
        let owner = fs::metadata(filter_socket()).unwrap();
        chown(path, Some(owner.uid()), Some(owner.gid())).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o660)).unwrap();
        let (asks, asked) = mpsc::channel();
        let (answer, answers) = mpsc::channel::<()>();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\n\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    request.push(byte[0]);
                }
                asks.send(()).unwrap();
                answers.recv().unwrap();
                stream.write_all(b"200 Ok\n").unwrap();
            }
        });
        Self { asked, answer }
    }
}

/// Who is listed by the new configuration alone, and whose message the worker
/// before has let pass: its client has no answer yet, and would send it again.
#[test]
fn a_message_that_was_just_accepted_is_not_cut_off_by_the_next_worker() {
    let (lab, _hangs) = with_an_open_session();
    let later = Later::start();
    let accepted = "127.66.1.9";
    let sender = sending(message(), accepted);
    later.asked.recv_timeout(LIMIT).unwrap();
    fs::write(FILE, ZONE).unwrap();
    reload(&lab);
    // Whoever is silent is ended soon; so the other's session has been judged as well,
    // and looked at some times more.
    assert_session_ended(&lab, LISTED);
    thread::sleep(Duration::from_secs(3));
    let lines = lab.log_matching("at=connect,action=");
    assert!(lines.iter().all(|line| line.contains(LISTED)), "{lines:?}");
    later.answer.send(()).unwrap();
    // Had ours been asked after the other, it would be refused.
    let outcome = sender.join().unwrap();
    assert!(outcome.accepted(), "{outcome:?}");
    lab.wait_for_mail(1, LIMIT).unwrap();
}

#[test]
fn a_stop_in_the_middle_of_a_reload_loses_nothing() {
    let lab = lab(Config::default(), OWN_ZONE);
    let stream = Stream::begin(3);
    for round in 0..6_u32 {
        let reloading = lab.spawn(&["rblfilter", "reload"]).unwrap();
        // At another moment of it each time.
        let end = Instant::now() + Duration::from_millis(u64::from(round) * 60);
        while Instant::now() < end {
            thread::yield_now();
        }
        lab.run_ok(&["filterctl", "stop", "rblfilter"]).unwrap();
        reloading.wait_within(LIMIT).unwrap();
        product().filterctl_stop(&lab).unwrap();
        assert!(!filter_socket().exists());
        product().filterctl_start(&lab).unwrap();
        filter(&lab);
    }
    assert_eq!(stream.end(&lab, 0).tempfailed, 0);
}

/// The next one goes on when the one before dies, and the other way round.
#[test]
fn whoever_dies_in_a_reload_the_other_serves() {
    let lab = lab(Config::default(), OWN_ZONE);
    let ours = |lab: &Lab| {
        let processes = lab.processes();
        let mut workers: Vec<i32> = processes
            .iter()
            .filter(|p| p.comm == "rblfilter" && p.state != 'Z')
            .filter(|p| {
                lab.arguments(p.pid)
                    .iter()
                    .any(|word| word == "supervised-worker")
            })
            .map(|p| p.pid)
            .collect();
        workers.sort_unstable();
        workers
    };
    for who in [0, 1] {
        let before = filter(&lab);
        let reloading = lab.spawn(&["rblfilter", "reload"]).unwrap();
        let two = || Some(ours(&lab)).filter(|workers| workers.len() == 2);
        let workers = wait_for(LIMIT, two).expect("two workers at the same time");
        lab.kill(workers[who], Signal::SIGKILL).unwrap();
        reloading.wait_within(LIMIT).unwrap();
        let after = filter(&lab);
        assert_eq!(after.supervisor, before.supervisor);
        let source = format!("127.66.2.{who}");
        assert_banned(&lab, &lab.send(&message(), ip(&source)), &source, &source);
    }
    assert!(Path::new(CONTROL).exists());
    assert_eq!(bans(&lab).lines().count(), 2);
}

/// At whatever moment of it: the two agree between themselves, or the one before
/// serves on.
#[test]
fn a_supervisor_that_dies_in_a_reload_leaves_one_who_serves() {
    let lab = lab(Config::default(), OWN_ZONE);
    let stream = Stream::begin(2);
    for round in 0..8_u32 {
        let supervisor = filter(&lab).supervisor;
        wait_for(LIMIT, || Path::new(CONTROL).exists().then_some(())).unwrap();
        let reloading = lab.spawn(&["rblfilter", "reload"]).unwrap();
        let end = Instant::now() + Duration::from_millis(u64::from(round) * 20);
        while Instant::now() < end {
            thread::yield_now();
        }
        lab.kill(supervisor, Signal::SIGKILL).unwrap();
        reloading.wait_within(LIMIT * 2).unwrap();
        let source = format!("127.66.3.{round}");
        assert_banned(&lab, &lab.send(&message(), ip(&source)), &source, &source);
        product().filterctl_stop(&lab).unwrap();
        assert!(!filter_socket().exists(), "{round}");
        product().filterctl_start(&lab).unwrap();
    }
    assert_eq!(stream.end(&lab, 0).tempfailed, 0);
    let listed = bans(&lab);
    for round in 0..8 {
        assert!(listed.contains(&format!("127.66.3.{round}/")), "{listed}");
    }
}
