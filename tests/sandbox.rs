//! What worker and warden cannot do, in a running filter and in a process that
//! is walled in like the worker.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

use common::*;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use rblfilter::sys::sandbox;
use rblfilter_lab::{Config, Lab, wait_for};
use rblfilter_warden::policy::Layer;
use serde_json::Value;

/// Set in the process that is walled in; what it is to try.
const TRY: &str = "RBLFILTER_TRY";

fn can_open(family: AddressFamily, kind: SockType) -> Result<(), Errno> {
    socket(family, kind, SockFlag::SOCK_CLOEXEC, None).map(drop)
}

/// Tries one thing behind the worker's walls; it is refused, or ends the process.
fn attempt(what: &str) {
    // The walls are for the threads too that run already.
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let before = std::thread::spawn(move || {
        receiver.recv().unwrap();
        can_open(AddressFamily::Packet, SockType::Raw)
    });
    let layers = sandbox::enter(sandbox::drop_privileges(), Layer::Auto, |layer, error| {
        panic!("{layer}: {error}")
    });
    assert!(layers.capabilities && layers.no_new_privs && layers.seccomp);
    match what {
        "its work" => {
            for (family, kind) in [
                (AddressFamily::Inet, SockType::Datagram),
                (AddressFamily::Inet6, SockType::Stream),
                (AddressFamily::Unix, SockType::Stream),
                (AddressFamily::Netlink, SockType::Datagram),
            ] {
                can_open(family, kind).unwrap();
            }
            assert_eq!(std::thread::spawn(|| 7).join().unwrap(), 7);
            let folder =
                std::env::temp_dir().join(format!("rblfilter-walls-{}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            let mut file = File::create(folder.join("a")).unwrap();
            file.write_all(b"x").unwrap();
            file.sync_all().unwrap();
            fs::rename(folder.join("a"), folder.join("b")).unwrap();
            fs::remove_dir_all(&folder).unwrap();
            // A panic is told with its backtrace.
            assert!(std::panic::catch_unwind(|| panic!("on purpose")).is_err());
            // Who asks may be known to a name service that has a library of its own.
            assert!(nix::unistd::User::from_uid(0.into()).unwrap().is_some());
        }
        "packets" => assert_eq!(
            can_open(AddressFamily::Packet, SockType::Raw),
            Err(Errno::ENOSYS)
        ),
        "packets, from a thread that ran before" => {
            sender.send(()).unwrap();
            assert_eq!(before.join().unwrap(), Err(Errno::ENOSYS));
        }
        "a program" => assert!(Command::new("/bin/true").spawn().is_err()),
        "a signal by number" => {
            let own = nix::unistd::getpid();
            assert_eq!(nix::sys::signal::kill(own, None), Err(Errno::ENOSYS));
        }
        "exec" => {
            let _ = nix::unistd::execv(c"/bin/true", &[c"true"]);
        }
        "chroot" => {
            let _ = nix::unistd::chroot("/");
        }
        other => panic!("{other}"),
    }
}

/// What became of a process of its own in which the test `name` tries `what`.
fn tried(name: &str, what: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(TRY, what)
        .output()
        .unwrap()
}

#[test]
fn behind_the_walls_the_worker_can_do_its_work_and_nothing_else() {
    if let Some(what) = std::env::var_os(TRY) {
        attempt(what.to_str().unwrap());
        return;
    }
    for (what, deadly) in [
        ("its work", false),
        ("packets", false),
        ("packets, from a thread that ran before", false),
        ("a program", false),
        ("a signal by number", false),
        ("exec", true),
        ("chroot", true),
    ] {
        let name = "behind_the_walls_the_worker_can_do_its_work_and_nothing_else";
        let output = tried(name, what);
        let said = String::from_utf8_lossy(&output.stderr);
        if deadly {
            assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{what}: {said}");
        } else {
            assert!(output.status.success(), "{what}: {said}");
        }
    }
}

/// Tries one thing behind the fence of what runs `aliaslookup`, or has a program that
/// it starts try it.
fn attempt_fenced(what: &str) {
    sandbox::fence(Layer::Auto, |layer, error| panic!("{layer}: {error}"));
    // A program that it starts is told so by the kernel.
    let refused = |words: &[&str]| {
        let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let unknown = said.contains("not implemented");
        assert!(!output.status.success() && unknown, "{words:?}: {said}");
    };
    match what {
        "its work" => {
            can_open(AddressFamily::Unix, SockType::Stream).unwrap();
            let output = Command::new("/bin/sh")
                .args(["-c", "echo $(cat /proc/sys/kernel/ostype) | tr x X"])
                .output()
                .unwrap();
            assert_eq!(output.stdout, b"LinuX\n");
            assert_eq!(std::thread::spawn(|| 7).join().unwrap(), 7);
        }
        "to leave the machine" => {
            for (family, kind) in [
                (AddressFamily::Inet, SockType::Datagram),
                (AddressFamily::Inet6, SockType::Stream),
                (AddressFamily::Netlink, SockType::Raw),
                (AddressFamily::Packet, SockType::Raw),
            ] {
                assert_eq!(can_open(family, kind), Err(Errno::ENOSYS), "{family:?}");
            }
            refused(&["bash", "-c", "exec 3<>/dev/udp/127.0.0.1/9"]);
        }
        "to reach into others" => {
            let mut byte = [0];
            let mut ours = [std::io::IoSliceMut::new(&mut byte)];
            let theirs = [RemoteIoVec { base: 0, len: 1 }];
            let read = process_vm_readv(nix::unistd::getppid(), &mut ours, &theirs);
            assert_eq!(read, Err(Errno::ENOSYS));
            assert_eq!(nix::unistd::chroot("/"), Err(Errno::ENOSYS));
            refused(&["unshare", "--user", "true"]);
            refused(&["nsenter", "--net=/proc/self/ns/net", "true"]);
            refused(&["unshare", "--mount", "true"]);
        }
        other => panic!("{other}"),
    }
}

#[test]
fn behind_the_fence_a_program_runs_and_does_not_leave_the_machine() {
    if let Some(what) = std::env::var_os(TRY) {
        attempt_fenced(what.to_str().unwrap());
        return;
    }
    for what in ["its work", "to leave the machine", "to reach into others"] {
        let name = "behind_the_fence_a_program_runs_and_does_not_leave_the_machine";
        let output = tried(name, what);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{what}: {said}");
    }
}

/// Lines of `/proc/PID/status`, of all threads, that are not as they should be.
fn wrong(pid: i32, expected: &[(&str, &str)]) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let mut wrong = Vec::new();
    for task in tasks {
        let path = task.unwrap().path().join("status");
        // A thread may have ended.
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        for (key, value) in expected {
            let line = text
                .lines()
                .find(|line| line.starts_with(&format!("{key}:")));
            let seen = line.and_then(|line| line.split_whitespace().nth(1));
            if seen != Some(value) {
                wrong.push(format!("{}: {key}: {seen:?}", path.display()));
            }
        }
    }
    wrong
}

fn pid_of(lab: &Lab, comm: &str, argument: Option<&str>) -> i32 {
    let find = || {
        lab.processes()
            .into_iter()
            .find(|process| {
                let said = argument.is_none_or(|word| {
                    lab.arguments(process.pid).iter().any(|found| found == word)
                });
                process.comm == comm && said
            })
            .map(|process| process.pid)
    };
    wait_for(LIMIT, find).unwrap_or_else(|| panic!("no process {comm}"))
}

const NO_CAPABILITY: &str = "0000000000000000";
const NET_ADMIN: &str = "0000000000001000";

#[test]
fn a_running_filter_is_walled_in_and_says_so() {
    let lab = lab(Config::default(), OWN_ZONE);
    assert_banned(&lab, &lab.send(&message(), ip(LISTED)), LISTED, LISTED);
    let worker = pid_of(&lab, "rblfilter", Some("supervised-worker"));
    let warden = pid_of(&lab, "rblfilter-warde", None);
    for (pid, held) in [(worker, NO_CAPABILITY), (warden, NET_ADMIN)] {
        let expected = [
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
            ("Seccomp_filters", "2"),
            ("CapEff", held),
            ("CapPrm", held),
            ("CapInh", NO_CAPABILITY),
            ("CapAmb", NO_CAPABILITY),
        ];
        let wrong = wrong(pid, &expected);
        assert!(wrong.is_empty(), "{wrong:?}");
    }
    // What runs aliaslookup gains nothing by it.
    let aliases = pid_of(&lab, "rblfilter-alias", None);
    let supervisor = filter(&lab).supervisor;
    for (pid, what) in [
        (supervisor, "supervisor"),
        (aliases, "aliases"),
        (warden, "warden"),
    ] {
        for file in ["mem", "environ"] {
            let path = format!("/proc/{pid}/{file}");
            assert_eq!(fs::metadata(&path).unwrap().uid(), 0, "{what}: {path}");
            // The walls let the worker open files: whoever has its user may try.
            let attempt = format!("exec 3<>{path}");
            let output = lab
                .run(&[
                    "setpriv",
                    "--reuid=courier",
                    "--regid=courier",
                    "--clear-groups",
                    "sh",
                    "-c",
                    &attempt,
                ])
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(
                !output.status.success() && said.contains("ermission denied"),
                "{what}: {said}"
            );
        }
    }
    // That is how it is known that it is refused.
    let mem = format!("/proc/{worker}/mem");
    assert_ne!(fs::metadata(mem).unwrap().uid(), 0);
    let fenced = [
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        ("Seccomp_filters", "1"),
    ];
    assert_eq!(wrong(aliases, &fenced), [""; 0]);
    let limits = fs::read_to_string(format!("/proc/{warden}/limits")).unwrap();
    for (name, most) in [
        ("Max processes", "0"),
        ("Max core file size", "0"),
        ("Max open files", "64"),
    ] {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        let seen: Vec<&str> = line[name.len()..].split_whitespace().take(2).collect();
        assert_eq!(seen, [most, most], "{name}");
    }
    let sandbox = &status(&lab)["sandbox"];
    for process in ["worker", "warden"] {
        for layer in ["capabilities", "no-new-privs", "seccomp"] {
            assert_eq!(sandbox[process][layer], true, "{sandbox}");
        }
    }
    assert_eq!(sandbox["worker"]["landlock"], 0, "{sandbox}");
    // Which the kernel that runs the tests has.
    assert!(
        sandbox["warden"]["landlock"].as_u64().unwrap() >= 1,
        "{sandbox}"
    );
    // Nothing of it was missing, and nothing was refused.
    assert!(lab.log_matching("without").is_empty(), "{:?}", lab.log());
}

#[test]
fn the_walls_can_be_left_out_and_that_is_told() {
    let toml = format!("[sandbox]\nseccomp = \"off\"\nlandlock = \"off\"\n{ZONE}");
    let lab = lab(Config::default(), &format!("watch = \"poll\"\n{toml}"));
    assert_banned(&lab, &lab.send(&message(), ip(LISTED)), LISTED, LISTED);
    let worker = pid_of(&lab, "rblfilter", Some("supervised-worker"));
    let warden = pid_of(&lab, "rblfilter-warde", None);
    let aliases = pid_of(&lab, "rblfilter-alias", None);
    for pid in [worker, warden, aliases] {
        let wrong = wrong(pid, &[("NoNewPrivs", "1"), ("Seccomp", "0")]);
        assert!(wrong.is_empty(), "{wrong:?}");
    }
    let output = lab.run_ok(&["rblfilter", "status"]).unwrap();
    assert!(
        output.contains("worker: no capability, no_new_privs, NO seccomp\n"),
        "{output}"
    );
    assert!(output.contains("NO seccomp, NO landlock\n"), "{output}");
}

#[test]
fn a_worker_whose_configuration_is_wrong_is_walled_in_too() {
    let lab = lab(Config::default(), ZONE);
    product().filterctl_stop(&lab).unwrap();
    fs::write("/etc/courier/filters/rblfilter.toml", "mode = \"off\"\n").unwrap();
    product().filterctl_start(&lab).unwrap();
    let worker = pid_of(&lab, "rblfilter", Some("supervised-worker"));
    let expected = [("Seccomp", "2"), ("CapPrm", NO_CAPABILITY)];
    // The socket was there before it.
    let walled = || wrong(worker, &expected).is_empty().then_some(());
    wait_for(LIMIT, walled).expect("it is walled in");
    assert_delivered(&lab, &message(), LISTED, 1);
}

#[test]
fn status_tells_what_is_and_what_does_not_work() {
    let lab = lab(
        Config::default(),
        &format!("watch = \"poll\"\n{ZONE}[[dnsbl]]\nzone = \"nobody.test\"\n"),
    );
    lab.wait_for_log("degraded,what=dnsbl,zone=nobody.test", LIMIT)
        .unwrap();
    let mut client = lab.connect(ip(CLEAN)).unwrap();
    greet(&lab, &mut client);
    let with_session = || {
        let status = status(&lab);
        (status["sessions"] == 1).then_some(status)
    };
    let told = wait_for(LIMIT, with_session).expect("the session is followed");
    for (key, expected) in [
        ("mode", Value::from("enforce")),
        ("watch", "poll".into()),
        ("bans", 0.into()),
        ("allowed", 0.into()),
        ("version", env!("CARGO_PKG_VERSION").into()),
        (
            "pid",
            pid_of(&lab, "rblfilter", Some("supervised-worker")).into(),
        ),
    ] {
        assert_eq!(told[key], expected, "{key}: {told}");
    }
    let listener = told["listeners"].as_array().unwrap().iter();
    let esmtpd: Vec<&Value> = listener.filter(|it| it["name"] == "esmtpd").collect();
    assert_eq!(esmtpd.len(), 1, "{told}");
    assert_eq!(esmtpd[0]["used"], 1, "{told}");
    let environment = lab.environment(lab.sessions().unwrap()[0].pid);
    let (_, slots) = environment
        .iter()
        .find(|(name, _)| name == "MAXDAEMONS")
        .unwrap();
    assert_eq!(esmtpd[0]["slots"].to_string(), *slots, "{told}");
    let health = |name: &str| {
        let lists = told["lists"].as_array().unwrap();
        lists.iter().find(|list| list["name"] == name).unwrap()["health"].clone()
    };
    assert_eq!(
        (health("bl.test"), health("nobody.test")),
        ("believed".into(), "down".into())
    );
    let trouble = &told["degraded"][0];
    assert_eq!(
        (
            trouble["what"].as_str().unwrap(),
            trouble["name"].as_str().unwrap().starts_with("nobody.test")
        ),
        ("dnsbl", true)
    );
    assert!(!trouble["reason"].as_str().unwrap().is_empty());

    lab.run_ok(&["rblfilter", "ban", "127.9.9.9"]).unwrap();
    lab.run_ok(&["rblfilter", "allow", "127.8.8.8"]).unwrap();
    let text = lab.run_ok(&["rblfilter", "status"]).unwrap();
    for part in [
        "enforce, running for ",
        "by poll; 1 session is followed",
        "1 address or network is banned, 1 is let in by hand",
        "bl.test: believed",
        "nobody.test: DOWN, convicts nobody",
        "degraded    dnsbl nobody.test",
        "warden: cap_net_admin alone, no_new_privs, seccomp, landlock ",
    ] {
        assert!(text.contains(part), "{part:?} in:\n{text}");
    }
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );

    product().filterctl_stop(&lab).unwrap();
    let output = lab.run(&["rblfilter", "status"]).unwrap();
    assert_eq!(output.status.code(), Some(69));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("the filter does not run"), "{said}");
}
