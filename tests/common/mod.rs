//! What the end-to-end tests share: a lab with rblfilter installed in it by
//! install.sh, as an admin would.
#![allow(dead_code, missing_docs, clippy::unwrap_used)] // each test program uses its own part

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rblfilter_lab::smtp::{Client, Message, Outcome, Reply};
use rblfilter_lab::{Config, Dns, Lab, Product, SetMember, Spaces, wait_for};

/// One zone of our own, the lab's rbldnsd.
pub const ZONE: &str = "[lookup]\nquery-non-global = true\n[[dnsbl]]\nzone = \"bl.test\"\n";

/// The same, after a `[lookup]` table with keys of its own.
pub const OF_LOOKUP: &str = "query-non-global = true\n[[dnsbl]]\nzone = \"bl.test\"\n";

/// The same, and judgement at the end of data alone.
pub const OWN_ZONE: &str =
    "watch = \"off\"\n[lookup]\nquery-non-global = true\n[[dnsbl]]\nzone = \"bl.test\"\n";

/// An address that bl.test lists, and one that it does not.
pub const LISTED: &str = "127.66.1.2";
pub const CLEAN: &str = "127.1.2.3";
pub const LISTED6: &str = "fd00:66:1:2::5";

/// Longer than anything takes that is not broken.
pub const LIMIT: Duration = Duration::from_secs(15);

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// install.sh of this checkout, and the programs that were built with the tests.
pub fn product() -> Product {
    let programs = Path::new(env!("CARGO_BIN_EXE_rblfilter")).parent().unwrap();
    Product {
        installer: Path::new(env!("CARGO_MANIFEST_DIR")).join("install.sh"),
        programs: programs.to_owned(),
    }
}

/// A lab in which rblfilter runs with this configuration.
pub fn lab(config: Config, toml: &str) -> Lab {
    let lab = Lab::start(config).unwrap();
    product().start(&lab, toml).unwrap();
    // Where install.sh was not run, there is no folder for it.
    if lab.spaces() == Spaces::Private {
        wait_for_control();
    }
    lab
}

/// A lab whose list says nothing, so that each message waits at the filter for its
/// limit, with these keys of `[lookup]`. couriertcpd looks up nobody's name, or it
/// would wait, too.
pub fn with_silent_lists(lookup: &str) -> Lab {
    let config = Config {
        dns: Dns::Silent,
        tcpd_options: "-nodnslookup".into(),
        ..Config::default()
    };
    let toml = format!("watch = \"off\"\n[lookup]\n{lookup}{OF_LOOKUP}");
    lab(config, &toml)
}

/// The commands' socket comes after the filter's, when the bans are read.
fn wait_for_control() {
    let answers = || UnixStream::connect("/var/lib/courier/rblfilter/control").ok();
    wait_for(LIMIT, answers).expect("the control socket");
}

pub fn filter_socket() -> PathBuf {
    "/var/lib/courier/allfilters/rblfilter".into()
}

pub fn message() -> Message {
    Message::default()
}

/// A message to somebody who never answers, with a short patience.
pub fn impatient() -> Message {
    Message {
        patience: Duration::from_millis(1500),
        ..Message::default()
    }
}

/// Reads the greeting and says EHLO.
pub fn greet(lab: &Lab, client: &mut Client) {
    assert_eq!(lab.block_on(client.read_reply()).unwrap().code, 220);
    assert_eq!(
        lab.block_on(client.command("EHLO client.test"))
            .unwrap()
            .code,
        250
    );
}

/// A Courier whose 40 slots can be filled quickly.
pub fn few_slots() -> Config {
    Config {
        max_daemons: 40,
        tarpit: false,
        ..Config::default()
    }
}

/// Sessions of 127.1.7.1 and on that hold their slots.
pub fn held(lab: &Lab, count: u8) -> Vec<Client> {
    (1..=count)
        .map(|host| {
            let mut client = lab.connect([127, 1, 7, host]).unwrap();
            greet(lab, &mut client);
            client
        })
        .collect()
}

/// Sends a message within an open session, to `recipient` as RCPT names it;
/// the answer to its data.
pub fn message_in(lab: &Lab, client: &mut Client, recipient: &str) -> io::Result<Reply> {
    lab.block_on(async {
        for line in [
            "MAIL FROM:<bob@client.test>",
            &format!("RCPT TO:{recipient}"),
            "DATA",
        ] {
            let reply = client.command(line).await?;
            assert!(reply.is_positive(), "{line}: {reply}");
        }
        client.data("Subject: test\n\nHello.\n").await
    })
}

