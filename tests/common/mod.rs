//! What the end-to-end tests share: a lab with rblfilter installed in it by
//! install.sh, as an admin would.
#![allow(dead_code, missing_docs, clippy::unwrap_used)] // each test program uses its own part

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rblfilter_lab::smtp::{Client, Message, Outcome, Reply};
use rblfilter_lab::{Config, Lab, Product, SetMember, wait_for};

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
    lab
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

/// No session of `source` is left, nor a file of its message.
pub fn assert_ended(lab: &Lab, source: &str) {
    let gone = || {
        let sessions = lab.sessions().unwrap();
        let alive = sessions
            .iter()
            .any(|session| session.remote.is_some_and(|(peer, _)| peer == ip(source)));
        (!alive).then_some(())
    };
    wait_for(LIMIT, gone).unwrap_or_else(|| panic!("a session of {source} lives on"));
    let clean = || lab.courier_tmp_files().is_empty().then_some(());
    wait_for(LIMIT, clean).unwrap_or_else(|| panic!("left in tmp: {:?}", lab.courier_tmp_files()));
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

/// Nobody is banned.
pub fn assert_no_bans(lab: &Lab) {
    for set in ["rblfilter4", "rblfilter6"] {
        let members = lab.set_members(set).unwrap();
        assert!(members.is_empty(), "{set}: {members:?}");
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
