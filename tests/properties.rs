//! What is true of every input, of those parts that read bytes from outside.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;
use rblfilter::courier::control_file::Envelope;
use rblfilter::courier::request;
use rblfilter::courier::session::{Environment, Session, Verdict};
use rblfilter::dnsbl::{Answer, Codes, is_error};
use rblfilter::log::Event;
use rblfilter::reply::Template;
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
        if let Ok(Some(request)) = runtime.block_on(request::read(&mut &bytes[..])) {
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
        let forwards = Answer::from_addresses(&addresses(&answers), &codes);
        if let Answer::Listed(code) = forwards {
            prop_assert!(codes.contains(code));
        }
        answers.reverse();
        let convicts = |answer: &Answer| matches!(answer, Answer::Listed(_));
        prop_assert_eq!(convicts(&forwards), convicts(&Answer::from_addresses(&addresses(&answers), &codes)));
        if is_error(Ipv4Addr::from(error)) {
            answers.push(error);
            prop_assert!(!convicts(&Answer::from_addresses(&addresses(&answers), &codes)));
        }
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
            let line = template.render(IpAddr::from(ip.to_be_bytes()), &zone, &url);
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