/// What is true of a client that was refused at the end of data and banned as
/// `net`, whose session came from `source`.
pub fn assert_banned(lab: &Lab, outcome: &Outcome, source: &str, net: &str) {
    assert!(!outcome.accepted(), "refused: {outcome:?}");
    assert!(
        outcome.cut_off() || outcome.refused_code() == Some(554),
        "cut off or refused: {outcome:?}"
    );
    assert_ended(lab, source);
    let set = if ip(source).is_ipv4() {
        "rblfilter4"
    } else {
        "rblfilter6"
    };
    let member = || {
        let members = lab.set_members(set).unwrap();
        members.into_iter().find(|member| member.net == net)
    };
    let member = wait_for(LIMIT, member).unwrap_or_else(|| panic!("{net} in {set}"));
    let seconds = member.timeout.unwrap();
    assert!((3500..=3600).contains(&seconds), "an hour: {seconds}");
    let next = lab.send(&impatient(), ip(source));
    assert!(
        next.not_answered(),
        "its next connection is not answered: {next:?}"
    );
}

/// No session of `source` is left.
pub fn assert_session_ended(lab: &Lab, source: &str) {
    let gone = || {
        let sessions = lab.sessions().unwrap();
        let alive = sessions
            .iter()
            .any(|session| session.remote.is_some_and(|(peer, _)| peer == ip(source)));
        (!alive).then_some(())
    };
    wait_for(LIMIT, gone).unwrap_or_else(|| panic!("a session of {source} lives on"));
}

/// The same, nor a file of its message, nor of any other.
pub fn assert_ended(lab: &Lab, source: &str) {
    assert_session_ended(lab, source);
    let clean = || lab.courier_tmp_files().is_empty().then_some(());
    wait_for(LIMIT, clean).unwrap_or_else(|| panic!("left in tmp: {:?}", lab.courier_tmp_files()));
}

/// Carol's alias, for [`assert_aliases_are_looked_up`].
pub const CAROL: &str = "carol: carol@elsewhere.test";

/// Whoever only says that it was for postmaster (RFC 3461, ORCPT), from `source`, which
/// is listed, is not believed: it would pass, were no alias looked up.
pub fn assert_aliases_are_looked_up(lab: &Lab, source: &str) {
    let mut client = lab.connect(ip(source)).unwrap();
    greet(lab, &mut client);
    let claimed = "<carol@lab.test> ORCPT=rfc822;postmaster@lab.test";
    let reply = message_in(lab, &mut client, claimed);
    assert!(
        reply.as_ref().map_or(true, |reply| reply.code == 554),
        "{reply:?}"
    );
    assert_ended(lab, source);
}

/// A message of `source` arrives in the mailbox as the `count`th.
pub fn assert_delivered(lab: &Lab, message: &Message, source: &str, count: usize) {
    let outcome = lab.send(message, ip(source));
    assert!(outcome.accepted(), "{source}: {outcome:?}");
    lab.wait_for_mail(count, LIMIT).unwrap();
}

/// It is banned, or is in a moment: its session is ended first.
pub fn assert_banned_too(lab: &Lab, net: &str) {
    let banned = || {
        let members = lab.set_members("rblfilter4").unwrap();
        members.iter().any(|member| member.net == net).then_some(())
    };
    wait_for(LIMIT, banned).unwrap_or_else(|| panic!("{net}"));
}

/// Runs a command of the filter's until it succeeds, a few times: on a busy machine
/// the warden's answer may come too late. What it said.
pub fn by_hand(lab: &Lab, words: &[&str]) -> String {
    let words = [&["rblfilter"], words].concat();
    for _ in 0..4 {
        if let Ok(told) = lab.run_ok(&words) {
            return told;
        }
    }
    lab.run_ok(&words).unwrap()
}

/// That the file of bans took its time to be read, which it may on a busy machine.
pub fn is_late(line: &str) -> bool {
    line.contains("it is not read within 3 s")
}

/// A runtime for a thread beside the lab's.
pub fn own_runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Sends a message on a thread of its own.
pub fn sending(message: Message, source: &str) -> JoinHandle<Outcome> {
    let source = ip(source);
    std::thread::spawn(move || own_runtime().block_on(message.send(source)))
}

