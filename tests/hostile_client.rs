//! Whatever bytes a client or a list sends, the log, the replies and what the
//! commands print are single lines of printable characters, of bounded length.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::*;
use rblfilter_lab::smtp::{Client, Reply};
use rblfilter_lab::stub::Stub;
use rblfilter_lab::{Config, Dns, Lab, wait_for};

/// What a list writes: a terminal's commands, line ends, a forged reply, a NUL,
/// bytes that are no UTF-8, a direction override, and no end.
const TEXT: &[u8] = b"\x1b[2J\x1b]0;owned\x07red\r\n554 forged\n250 Ok\x00\xff\xfe\xe2\x80\xae\x7f\xc2\x9b31m \
rblfilter[1]: started,version=6.6.6 xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";

/// Listed for a text, with the list's own words in it; every line is logged.
const TOML: &str = "watch = \"off\"\n[log]\nlevel = \"debug\"\n[lookup]\nquery-non-global = true\n\
[[dnsbl]]\nzone = \"bl.test\"\nscore = 5\nmessage = \"See {txt}\"\n";

/// The longest line: every value of a `listed` line at its bound would be less.
const LONGEST: usize = 2048;

fn assert_printable(line: &str) {
    let printable = line.chars().all(|c| c == ' ' || c.is_ascii_graphic());
    assert!(printable, "{line:?}");
    assert!(line.len() < LONGEST, "{} bytes: {line:.200}", line.len());
}

/// The filter's own lines; Courier's may quote them.
fn ours(lab: &Lab) -> Vec<String> {
    let mut lines = lab.log_matching("rblfilter[");
    lines.retain(|line| line.starts_with("rblfilter["));
    lines
}

/// Bytes that somebody might take for more than text.
fn words() -> Vec<Vec<u8>> {
    let mut words: Vec<Vec<u8>> = [
        &b"a\x1b[31m\x1b]0;owned\x07b"[..],
        b"a\xff\xfe\xc3\x28b",
        b"a\x00b",
        b"a\rb",
        b"a\x08\x7f\x9b2Jb",
        b"x,action=ban,killed=9",
        b"x: degraded,what=dnsbl",
        b"]) (softdnserr [::ffff:127.1.1.1])",
        b"%s%n{ip}\\x0a\\",
        "\u{202e}\u{2028}\u{85}é".as_bytes(),
        b"plain.test",
    ]
    .iter()
    .map(|word| word.to_vec())
    .collect();
    words.push(vec![b'a'; 400]);
    words.push(vec![0xc3; 3000]);
    words
}

/// Says `line` as it is.
fn say(lab: &Lab, client: &mut Client, line: &[u8]) -> Option<Reply> {
    lab.block_on(async {
        client.write(&[line, b"\r\n"].concat()).await.ok()?;
        client.read_reply().await.ok()
    })
}

/// A message whose HELO, sender and recipient hold `word`; the answer to its
/// data, where Courier let it come so far.
fn send(lab: &Lab, source: &str, verb: &[u8], word: &[u8]) -> Option<Reply> {
    let mut client = lab.connect(ip(source)).ok()?;
    lab.block_on(client.read_reply()).ok()?;
    let positive = |reply: &Reply| reply.is_positive();
    let _ = say(lab, &mut client, &[verb, b" ", word].concat())
        .filter(positive)
        .or_else(|| say(lab, &mut client, b"EHLO x.test"))?;
    for lines in [
        [
            [b"MAIL FROM:<", word, b"@client.test>"].concat(),
            [b"MAIL FROM:<\"", word, b"\"@client.test>"].concat(),
            b"MAIL FROM:<bob@client.test>".to_vec(),
        ],
        [
            [b"RCPT TO:<alice@lab.test> ORCPT=rfc822;", word].concat(),
            [b"RCPT TO:<alice@lab.test> NOTIFY=", word].concat(),
            b"RCPT TO:<alice@lab.test>".to_vec(),
        ],
    ] {
        // The first that Courier takes.
        lines
            .iter()
            .find_map(|line| say(lab, &mut client, line).filter(positive))?;
    }
    say(lab, &mut client, b"DATA").filter(positive)?;
    lab.block_on(client.data("Subject: test\n\nHello.\n")).ok()
}

