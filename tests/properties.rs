//! What is true of every input, of those parts that read bytes from outside.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;
use rblfilter::courier::control_file::Envelope;
use rblfilter::courier::log_line::LogLine;
use rblfilter::courier::request;
use rblfilter::courier::session::{Environment, Session, Verdict};
use rblfilter::dnsbl::{
    Answer, Change, Codes, Evidence, Family, Got, Health, Match, Met, Probe, Reach, Rule, Score,
    Tally, Thresholds, Trust, Unknown, Zone, is_error, query, verdict,
};
use rblfilter::judge::{self, Sentence};
use rblfilter::log::Event;
use rblfilter::reply::{Facts, Template};
use rblfilter::report::{self, Clock, Options, Ours};
use rblfilter_warden::policy::without_keys;
use rblfilter_warden::request::{Reply, Request};

fn printable(text: &str) -> bool {
    text.chars().all(|c| c == ' ' || c.is_ascii_graphic())
}

proptest! {
    #[test]
    fn no_control_file_does_harm(bytes: Vec<u8>, exempt in "[a-z]{1,9}") {
        let mut envelope = Envelope::default();
        envelope.add(&bytes);
        let _ = envelope.only_for(&[exempt]);
        let _ = envelope.is_smtp();
    }

    /// What a client says before its address cannot pass for it.
    #[test]
    fn the_clients_words_are_not_its_address(helo in "[ -~]{0,80}", rdns in "[a-z.\\[\\]():0-9]{0,60}", ip: u32) {
        let client = Ipv4Addr::from(ip);
        let mut envelope = Envelope::default();
        envelope.add(format!("fdns; {helo} ({rdns} [::ffff:{client}])\n").as_bytes());
        prop_assert!(envelope.agrees_with(client.into()));
    }

    #[test]
    fn no_request_does_harm(bytes: Vec<u8>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        if let Ok(Some(request)) = runtime.block_on(request::read(&mut &bytes[..], request::MAX_TIME)) {
            prop_assert!(!request.data.is_empty() && !request.control.is_empty());
            let paths = std::iter::once(&request.data).chain(&request.control);
            prop_assert!(paths.into_iter().all(|path| !path.contains(&0) && !path.contains(&b'\n')));
        }
    }

    #[test]
    fn no_environment_does_harm(bytes: Vec<u8>) {
        let _ = Session::from_environment(&Environment::parse(&bytes), &["BLOCK".into()]);
    }

    #[test]
    fn an_environment_never_convicts_without_a_verdict(values: HashMap<String, String>, ip: u32) {
        let mut text = format!("TCPREMOTEIP=::ffff:{}\0TCPREMOTEPORT=1\0TCPLOCALPORT=25\0", Ipv4Addr::from(ip));
        for (name, value) in values {
            // A NUL ends a word, so none is in one.
            let word = format!("{name}={value}").replace('\0', "");
            if !word.starts_with("BLOCK") {
                text.push_str(&word);
                text.push('\0');
            }
        }
        let environment = Environment::parse(text.as_bytes());
        let session = Session::from_environment(&environment, &["BLOCK".into()]).unwrap();
        prop_assert_eq!(session.client, IpAddr::from(Ipv4Addr::from(ip)));
        prop_assert_eq!(session.verdict, Verdict::None);
    }

    /// No answer with an error in it convicts, whatever else is in it; and the
    /// order of the addresses does not matter.
    #[test]
    fn no_error_convicts(mut answers: Vec<u32>, error: u32, first in 0_u32..0x00ff_feff, last in 0_u32..0x00ff_feff) {
        let mut codes = Codes::default();
        let range = |offset: u32| Ipv4Addr::from(0x7f00_0000 + offset);
        let _ = codes.add(&format!("{}-{}", range(first.min(last)), range(first.max(last))));
        let addresses = |answers: &[u32]| answers.iter().map(|a| Ipv4Addr::from(*a)).collect::<Vec<_>>();
        let rules = [Rule { of: Match::Codes(codes.clone()), score: Score::from_points(1.0).unwrap() }];
        let forwards = Answer::from_addresses(&addresses(&answers), &rules);
        if let Answer::Listed(hit) = forwards {
            prop_assert!(codes.contains(hit.code));
        }
        answers.reverse();
        let convicts = |answer: &Answer| matches!(answer, Answer::Listed(_));
        prop_assert_eq!(convicts(&forwards), convicts(&Answer::from_addresses(&addresses(&answers), &rules)));
        if is_error(Ipv4Addr::from(error)) {
            answers.push(error);
            prop_assert!(!convicts(&Answer::from_addresses(&addresses(&answers), &rules)));
        }
    }

    /// The name that is asked for tells the client, and lies below the list's domain.
    #[test]
    fn query_names_round_trip(four: u32, six: u128) {
        let zone = Zone::new("bl.example.org").unwrap();
        for client in [IpAddr::from(four.to_be_bytes()), IpAddr::from(six.to_be_bytes())] {
            let name = query::name(client, zone.origin()).unwrap().to_ascii();
            let labels = name.strip_suffix(".bl.example.org.").unwrap().split('.').rev();
            let back: IpAddr = match client {
                IpAddr::V4(_) => labels.collect::<Vec<_>>().join(".").parse().unwrap(),
                IpAddr::V6(_) => {
                    let nibbles: String = labels.collect();
                    u128::from_str_radix(&nibbles, 16).unwrap().to_be_bytes().into()
                }
            };
            prop_assert_eq!(back, client);
        }
    }

    /// The order in which lists answer, and addresses stand in an answer, does
    /// not matter; what is decided early is what comes out in the end.
    #[test]
    fn the_score_does_not_depend_on_the_order(
        points in prop::collection::vec(-20.0..20.0_f64, 0..8),
        codes in prop::collection::vec(2_u8..8, 0..8),
        at in 0_usize..8,
        needs in 1_usize..4,
    ) {
        let scores: Vec<Score> = points.iter().map(|p| Score::from_points(*p).unwrap()).collect();
        let add = |tally: Tally, score: &Score| tally.with(*score);
        let forwards = scores.iter().fold(Tally::default(), add);
        prop_assert_eq!(forwards, scores.iter().rev().fold(Tally::default(), add));
        let thresholds = Thresholds {
            reject: Score::from_points(5.0).unwrap(),
            ban: Score::from_points(10.0).unwrap(),
            ban_needs: needs,
            vouched_never_ban: true,
        };
        let (answered, outstanding) = scores.split_at(at.min(scores.len()));
        let reaches = outstanding.iter().map(|score| Reach { least: (*score).min(Score::ZERO), most: (*score).max(Score::ZERO) });
        if let Some(level) = thresholds.decided(answered.iter().fold(Tally::default(), add), reaches) {
            prop_assert_eq!(level, thresholds.level(forwards), "{:?}", points);
        }
        let rules: Vec<Rule> = scores.iter().zip(2..).map(|(score, last)| {
            let mut codes = Codes::default();
            codes.add(&format!("127.0.0.{last}-127.0.0.{}", last + 2)).unwrap();
            Rule { of: Match::Codes(codes), score: *score }
        }).collect();
        let mut addresses: Vec<Ipv4Addr> = codes.iter().map(|c| Ipv4Addr::new(127, 0, 0, *c)).collect();
        let once = Met::of(&addresses, &rules);
        addresses.reverse();
        addresses.extend(addresses.clone());
        prop_assert_eq!(once, Met::of(&addresses, &rules));
    }

    /// Whatever errors come in whatever order, also beside a listing in the same
    /// answer, none of them convicts; and while a list is not believed only what
    /// it said before its last passed test is.
    #[test]
    fn no_sequence_of_errors_convicts(steps in prop::collection::vec((0_u8..8, 0_u64..2000), 1..60)) {
        let start = std::time::Instant::now();
        let mut now = start;
        let mut health = Health::new(true, now);
        let code = Ipv4Addr::new(127, 0, 0, 2);
        let mut codes = Codes::default();
        codes.add("127.0.0.2-127.0.0.200").unwrap();
        let score = Score::from_points(10.0).unwrap();
        let rules = vec![Rule { of: Match::Codes(codes), score }];
        let zone = Zone::new("bl.test").unwrap().with_rules(rules.clone());
        let mut evidence = Evidence::default();
        for (step, seconds) in steps {
            now += std::time::Duration::from_secs(seconds);
            let wrong = [
                Unknown::Timeout,
                Unknown::ErrorCode(Ipv4Addr::new(127, 255, 255, 254)),
                Unknown::Unreachable("io"),
            ];
            let addresses = [
                Ipv4Addr::new(127, 255, 255, 252 + u8::try_from(seconds % 4).unwrap()),
                Ipv4Addr::new(127, 0, 0, 255),
                Ipv4Addr::new(127, 0, 0, 1),
                Ipv4Addr::new(198, 51, 100, step),
            ];
            let error = addresses[usize::from(step % 4)];
            evidence.add(0, &zone, Answer::from_addresses(&[code, error], &rules), Got::at(now));
            evidence.add(0, &zone, Answer::Unknown(wrong[usize::from(step % 3)].clone()), Got::at(now));
            let failed = |unlisted: &Probe| verdict(Family::V4, &Probe::Listed(code), unlisted);
            match step {
                0..=2 => {
                    let unknown = &wrong[usize::from(step)];
                    health.failed(unknown, now);
                }
                3 => health.overdue(seconds % 2 == 0, now),
                4 => { health.lists_a_good_client(Got::at(now), now); }
                5 => { health.answered(); }
                6 => {
                    let change = health.tested(failed(&Probe::Listed(code)), now, 0.5);
                    prop_assert!(!matches!(change, Some(Change::Closed)));
                    prop_assert_eq!(health.trust(), Trust::No);
                }
                _ => {
                    health.tested(failed(&Probe::NotListed), now, 0.5);
                    prop_assert!(matches!(health.trust(), Trust::Yes | Trust::Try));
                }
            }
            let passed = health.last_passed();
            if matches!(health.trust(), Trust::Wait | Trust::No) {
                prop_assert!(!health.believes(Got::at(now)) || passed.is_some_and(|passed| now <= passed));
                prop_assert!(health.next_test().is_some(), "it comes back by itself");
            }
        }
        let environment = Environment::parse(b"TCPREMOTEIP=::ffff:203.0.113.9\0TCPREMOTEPORT=1\0TCPLOCALPORT=25\0");
        let session = Session::from_environment(&environment, &[]).unwrap();
        let least = Score::from_points(0.001).unwrap();
        let thresholds = Thresholds { reject: least, ban: least, ban_needs: 1, vouched_never_ban: false };
        prop_assert_eq!(judge::sentence(&session, &evidence, false, &thresholds), Sentence::Pass);
        // It could convict.
        evidence.add(0, &zone, Answer::from_addresses(&[code], &rules), Got::at(now));
        let sentence = judge::sentence(&session, &evidence, false, &thresholds);
        prop_assert!(matches!(sentence, Sentence::Ban(_)), "{:?}", sentence);
    }

    #[test]
    fn a_log_line_is_one_line_and_its_fields_stay_apart(value: String, text: String) {
        let line = Event::new("event").field("key", &value).text(&text).to_string();
        prop_assert!(printable(&line), "{}", line);
        let fields = line.split(": ").next().unwrap();
        prop_assert_eq!(fields.split(',').count(), 2, "{}", line);
    }

    #[test]
    fn a_reply_is_one_line(text in "[ -z]{1,400}", zone: String, url: String, ip: u128) {
        if let Ok(template) = Template::parse(&text, "contact") {
            let ip = IpAddr::from(ip.to_be_bytes());
            let line = template.render(Facts { ip, zone: &zone, lookup_url: &url, txt: &zone });
            prop_assert!(line.starts_with("554 5.7.1") && line.len() <= 510 && printable(&line));
        }
    }

    #[test]
    fn the_wardens_messages_have_one_form(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        if let Some((serial, request)) = Request::decode(&bytes) {
            prop_assert_eq!(&request.encode(serial)[..], &bytes[..]);
        }
        if let Some(reply) = Reply::decode(&bytes) {
            prop_assert_eq!(&reply.encode()[..], &bytes[..]);
        }
    }

    #[test]
    fn no_key_is_shown(before in "[ -~]{0,30}", key in "[a-zA-Z0-9]{20,40}", after in "[ -~]{0,30}") {
        let shown = without_keys(&format!("{before}{key}{after}"));
        prop_assert!(!shown.contains(&key), "{}", shown);
    }

    #[test]
    fn no_configuration_makes_it_panic(text in "([a-z0-9-]{1,9}( = |\\.)|\\[\\[?(dnsbl|ban|allow|reply)\\]?\\]|\"[ -~]{0,9}\"|[0-9]{1,5}|\n){0,12}") {
        let _ = rblfilter::config::parse(&text);
    }
}

