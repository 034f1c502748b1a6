//! Who would misuse it: a worker that was taken over, and a local user.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::Instant;

use common::*;
use ipnetwork::IpNetwork;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, Shutdown, SockFlag, SockType, recv, send, sendmsg,
    shutdown, socketpair,
};
use rblfilter_lab::{Config, Lab, Process, Spaces, wait_for};
use rblfilter_warden::request::{Outcome, Reply, Request};

const NOBODY: u32 = 65534;
const WARDEN: &str = "/usr/lib/courier/rblfilter-warden";
const CONTROL: &str = "/var/lib/courier/rblfilter/control";

/// A worker that was taken over has the warden's socket, and may send anything.
struct Hijacked {
    socket: OwnedFd,
    warden: Process,
}

impl Hijacked {
    fn start(lab: &Lab, stderr: Stdio) -> Self {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (socket, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        let warden = lab
            .command(WARDEN)
            .user(courier_uid(), courier_gid())
            .stdin(theirs)
            .stderr(stderr)
            .spawn()
            .unwrap();
        Self { socket, warden }
    }

    fn send(&self, bytes: &[u8]) {
        send(self.socket.as_raw_fd(), bytes, MsgFlags::empty()).unwrap();
    }

    fn reply(&self) -> Reply {
        let mut reply = [0; 64];
        let length = recv(self.socket.as_raw_fd(), &mut reply, MsgFlags::empty()).unwrap();
        Reply::decode(&reply[..length]).unwrap()
    }

    fn ask(&self, request: Request) -> Outcome {
        self.send(&request.encode(7));
        self.reply().outcome
    }

    /// Sends all, some before the answer to the first of them is read.
    fn ask_all(&self, requests: &[Request]) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for some in requests.chunks(64) {
            some.iter()
                .for_each(|request| self.send(&request.encode(1)));
            outcomes.extend(some.iter().map(|_| self.reply().outcome));
        }
        outcomes
    }
}

fn courier_uid() -> u32 {
    let user = nix::unistd::User::from_name("courier").unwrap().unwrap();
    user.uid.as_raw()
}

fn courier_gid() -> u32 {
    let group = nix::unistd::Group::from_name("courier").unwrap().unwrap();
    group.gid.as_raw()
}

/// Numbers without end, the same in each run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        // Marsaglia's xorshift.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[3]
    }

    /// A message that may be a request: of any length, or one of the right form
    /// with something, or nothing, wrong in it.
    fn message(&mut self) -> Vec<u8> {
        if self.below(4) == 0 {
            let length = 1 + self.below(200);
            return (0..length).map(|_| self.byte()).collect();
        }
        let mut bytes = self.request().encode(u32::from(self.byte())).to_vec();
        for _ in 0..self.below(3) {
            let place = usize::try_from(self.below(32)).unwrap();
            bytes[place] = self.byte();
        }
        bytes
    }

    /// One that bans whom nobody may ban, more often than not.
    fn request(&mut self) -> Request {
        let address = match self.below(8) {
            0 => "127.0.0.1".into(),
            1 => "10.77.0.1".into(),
            2 => "10.9.9.53".into(),
            3 => format!("10.1.{}.{}", self.byte(), self.byte()),
            4 => "::1".into(),
            5 => format!("fd00:5:{:x}::", self.byte()),
            6 => format!("127.66.{}.{}", self.byte(), self.byte()),
            _ => format!("fd00:66:{:x}:{:x}::", self.byte(), self.byte()),
        };
        let address: std::net::IpAddr = address.parse().unwrap();
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = if self.below(2) == 0 {
            most
        } else {
            u8::try_from(self.below(u64::from(most) + 1)).unwrap()
        };
        let network = IpNetwork::new(address, prefix).unwrap();
        // With host bits or without.
        let network = if self.below(4) == 0 {
            network
        } else {
            IpNetwork::new(network.network(), prefix).unwrap()
        };
        let seconds = match self.below(4) {
            0 => u32::MAX,
            1 => 0,
            _ => u32::try_from(self.below(5_000_000)).unwrap(),
        };
        match self.below(40) {
            0 => Request::Check,
            1 => Request::Watch,
            2..10 => Request::Unban { network },
            10..20 => Request::Restore { network, seconds },
            20..30 => Request::BanByHand {
                network,
                seconds,
                force: self.below(2) == 0,
            },
            _ => Request::Ban { network, seconds },
        }
    }
}