fn start() -> Lab {
    let stub = Stub {
        text: Some(TEXT),
        ..Stub::default()
    };
    lab(
        Config {
            dns: Dns::Stub(stub),
            tcpd_options: "-nodnslookup".into(),
            tarpit: false,
            ..Config::default()
        },
        TOML,
    )
}

#[test]
fn no_byte_of_a_client_or_a_list_ends_a_line_of_the_log_or_of_a_reply() {
    let lab = start();
    let mut refused = 0;
    for (number, word) in words().iter().enumerate() {
        for (verb, third) in [(&b"EHLO"[..], 1), (b"HELO", 2)] {
            let source = format!("127.66.{third}.{}", number + 2);
            let Some(reply) = send(&lab, &source, verb, word) else {
                continue;
            };
            assert_eq!((reply.code, reply.lines.len()), (554, 1), "{reply}");
            assert_printable(&reply.text());
            assert!(reply.text().contains("See ?[2J?]0;owned?red??554 forged"));
            refused += 1;
        }
    }
    assert!(refused >= 10, "Courier let only {refused} come so far");
    // Each refusal has its line.
    let told = || (lab.log_matching(",action=reject").len() == refused).then_some(());
    wait_for(LIMIT, told).unwrap_or_else(|| panic!("{refused} lines"));
    for line in ours(&lab) {
        assert_printable(&line);
        assert!(!line.contains("6.6.6") && !line.contains("owned"), "{line}");
    }
    for (event, count) in [(": started,", 1), (": degraded,", 0), (",action=ban", 0)] {
        let mut lines = ours(&lab);
        lines.retain(|line| line.contains(event));
        assert_eq!(lines.len(), count, "{lines:?}");
    }
    assert_no_bans(&lab);
    assert_delivered(&lab, &message(), CLEAN, 1);
}

#[test]
fn no_byte_of_a_list_or_a_reason_does_more_than_show_on_a_terminal() {
    let lab = start();
    let shown = |words: &[&str]| {
        let output = lab.run(words).unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8(text).unwrap();
        for line in text.lines() {
            let harmless = |c: char| !c.is_control() && !('\u{202a}'..='\u{202e}').contains(&c);
            assert!(line.chars().all(harmless), "{words:?}: {line:?}");
            assert!(line.len() < LONGEST, "{words:?}: {} bytes", line.len());
        }
        text
    };
    let text = shown(&["rblfilter", "lookup", LISTED]);
    assert!(text.contains("?[2J?]0;owned"), "{text}");
    let json = shown(&["rblfilter", "lookup", "--json", LISTED]);
    assert!(json.contains("?[2J?]0;owned"), "{json}");
    let reason = "\u{1b}[31m\u{202e}\nrblfilter[1]: started,version=6.6.6";
    shown(&["rblfilter", "ban", "127.9.9.9", "--reason", reason]);
    let list = shown(&["rblfilter", "list"]);
    assert_eq!(list.lines().count(), 1, "{list}");
    assert!(list.contains("127.9.9.9"), "{list}");
    shown(&["rblfilter", "list", "--json"]);
    for odd in ["\u{1b}[31m127.9.9.9", "127.9.9.9\n127.9.9.8"] {
        shown(&["rblfilter", "unban", odd]);
        shown(&["rblfilter", "lookup", odd]);
        shown(&["rblfilter", "ban", odd]);
    }
    for line in ours(&lab) {
        assert_printable(&line);
        // What was said stands in a text, and begins no line.
        let (_, event) = line.split_once("]: ").unwrap();
        assert!(!event.starts_with("started,version=6"), "{line}");
    }
}
