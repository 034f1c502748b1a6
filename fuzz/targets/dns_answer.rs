//! A nameserver's answer: nobody is refused for an error, nor for another
//! name's records, and what the list writes is one line of a reply.
#![no_main]

use std::net::Ipv4Addr;
use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use rblfilter::courier::session::{Environment, Session};
use rblfilter::dnsbl::{Answer, Codes, Evidence, Got, Match, Rule, Score, Thresholds, Zone};
use rblfilter::fuzzing::DnsAnswer;
use rblfilter::judge::{self, Sentence};
use rblfilter::log::Event;
use rblfilter::reply::{Facts, Template};

/// The most records of an answer that are looked at.
const MOST: usize = 256;

fuzz_target!(|datagram: &[u8]| {
    let Some(answer) = DnsAnswer::read(datagram) else {
        return;
    };
    let Some(name) = answer.first() else {
        return;
    };
    let addresses = answer.addresses(name).data;
    assert!(addresses.len() <= answer.records().min(MOST));
    // The widest codes that a configuration can name.
    let mut codes = Codes::default();
    codes.add("127.0.0.1-127.255.254.255").expect("a range");
    let score = Score::from_points(10.0).expect("a score");
    let rules = vec![Rule {
        of: Match::Codes(codes),
        score,
    }];
    let zone = Zone::new("bl.test")
        .expect("a name")
        .with_rules(rules.clone());
    let meaning = Answer::from_addresses(&addresses, &rules);
    let mut evidence = Evidence::default();
    evidence.add(0, &zone, meaning, Got::at(Instant::now()));
    let thresholds = Thresholds {
        reject: score,
        ban: score,
        ban_needs: 1,
        vouched_never_ban: true,
    };
    let environment =
        Environment::parse(b"TCPREMOTEIP=::ffff:203.0.113.9\0TCPREMOTEPORT=1\0TCPLOCALPORT=25\0");
    let session = Session::from_environment(&environment, &[]).expect("a session");
    let sentence = judge::sentence(&session, &evidence, false, &thresholds);
    let is_error = |ip: &Ipv4Addr| {
        let [a, b, c, _] = ip.octets();
        a != 127 || (b, c) == (255, 255)
    };
    if addresses.is_empty() || addresses.iter().any(is_error) {
        assert_eq!(sentence, Sentence::Pass);
    }

    let texts = answer.texts(name).data;
    assert!(texts.len() <= answer.records().min(MOST));
    let template = Template::parse("Refused: {txt} {zone} {ip}", "").expect("a template");
    for text in texts {
        let txt = &String::from_utf8_lossy(&text);
        let ip = session.client;
        let reply = template.render(Facts {
            ip,
            zone: "bl.test",
            lookup_url: "",
            txt,
        });
        let fits = |c: char| c == ' ' || c.is_ascii_graphic();
        assert!(reply.len() <= 510 && reply.chars().all(fits), "{reply:?}");
        let line = Event::new("e").text(txt).to_string();
        assert!(line.len() < 600 && line.chars().all(fits), "{line:?}");
    }
});