fn installed(toml: &str) -> Lab {
    let lab = Lab::start(Config {
        courier: false,
        ..Config::default()
    })
    .unwrap();
    product().install(&lab, toml, &["--no-start"]).unwrap();
    for words in [
        "ip address add 10.77.0.2/32 dev lo",
        "ip route add default via 10.77.0.1 dev lo onlink",
    ] {
        lab.run_ok(&words.split(' ').collect::<Vec<_>>()).unwrap();
    }
    lab
}

/// Whom nobody may ban, whatever he asks for.
const VITAL: [&str; 5] = ["127.0.0.1", "10.77.0.1", "10.77.0.2", "10.9.9.53", "::1"];

/// All of the kernel's firewall but what is in our two sets.
fn around(lab: &Lab) -> String {
    [
        "iptables -S",
        "ip6tables -S",
        "ipset list -n",
        "ipset list another",
    ]
    .map(|words| lab.run_ok(&words.split(' ').collect::<Vec<_>>()).unwrap())
    .join("\n")
}

fn descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

#[test]
fn whatever_a_hijacked_worker_sends_the_warden_keeps_to_its_rules() {
    let lab = installed(
        "[allow]\nnetworks = [\"10.1.0.0/16\", \"fd00:5::/48\"]\n[lookup]\nnameservers = [\"10.9.9.53:53\"]\n",
    );
    for words in [
        "ipset create another hash:net",
        "ipset add another 10.99.0.0/16",
    ] {
        lab.run_ok(&words.split(' ').collect::<Vec<_>>()).unwrap();
    }
    let mut hijacked = Hijacked::start(&lab, Stdio::piped());
    assert!(matches!(
        hijacked.ask(Request::Check),
        Outcome::Done | Outcome::Remade
    ));
    let mut stderr = hijacked.warden.stderr.take().unwrap();
    let said = std::thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).unwrap();
        text
    });
    let before = around(&lab);
    let mut numbers = Numbers(0x005e_ed0f_0b57_1e55);
    let begun = Instant::now();
    let (mut sent, mut banned, mut refused) = (0, 0, 0);
    while sent < 100_000 {
        let messages: Vec<Vec<u8>> = (0..50).map(|_| numbers.message()).collect();
        messages.iter().for_each(|message| hijacked.send(message));
        for message in &messages {
            let reply = hijacked.reply();
            let serial = Request::decode(message).map_or(0, |(serial, _)| serial);
            assert_eq!(
                reply.serial, serial,
                "each is answered in its turn: {message:?}"
            );
            banned += usize::from(reply.outcome.is_banned());
            refused += usize::from(!reply.outcome.is_banned());
        }
        sent += messages.len();
    }
    let took = begun.elapsed();
    println!("{sent} in {took:?}: {banned} done, {refused} refused");
    assert!(banned > 1000 && refused > 1000, "both were tried");
    for set in ["rblfilter4", "rblfilter6"] {
        for member in lab.set_members(set).unwrap() {
            let network: IpNetwork = member.net.parse().unwrap();
            let least = if network.is_ipv4() { 8 } else { 32 };
            assert!(network.prefix() >= least, "{network}");
            assert!(
                member.timeout.is_some_and(|left| left <= 2_147_483),
                "{network}"
            );
            for vital in VITAL {
                assert!(
                    !network.contains(vital.parse().unwrap()),
                    "{network}: {vital}"
                );
            }
        }
    }
    assert_eq!(around(&lab), before, "nothing else was touched");
    // Descriptors that are passed along are nobody's.
    let open = descriptors(hijacked.warden.pid());
    let (one, other) = nix::unistd::pipe().unwrap();
    for _ in 0..200 {
        let rights = [one.as_raw_fd(), other.as_raw_fd()];
        let bytes = Request::Watch.encode(1);
        sendmsg::<()>(
            hijacked.socket.as_raw_fd(),
            &[IoSlice::new(&bytes)],
            &[ControlMessage::ScmRights(&rights)],
            MsgFlags::empty(),
            None,
        )
        .unwrap();
        hijacked.reply();
    }
    // One who does not read his answers waits for himself.
    for _ in 0..100 {
        hijacked.send(&[0; 16]);
    }
    for _ in 0..100 {
        assert_eq!(hijacked.reply().outcome, Outcome::Malformed);
    }
    assert_eq!(hijacked.ask(Request::Check), Outcome::Done, "it serves on");
    assert_eq!(descriptors(hijacked.warden.pid()), open);
    // Half closed is closed.
    shutdown(hijacked.socket.as_raw_fd(), Shutdown::Write).unwrap();
    let status = hijacked.warden.wait_within(LIMIT).unwrap();
    assert_eq!(status.code(), Some(0));
    // What it said is summed up: some lines a second, whatever was asked for.
    let said = said.join().unwrap();
    let most = 40 + 12 * usize::try_from(took.as_secs() + 2).unwrap();
    let lines = said.lines().count();
    assert!(
        lines <= most,
        "{lines} lines in {took:?}, at most {most}:\n{said:.3000}"
    );
    assert!(said.contains("refused requests: "), "{said:.3000}");
    assert!(said.contains("malformed"), "{said:.3000}");
}

