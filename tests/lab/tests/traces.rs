//! Nothing of a lab is seen outside it, and nothing of it remains.
#![allow(clippy::unwrap_used)] // Also in the helpers, which clippy.toml does not exempt.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Barrier, mpsc};
use std::time::Duration;

use rblfilter_lab::smtp::Message;
use rblfilter_lab::{Config, Lab, wait_for};

const LIMIT: Duration = Duration::from_secs(10);

/// What a lab might change on the machine: mounts, processes' pid namespaces, files.
struct Machine {
    mounts: String,
    namespaces: BTreeSet<PathBuf>,
    files: BTreeSet<(PathBuf, u64, i64)>,
}

impl Machine {
    /// As the calling thread sees it.
    fn look() -> Self {
        let mut files = BTreeSet::new();
        for folder in [
            "/etc",
            "/var/lib/courier",
            "/run",
            "/var/log",
            "/mnt",
            "/usr/lib/courier",
        ] {
            walk(Path::new(folder), &mut files);
        }
        let link = |name: &str| fs::read_link(format!("/proc/thread-self/ns/{name}")).unwrap();
        let namespaces = ["mnt", "net", "pid", "pid_for_children"].map(link).into();
        Self {
            mounts: fs::read_to_string("/proc/thread-self/mountinfo").unwrap(),
            namespaces,
            files,
        }
    }

    fn assert_unchanged(&self) {
        let now = Self::look();
        assert_eq!(now.mounts, self.mounts);
        assert_eq!(now.namespaces, self.namespaces);
        let changed: Vec<_> = now.files.symmetric_difference(&self.files).collect();
        assert!(changed.is_empty(), "{changed:?}");
    }
}

fn walk(folder: &Path, files: &mut BTreeSet<(PathBuf, u64, i64)>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(data) = fs::symlink_metadata(entry.path()) else {
            continue;
        };
        files.insert((
            entry.path(),
            data.ino(),
            data.ctime() * 1_000_000_000 + data.ctime_nsec(),
        ));
        if data.is_dir() {
            walk(&entry.path(), files);
        }
    }
}

/// The host's processes that have this word in their environment: a lab's inherit it from the test.
fn marked(word: &str) -> Vec<(String, String)> {
    let is_marked = |pid: &PathBuf| {
        let environ = fs::read(pid.join("environ")).unwrap_or_default();
        environ
            .split(|byte| *byte == 0)
            .any(|variable| variable == word.as_bytes())
    };
    let entries = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .map(|entry| entry.path());
    let name = |pid: PathBuf| {
        (
            pid.display().to_string(),
            fs::read_to_string(pid.join("comm")).unwrap_or_default(),
        )
    };
    entries.filter(is_marked).map(name).collect()
}

/// The host's processes in this pid namespace.
fn of_namespace(namespace: &Path) -> usize {
    let entries = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .map(|entry| entry.path());
    entries
        .filter(|pid| fs::read_link(pid.join("ns/pid")).is_ok_and(|link| link == namespace))
        .count()
}

fn work(lab: &Lab) -> PathBuf {
    assert!(
        lab.send(&Message::default(), Ipv4Addr::new(127, 1, 2, 3))
            .accepted()
    );
    lab.wait_for_mail(1, LIMIT).unwrap();
    fs::write("/etc/courier/of-the-lab", "").unwrap();
    fs::write("/usr/lib/courier/of-the-lab", "").unwrap();
    fs::write("/run/of-the-lab", "").unwrap();
    // Nobody waits for these two.
    lab.spawn(&["sleep", "1000"]).unwrap();
    lab.spawn(&["true"]).unwrap();
    fs::read_link("/proc/1/ns/pid").unwrap()
}

#[test]
fn nothing_remains_after_a_drop_nor_after_a_panic() {
    let directory = std::env::current_dir().unwrap();
    let before = Machine::look();
    let lab = Lab::start(Config {
        msa: true,
        ..Config::default()
    })
    .unwrap();
    let namespace = work(&lab);
    drop(lab);
    before.assert_unchanged();
    assert_eq!(of_namespace(&namespace), 0);
    assert_eq!(std::env::current_dir().unwrap(), directory);

    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let lab = Lab::start(Config::default()).unwrap();
        let namespace = work(&lab);
        std::panic::resume_unwind(Box::new(namespace));
    }));
    let namespace = *panicked.unwrap_err().downcast::<PathBuf>().unwrap();
    before.assert_unchanged();
    assert_eq!(of_namespace(&namespace), 0);

    // A lab that does not start takes the thread back, too.
    let error = Lab::start(Config {
        esmtpd: vec!["exit 3".into()],
        ..Config::default()
    })
    .err()
    .unwrap();
    assert!(
        error.to_string().contains("failed: exit status: "),
        "{error}"
    );
    before.assert_unchanged();
    assert!(Lab::start(Config::default()).is_ok());
}

#[test]
fn two_labs_in_two_threads_do_not_see_each_other() {
    let barrier = Barrier::new(2);
    let one = |number: u8, other: u8| {
        let lab = Lab::start(Config::default()).unwrap();
        barrier.wait();
        let source = Ipv4Addr::new(127, 1, 1, number);
        assert!(
            lab.send(
                &Message {
                    subject: format!("from {number}"),
                    ..Message::default()
                },
                source
            )
            .accepted()
        );
        let mail = lab.wait_for_mail(1, LIMIT).unwrap();
        lab.run_ok(&["ipset", "create", &format!("set{number}"), "hash:ip"])
            .unwrap();
        barrier.wait();
        assert_eq!(mail.len(), 1);
        assert!(mail[0].contains(&format!("Subject: from {number}")));
        assert_eq!(lab.mailbox().len(), 1);
        assert!(lab.log_matching(&format!("127.1.1.{other}]")).is_empty());
        assert_eq!(
            lab.processes()
                .iter()
                .filter(|process| process.comm == "rbldnsd")
                .count(),
            1
        );
        assert!(lab.has_set(&format!("set{number}")).unwrap());
        assert!(!lab.has_set(&format!("set{other}")).unwrap());
        barrier.wait();
    };
    std::thread::scope(|scope| {
        scope.spawn(|| one(1, 2));
        scope.spawn(|| one(2, 1));
    });
}

#[test]
fn other_threads_stay_on_the_machine() {
    let net = || fs::read_link("/proc/thread-self/ns/net").unwrap();
    let outside = net();
    // Channels, not a barrier: a lab that does not start must fail the test, not hang it.
    let (started, has_started) = mpsc::channel();
    let (done, is_done) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let lab = Lab::start(Config::default()).unwrap();
            fs::write("/run/lab/witness", "").unwrap();
            started.send(()).unwrap();
            // Ends when the other side has looked, or has failed.
            let _ = is_done.recv();
            drop(lab);
        });
        has_started.recv().expect("a lab in the other thread");
        assert_eq!(net(), outside);
        assert!(!Path::new("/run/lab/witness").exists());
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, 587)).is_err());
        drop(done);
    });
}

#[test]
fn a_killed_lab_leaves_no_process() {
    let mark = format!("LAB_MARK={}", std::process::id());
    let (name, value) = mark.split_once('=').unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_lab"))
        .args(["run", "--", "sleep", "1000"])
        .env(name, value)
        .spawn()
        .unwrap();
    wait_for(LIMIT, || {
        marked(&mark)
            .iter()
            .any(|(_, comm)| comm == "sleep\n")
            .then_some(())
    })
    .unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for(LIMIT, || marked(&mark).is_empty().then_some(()))
        .unwrap_or_else(|| panic!("{:?}", marked(&mark)));
}