/// What `rblfilter status --json` says.
pub fn status(lab: &Lab) -> serde_json::Value {
    let told = || {
        let output = lab.run(&["rblfilter", "status", "--json"]).unwrap();
        (output.status.code() != Some(69)).then_some(output)
    };
    let output = wait_for(LIMIT, told).expect("the filter serves commands");
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Nobody is banned.
pub fn assert_no_bans(lab: &Lab) {
    for set in ["rblfilter4", "rblfilter6"] {
        let members = lab.set_members(set).unwrap();
        assert!(members.is_empty(), "{set}: {members:?}");
    }
}

/// Messages that are sent without a pause while something is done to the
/// filter: each has a subject of its own, so that its fate can be told.
pub struct Stream {
    stop: Arc<AtomicBool>,
    senders: Vec<JoinHandle<Vec<(String, Outcome, Duration)>>>,
}

/// What has become of a [`Stream`].
#[derive(Debug)]
pub struct Fates {
    /// Accepted, and delivered once.
    pub delivered: usize,
    /// Refused with a 4xx reply, and not delivered.
    pub tempfailed: usize,
    /// The longest that one took.
    pub longest: Duration,
}

impl Stream {
    /// Begins to send from as many clients at a time.
    pub fn begin(clients: u8) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let senders = (1..=clients)
            .map(|client| {
                let stop = Arc::clone(&stop);
                std::thread::spawn(move || {
                    let runtime = own_runtime();
                    let mut sent = Vec::new();
                    while !stop.load(Relaxed) {
                        let number = sent.len();
                        let subject = format!("stream-{client}-{number}-");
                        let message = Message {
                            subject: subject.clone(),
                            patience: Duration::from_secs(60),
                            ..Message::default()
                        };
                        let source = format!("127.1.{client}.{}", 1 + number % 250);
                        let begun = Instant::now();
                        let outcome = runtime.block_on(message.send(ip(&source)));
                        sent.push((subject, outcome, begun.elapsed()));
                    }
                    sent
                })
            })
            .collect();
        Self { stop, senders }
    }

    /// Sends no more, and tells what became of each; nobody else may have sent
    /// anything but `others`.
    pub fn end(self, lab: &Lab, others: usize) -> Fates {
        self.stop.store(true, Relaxed);
        let joined = self
            .senders
            .into_iter()
            .map(|sender| sender.join().unwrap());
        let sent: Vec<_> = joined.flatten().collect();
        let (accepted, refused): (Vec<_>, Vec<_>) =
            sent.iter().partition(|(_, outcome, _)| outcome.accepted());
        let mails = lab
            .wait_for_mail(accepted.len() + others, LIMIT * 2)
            .unwrap();
        let delivered = |subject: &str| mails.iter().filter(|mail| mail.contains(subject)).count();
        for (subject, ..) in &accepted {
            assert_eq!(delivered(subject), 1, "{subject} once");
        }
        for (subject, outcome, _) in &refused {
            assert_eq!(delivered(subject), 0, "{subject}: {outcome:?}");
            let code = outcome.refused_code().unwrap_or_default();
            assert!((400..500).contains(&code), "{subject}: {outcome:?}");
        }
        Fates {
            delivered: accepted.len(),
            tempfailed: refused.len(),
            longest: sent
                .iter()
                .map(|(_, _, took)| *took)
                .max()
                .unwrap_or_default(),
        }
    }
}

/// The filter's processes by what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    pub supervisor: i32,
    pub worker: i32,
    pub warden: i32,
}