#[test]
fn a_message_of_no_length_ends_the_warden_and_bans_nobody() {
    let lab = installed("");
    for shut in [Shutdown::Read, Shutdown::Both] {
        let hijacked = Hijacked::start(&lab, Stdio::inherit());
        assert!(hijacked.ask(Request::Check) != Outcome::Failed);
        shutdown(hijacked.socket.as_raw_fd(), shut).unwrap();
        // It may be gone already, where it read the end.
        let flags = MsgFlags::MSG_NOSIGNAL;
        let _ = send(
            hijacked.socket.as_raw_fd(),
            &Request::Check.encode(1),
            flags,
        );
        let status = hijacked.warden.wait_within(LIMIT).unwrap();
        assert_eq!(status.code(), Some(0));
    }
    let hijacked = Hijacked::start(&lab, Stdio::inherit());
    hijacked.send(&[]);
    let status = hijacked.warden.wait_within(LIMIT).unwrap();
    assert_eq!(status.code(), Some(0));
    assert_no_bans(&lab);
}

#[test]
fn networks_are_banned_two_hundred_times_a_second_at_most() {
    let lab = installed("");
    let hijacked = Hijacked::start(&lab, Stdio::inherit());
    let network = |number: u32| -> IpNetwork {
        let [.., high, low] = number.to_be_bytes();
        IpNetwork::new([100, high, low, 0].into(), 24).unwrap()
    };
    let by_hand = |number| Request::BanByHand {
        network: network(number),
        seconds: 600,
        force: true,
    };
    // Restored ones are of the same bound, where they are wider than a verdict's.
    let restored = |number| Request::Restore {
        network: network(number),
        seconds: 600,
    };
    let begun = Instant::now();
    let requests: Vec<Request> = (0..1000)
        .map(|number| {
            if number % 2 == 0 {
                by_hand(number)
            } else {
                restored(number)
            }
        })
        .collect();
    let outcomes = hijacked.ask_all(&requests);
    let took = begun.elapsed();
    let done = outcomes.iter().filter(|it| it.is_banned()).count();
    let most = 201 + usize::try_from(took.as_millis()).unwrap() / 5;
    assert!((200..=most).contains(&done), "{done} in {took:?}");
    let rest = outcomes.iter().filter(|it| !it.is_banned());
    assert!(rest.copied().all(|it| it == Outcome::TooMany));
}