proptest! {
    // Each is a whole report.
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn no_log_does_harm(
        lines in prop::collection::vec(
            "(Nov 24 0[0-9]:5[0-9]:0[0-9]|2026-11-2[0-9]T[0-9]{2}:00:00(Z|[+-][0-9]{4})|1[0-9]{9}\\.5|<22>) mail \
             (courieresmtpd|courierd|rblfilter)(\\[7\\])?: \
             (started,ip=\\[::ffff:1\\.2\\.3\\.[0-9]{1,3}\\],port=\\[[0-9]{1,6}\\]|error,relay=[0-9a-f:.]{2,9},port=[0-9]{1,3}(,from=<.{0,9}>)?: [45][0-9]{2}.{0,9}|\
             \\[1\\.2\\.3\\.4\\]: Connection timed out|[0-9]{1,9}( maximum)? active connections\\.|newmsg,id=[0-9.]{1,9}: dns; .{0,9} \\(.{0,9}\\[::1\\]\\)|\
             listed,ip=\\[1\\.2\\.3\\.[0-9]\\],action=(ban|kill|none)(,at=connect)?(,killed=[0-9])?|summed,event=[a-z]{1,9},lines=[0-9]{1,12}|.{0,30})",
            0..40,
        ),
        junk: Vec<u8>,
    ) {
        let zone = jiff::tz::TimeZone::UTC;
        let options = Options { zone: zone.clone(), since: None, until: None, hold: 30, anonymise: junk.len() % 2 == 0 };
        let mut tally = report::Tally::new(options);
        let mut clock = Clock::new(zone, 1_795_514_043);
        let text = lines.join("\n");
        tally.read(&mut clock, text.as_bytes());
        tally.read(&mut clock, &junk);
        let report = tally.finish();
        let steps: u64 = report.points().map(|point| point.connections).sum();
        prop_assert_eq!(steps, report.totals.connections);
        let look = report::Look { unicode: false, colour: false };
        let text = report::text(&report, look);
        for line in text.lines() {
            prop_assert!(line.len() <= 80 && printable(line), "{}", line);
        }
        let allow = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
        let page = report::page(&report);
        prop_assert!(roxmltree::Document::parse_with_options(&page, allow).is_ok());
    }

    #[test]
    fn no_line_does_harm(ident: Vec<u8>, line: Vec<u8>) {
        for ident in [&ident[..], b"courieresmtpd", b"courierd"] {
            let _ = LogLine::parse(ident, &line);
        }
        if let Some(ours) = Ours::parse(&line) {
            prop_assert!(!ours.event.is_empty());
        }
    }

    /// Whatever rblfilter writes of a client is read again.
    #[test]
    fn what_is_logged_is_what_is_counted(ip: u32, port: u16, zone: String, text: String) {
        let event = Event::new("listed").ip(Ipv4Addr::from(ip).into()).port(port).field("zone", &zone).field("action", "ban").text(&text);
        let line = event.to_string();
        let ours = Ours::parse(line.as_bytes()).unwrap();
        prop_assert_eq!(ours.ip, Some(IpAddr::from(Ipv4Addr::from(ip))));
        prop_assert_eq!((ours.port, ours.action), (Some(port), b"ban".as_slice()));
    }
}