/// The filter's processes, once there is one of each and nothing else, not even
/// one that has ended and was not collected.
pub fn filter(lab: &Lab) -> Filter {
    let settled = || {
        let all = lab.processes();
        let ours = all.iter().filter(|p| p.comm.starts_with("rblfilter"));
        let (mut supervisors, mut workers, mut wardens) = (Vec::new(), Vec::new(), Vec::new());
        for process in ours {
            let arguments = lab.arguments(process.pid);
            let worker = arguments.iter().any(|word| word == "supervised-worker");
            match (process.comm.as_str(), worker) {
                _ if process.state == 'Z' => return None,
                ("rblfilter", true) => workers.push(process.pid),
                ("rblfilter", false) => {
                    // Else it is a command.
                    let role = arguments.get(1);
                    if role.is_none_or(|role| role == "resumed-supervisor") {
                        supervisors.push(process.pid);
                    }
                }
                // The bans' warden alone is meant.
                _ if arguments.get(1).is_some_and(|word| word == "gate") => {}
                // What looks up aliases, the worker's own child.
                ("rblfilter-alias", _) => {}
                _ => wardens.push(process.pid),
            }
        }
        match (&supervisors[..], &workers[..], &wardens[..]) {
            ([supervisor], [worker], [warden]) => Some(Filter {
                supervisor: *supervisor,
                worker: *worker,
                warden: *warden,
            }),
            _ => None,
        }
    };
    wait_for(LIMIT * 2, settled).unwrap_or_else(|| panic!("{:?}", lab.processes()))
}

/// No process of the filter runs a file that has been replaced.
pub fn assert_runs_what_is_installed(lab: &Lab) {
    let replaced = |pid: i32| {
        let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap();
        program.to_string_lossy().ends_with(" (deleted)")
    };
    let Filter {
        supervisor,
        worker,
        warden,
    } = filter(lab);
    for pid in [supervisor, worker, warden] {
        assert!(!replaced(pid), "{pid}");
    }
}

/// What can hold the bans.
pub const BACKENDS: [&str; 2] = ["ipset", "nftables"];

/// What the kernel's sets of one family hold, by whatever backend; one that is
/// missing holds nothing.
pub fn banned(lab: &Lab, backend: &str, ipv6: bool) -> Vec<SetMember> {
    let name = if ipv6 { "rblfilter6" } else { "rblfilter4" };
    if backend == "ipset" {
        return lab.set_members(name).unwrap_or_default();
    }
    [name.to_owned(), format!("{name}-nets")]
        .iter()
        .flat_map(|set| {
            let words = ["nft", "-j", "list", "set", "inet", "rblfilter", set];
            let listed = lab.run_ok(&words);
            listed.map_or_else(|_| Vec::new(), |json| nft_members(&json))
        })
        .collect()
}

fn nft_members(json: &str) -> Vec<SetMember> {
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    let objects = json["nftables"].as_array().unwrap();
    let set = objects.iter().find_map(|object| object.get("set")).unwrap();
    let none = Vec::new();
    let elements = set["elem"].as_array().unwrap_or(&none).iter();
    elements
        .map(|element| {
            let (val, expires) = (&element["elem"]["val"], &element["elem"]["expires"]);
            SetMember {
                net: match val.as_str() {
                    Some(address) => address.to_owned(),
                    None => format!(
                        "{}/{}",
                        val["prefix"]["addr"].as_str().unwrap(),
                        val["prefix"]["len"]
                    ),
                },
                timeout: expires.as_u64().map(|left| left.try_into().unwrap()),
            }
        })
        .collect()
}

/// What is added to the machine's time, as libfaketime reads it.
const CLOCK: &str = "/run/lab/clock";

/// A lab whose filter sees the wall clock of [`set_clock`]; Courier's daemons,
/// from which it has its environment, do too.
pub fn lab_with_a_clock(toml: &str) -> Lab {
    let library = ["x86_64", "aarch64"]
        .map(|machine| format!("/usr/lib/{machine}-linux-gnu/faketime/libfaketime.so.1"))
        .into_iter()
        .find(|path| fs::exists(path).unwrap())
        .expect("libfaketime (Debian: apt-get install faketime)");
    let lab = Lab::start(Config {
        courier: false,
        courierd: vec![
            format!("LD_PRELOAD={library}"),
            format!("FAKETIME_TIMESTAMP_FILE={CLOCK}"),
            "FAKETIME_NO_CACHE=1".into(),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".into(),
            "FAKETIME_DISABLE_SHM=1".into(),
            "NO_FAKE_STAT=1".into(),
        ],
        ..Config::default()
    })
    .unwrap();
    set_clock(0);
    lab.start_courier().unwrap();
    product().start(&lab, toml).unwrap();
    lab
}

/// Sets the filter's wall clock to so many seconds after the machine's.
pub fn set_clock(seconds: i64) {
    // In one step: it may be read at any moment.
    let new = format!("{CLOCK}.new");
    fs::write(&new, format!("{seconds:+}\n")).unwrap();
    fs::rename(new, CLOCK).unwrap();
}