/// Whether `path` can be connected to by a thread with these ids for files, and
/// no capability to pass over them.
fn connects_as(uid: u32, gid: u32, path: &'static str) -> std::io::Result<()> {
    let connect = move || {
        // They are this thread's alone.
        nix::unistd::setfsgid(gid.into());
        nix::unistd::setfsuid(uid.into());
        UnixStream::connect(path).map(drop)
    };
    std::thread::spawn(connect).join().unwrap()
}

#[test]
fn a_local_user_reaches_neither_socket_nor_the_warden() {
    let lab = lab(Config::default(), OWN_ZONE);
    wait_for(LIMIT, || fs::metadata(CONTROL).is_ok().then_some(())).unwrap();
    let filter = "/var/lib/courier/allfilters/rblfilter";
    for path in [filter, CONTROL] {
        // The test can fail: Courier's group gets in.
        connects_as(NOBODY, courier_gid(), path).unwrap();
        let error = connects_as(NOBODY, NOBODY, path).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied, "{path}");
    }
    let error = lab
        .command(WARDEN)
        .user(NOBODY, NOBODY)
        .stdin(Stdio::null())
        .spawn()
        .unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
    // Who may start it gets no more than what the filter's own may do.
    let mut by_hand = lab.command(WARDEN);
    let status = by_hand.user(courier_uid(), courier_gid()).status().unwrap();
    assert_eq!(status.code(), Some(64), "not by hand");
    let program = fs::metadata(WARDEN).unwrap();
    assert_eq!(program.permissions().mode() & 0o7777, 0o750);
    for folder in ["/var/lib/courier/allfilters", "/var/lib/courier/rblfilter"] {
        let mode = fs::metadata(folder).unwrap().permissions().mode();
        assert_eq!(mode & 0o007, 0, "{folder}");
    }
    // Nor does he see its processes from inside.
    let comm = |name: &str| lab.processes().iter().find(|p| p.comm == name).unwrap().pid;
    for name in ["rblfilter", "rblfilter-warde"] {
        let environ = format!("/proc/{}/environ", comm(name));
        let output = lab
            .command("cat")
            .arg(&environ)
            .user(NOBODY, NOBODY)
            .output()
            .unwrap();
        assert!(!output.status.success(), "{name}");
    }
    for command in [
        &["status"][..],
        &["list"],
        &["ban", CLEAN],
        &["unban", "--all"],
    ] {
        let output = lab
            .command("rblfilter")
            .args(command)
            .user(NOBODY, NOBODY)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(77), "{command:?}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("permission denied"), "{said}");
    }
    assert_no_bans(&lab);
}

#[test]
fn a_member_of_couriers_group_commands_and_its_name_stands_in_the_log() {
    let lab = lab(Config::default(), OWN_ZONE);
    wait_for(LIMIT, || fs::metadata(CONTROL).is_ok().then_some(())).unwrap();
    let as_member = |words: &[&str]| {
        let mut command = lab.command("rblfilter");
        command.args(words).user(NOBODY, courier_gid());
        let output = command.output().unwrap();
        let said = [&output.stdout[..], &output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    };
    let (code, said) = as_member(&["status"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("enforce, running for"), "{said}");
    let (code, said) = as_member(&["ban", "127.9.9.9"]);
    assert_eq!(code, Some(0), "{said}");
    let line = lab.wait_for_log("byhand,what=ban", LIMIT).unwrap();
    assert!(line.contains("user=nobody"), "{line}");
    // Not even so.
    let (code, said) = as_member(&["ban", "127.0.0.1", "--force"]);
    assert_eq!(code, Some(1), "{said}");
    let members = lab.set_members("rblfilter4").unwrap();
    assert_eq!(members.len(), 1, "{members:?}");
}

/// Programs that bear Courier's names, and say that a listed client sits there.
const FAKE: &str = "set -e
    cp /bin/dash $1/couriertcpd; cp /bin/dash $1/courieresmtpd; cp /bin/dash $1/submit
    export TCPREMOTEIP=$2 TCPREMOTEPORT=40000 TCPLOCALIP=127.0.0.1 TCPLOCALPORT=$3
    export BLOCK=listed BLOCK2=listed MAXDAEMONS=1 PIDFILE=/run/courier/esmtpd.pid
    $1/couriertcpd -c '$0 -c \"sleep 120; :\" & wait' $1/courieresmtpd";

/// Of a local user who pretends that there is a session of a listed client,
/// nothing comes: neither a ban of that client, nor a signal.
fn pretended(lab: &Lab, user: u32) -> (Process, i32) {
    let folder = std::env::temp_dir().join(format!("rblfilter-fake-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    nix::unistd::chown(&folder, Some(user.into()), None).unwrap();
    let fake = lab
        .command("sh")
        .args(["-c", FAKE, "sh", folder.to_str().unwrap(), "127.66.7.7"])
        .arg(lab.port().to_string())
        .user(user, user)
        .spawn()
        .unwrap();
    let session = || {
        let mut all = lab.processes().into_iter();
        let of_fake = |pid: i32| {
            let environment = lab.environment(pid);
            environment.contains(&("TCPREMOTEIP".into(), "127.66.7.7".into()))
        };
        all.find(|p| p.comm == "courieresmtpd" && of_fake(p.pid))
    };
    let session = wait_for(LIMIT, session)
        .expect("a session that is none")
        .pid;
    (fake, session)
}

fn runs(lab: &Lab, pid: i32) -> bool {
    lab.processes()
        .iter()
        .any(|p| p.pid == pid && p.state != 'Z')
}

#[test]
fn a_session_that_a_local_user_pretends_moves_nothing() {
    let lab = lab(Config::default(), &format!("watch = \"poll\"\n{ZONE}"));
    let (fake, session) = pretended(&lab, NOBODY);
    // Those that are real are seen, and ended, meanwhile.
    let outcome = lab.send(&message(), ip(LISTED));
    assert_banned(&lab, &outcome, LISTED, LISTED);
    // A message that says so, from somebody who may connect: it is not from a
    // submit of a session, and passes.
    let control = "/var/lib/courier/tmp/forged";
    fs::write(control, "sx@y.test\nfdns; x (x [::ffff:127.66.7.7])\nMforged\nralice@lab.test\nR\nN\nOTCPREMOTEIP=::ffff:127.66.7.7\nusmtp\n").unwrap();
    fs::set_permissions(control, fs::Permissions::from_mode(0o644)).unwrap();
    let mut stream = UnixStream::connect(filter_socket()).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
        .write_all(format!("{control}\n{control}\n\n").as_bytes())
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("250"), "{answer}");
    fs::remove_file(control).unwrap();
    lab.wait_for_log("id=forged,unidentified", LIMIT).unwrap();
    assert!(runs(&lab, session));
    let members = lab.set_members("rblfilter4").unwrap();
    assert_eq!(members.len(), 1, "the real one alone: {members:?}");
    fake.kill().unwrap();
}

/// Where the kernel tells of every exec, it tells of his too.
#[test]
fn nor_where_every_exec_is_seen() {
    let config = Config {
        spaces: Spaces::Machine,
        ..Config::default()
    };
    let lab = lab(config, &format!("watch = \"events\"\n{ZONE}"));
    lab.wait_for_log("watching,by=events", LIMIT).unwrap();
    let (fake, session) = pretended(&lab, NOBODY);
    // What comes after it has been seen: so has it.
    let outcome = lab.send(&lab.message_for_here(&impatient()), ip(LISTED));
    assert!(!outcome.accepted(), "{outcome:?}");
    lab.wait_for_log(&format!("listed,ip=[::ffff:{LISTED}]"), LIMIT)
        .unwrap();
    assert!(runs(&lab, session));
    assert!(lab.log_matching("127.66.7.7").is_empty(), "{:?}", lab.log());
    fake.kill().unwrap();
    let _ = nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(lab.pid_on_machine(session).unwrap()),
        nix::sys::signal::Signal::SIGKILL,
    );
}
