//! A log's lines in, what is about one client or one message out. In bounded
//! memory, however long the log is: the last moments are kept, all are counted.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use memchr::memmem;

use super::moment::{Moment, Ours, Sentence, completed, delivery, of_courier, shown};
use super::subject::is_couriers;
use crate::courier::log_line::LogLine;
use crate::report::{Clock, Head};

/// Moments that are kept; of more the last.
pub const MOST_MOMENTS: usize = 1000;
/// Messages of a client whose ways are followed; of more the last.
const MOST_MESSAGES: usize = 1000;

/// What the log is searched for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Of {
    Client(IpAddr, IpNetwork),
    Message(String),
    MessageId(String),
}

/// The search.
#[derive(Debug)]
pub struct Trace {
    of: Of,
    since: Option<i64>,
    found: Traced,
    moments: VecDeque<Moment>,
    ids: HashSet<String>,
    order: VecDeque<String>,
    /// When the ban that runs ends.
    ban: Option<i64>,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traced {
    /// The first line that was read, and the last, whoever they are about.
    pub period: Option<(i64, i64)>,
    /// The moments in their order, the last of them.
    pub moments: Vec<Moment>,
    /// How many there were before those.
    pub earlier: u64,
    /// How often each kind was.
    pub counts: BTreeMap<&'static str, u64>,
    /// The last sentence against the client.
    pub sentence: Option<Sentence>,
    /// Lines about clients that were summed up in waves, and are of nobody.
    pub summed: u64,
    /// A message's client, where a line tells it.
    pub client: Option<IpAddr>,
    /// Courier's id of a message that was searched for by its Message-ID.
    pub id: Option<String>,
}

impl Traced {
    /// How often this was.
    #[must_use]
    pub fn count(&self, kind: &str) -> u64 {
        self.counts.get(kind).copied().unwrap_or(0)
    }

    /// Whether anything was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
}

/// Whether Courier's id `id` is what is called `name`: all of it, or what its answer
/// to the sender has of it, the end.
fn is_named(id: &str, name: &str) -> bool {
    id.strip_suffix(name)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

impl Trace {
    /// What is about `client`; of others in `network`, which is banned with it,
    /// what was done to them.
    #[must_use]
    pub fn of_client(client: IpAddr, network: IpNetwork) -> Self {
        Self::new(Of::Client(client, network))
    }

    /// What is about the message with this id of Courier's.
    #[must_use]
    pub fn of_message(id: &str) -> Self {
        Self::new(Of::Message(id.to_owned()))
    }

    /// What names this Message-ID, which Courier itself does not log.
    #[must_use]
    pub fn of_message_id(id: &str) -> Self {
        Self::new(Of::MessageId(id.to_owned()))
    }

    fn new(of: Of) -> Self {
        Self {
            of,
            since: None,
            found: Traced::default(),
            moments: VecDeque::new(),
            ids: HashSet::new(),
            order: VecDeque::new(),
            ban: None,
        }
    }

    /// Lines before this second do not count.
    #[must_use]
    pub fn since(mut self, since: Option<i64>) -> Self {
        self.since = since;
        self
    }

    /// Reads lines, each ended by a newline but perhaps the last.
    pub fn read(&mut self, clock: &mut Clock, block: &[u8]) {
        let mut rest = block;
        while !rest.is_empty() {
            let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
            let line = &rest[..end];
            rest = rest.get(end + 1..).unwrap_or_default();
            if let Some(head) = clock.head(line) {
                self.line(&head);
            }
        }
    }

    fn line(&mut self, head: &Head<'_>) {
        if self.since.is_some_and(|since| head.at < since) {
            return;
        }
        let period = self.found.period.get_or_insert((head.at, head.at));
        period.0 = period.0.min(head.at);
        period.1 = period.1.max(head.at);
        if let Of::MessageId(id) = &self.of {
            if memmem::find(&head.message, id.as_bytes()).is_some() {
                self.named(head);
            }
            return;
        }
        if head.ident.starts_with(b"rblfilter") {
            self.ours(head);
        } else if head.ident.starts_with(b"courier") || head.ident.starts_with(b"esmtpd") {
            self.couriers(head);
        }
    }

    /// A line that names the Message-ID: it may tell Courier's id, too.
    fn named(&mut self, head: &Head<'_>) {
        if self.found.id.is_none() {
            let words = head
                .message
                .split(|byte| !byte.is_ascii_alphanumeric() && *byte != b'.');
            let id = words
                .filter_map(|word| std::str::from_utf8(word).ok())
                // An id of Courier's has 16 + 16 + 8 digits; a version's has few.
                .find(|word| word.len() > 24 && is_couriers(word));
            self.found.id = id.map(str::to_owned);
        }
        let text = format!("{}: {}", shown(&head.ident), shown(&head.message));
        self.push(Moment::new(head.at, "named", text));
    }

    fn ours(&mut self, head: &Head<'_>) {
        let ours = Ours::parse(&head.message);
        if ours.event == b"summed" {
            self.found.summed = self.found.summed.saturating_add(ours.lines());
            return;
        }
        let mut other = None;
        let is_of = match &self.of {
            Of::Client(client, network) => {
                other = ours.ip.filter(|ip| ip != client);
                let all = ours.event == b"byhand" && ours.field("what") == "unban-all";
                // Whose ban it ended, it is about.
                (all && self.ban.is_some())
                    || ours.ip.is_some_and(|ip| network.contains(ip))
                    || ours.net.is_some_and(|net| net.contains(*client))
            }
            Of::Message(id) => ours.id.is_some_and(|of| is_named(of, id)),
            Of::MessageId(_) => false,
        };
        let Some((kind, text)) = is_of.then(|| ours.told(head.at)).flatten() else {
            return;
        };
        self.found.client = self.found.client.or(ours.ip);
        self.end_of_ban(head.at);
        if ours.event == b"listed" {
            self.found.sentence = Some(ours.sentence(head.at));
        }
        if ours.ends_ban() {
            self.ban = None;
        } else if let (Some(seconds), Of::Client(..)) = (ours.ban_seconds(), &self.of) {
            self.ban = Some(head.at.saturating_add(seconds.into()));
        }
        let id = ours.id.map(|id| shown(id.as_bytes()));
        self.push(Moment {
            other,
            id,
            ..Moment::new(head.at, kind, text)
        });
    }

    fn couriers(&mut self, head: &Head<'_>) {
        let message: &[u8] = &head.message;
        self.end_of_ban(head.at);
        if let Some(line) = LogLine::parse(&head.ident, message) {
            let (client, id) = match &line {
                LogLine::Started { ip, .. }
                | LogLine::Refused { ip, .. }
                | LogLine::Dropped { ip }
                | LogLine::TooMany { ip }
                | LogLine::Lost { ip, .. } => (Some(*ip), None),
                LogLine::Accepted { id, ip, .. } => (*ip, std::str::from_utf8(id).ok()),
                LogLine::Sender { id, .. } => (None, std::str::from_utf8(id).ok()),
                LogLine::Active { .. } => return,
            };
            let is_accepted = matches!(line, LogLine::Accepted { .. });
            if !self.is_about(client, id, is_accepted) {
                return;
            }
            if is_accepted {
                self.found.client = self.found.client.or(client);
            }
            let (kind, text) = of_courier(&line, message);
            let id = id.map(|id| shown(id.as_bytes()));
            self.push(Moment {
                id,
                ..Moment::new(head.at, kind, text)
            });
        } else if head.ident.starts_with(b"courierd") {
            if let Some(id) = completed(message).filter(|id| self.is_about(None, Some(id), false)) {
                let text = "nothing is left to be done for it".into();
                self.push(Moment {
                    id: Some(shown(id.as_bytes())),
                    ..Moment::new(head.at, "completed", text)
                });
            }
        } else if let Some((id, kind, text)) = delivery(message)
            && self.is_about(None, Some(id), false)
        {
            self.push(Moment {
                id: Some(shown(id.as_bytes())),
                ..Moment::new(head.at, kind, text)
            });
        }
    }

    /// Whether a line of Courier's is about what is searched for. A message that
    /// the client's session brought is followed from then on.
    fn is_about(&mut self, client: Option<IpAddr>, id: Option<&str>, accepted: bool) -> bool {
        match &self.of {
            Of::Message(of) => id.is_some_and(|id| is_named(id, of)),
            Of::MessageId(_) => false,
            Of::Client(of, _) => {
                let its = client == Some(*of);
                if let (true, true, Some(id)) = (its, accepted, id)
                    && self.ids.insert(id.to_owned())
                {
                    self.order.push_back(id.to_owned());
                    if self.order.len() > MOST_MESSAGES
                        && let Some(oldest) = self.order.pop_front()
                    {
                        self.ids.remove(&oldest);
                    }
                }
                its || id.is_some_and(|id| self.ids.contains(id))
            }
        }
    }

    /// A ban that has run out by now is no line of the log.
    fn end_of_ban(&mut self, now: i64) {
        if let Some(end) = self.ban.filter(|end| *end <= now) {
            self.ban = None;
            let text = "the ban ended, as its time was over".to_owned();
            self.push(Moment::new(end, "over", text));
        }
    }

    fn push(&mut self, moment: Moment) {
        let count = self.found.counts.entry(moment.kind).or_default();
        *count = count.saturating_add(1);
        if let Some(last) = self.moments.back_mut()
            && (last.kind, &last.text, last.other, &last.id)
                == (moment.kind, &moment.text, moment.other, &moment.id)
        {
            last.times = last.times.saturating_add(1);
            last.until = moment.at;
            return;
        }
        self.moments.push_back(moment);
        if self.moments.len() > MOST_MOMENTS
            && let Some(first) = self.moments.pop_front()
        {
            self.found.earlier = self.found.earlier.saturating_add(first.times);
        }
    }

    /// What was found, `now` at the end of the log.
    #[must_use]
    pub fn finish(mut self, now: i64) -> Traced {
        self.end_of_ban(now);
        let mut moments: Vec<Moment> = self.moments.into();
        // Two programs' lines may change places.
        moments.sort_by_key(|moment| moment.at);
        self.found.moments = moments;
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::tz::TimeZone;

    const AT: i64 = 1_795_514_400;

    fn traced(trace: Trace, log: &str) -> Traced {
        let mut trace = trace;
        let mut clock = Clock::new(TimeZone::UTC, AT + 86_400);
        trace.read(&mut clock, log.as_bytes());
        trace.finish(AT + 86_400)
    }

    fn client(text: &str) -> Trace {
        let client: IpAddr = text.parse().unwrap();
        let prefix = if client.is_ipv4() { 32 } else { 64 };
        Trace::of_client(client, crate::enforce::ban::around(client, prefix))
    }

    fn told(traced: &Traced) -> Vec<String> {
        let moments = traced.moments.iter();
        moments.map(|moment| moment.text.clone()).collect()
    }

    const LOG: &str = "\
Nov 24 10:00:00 mail courieresmtpd: started,ip=[::ffff:127.66.1.2],port=[7]
Nov 24 10:00:01 mail courieresmtpd: started,ip=[::ffff:127.66.1.20],port=[7]
Nov 24 10:00:01 mail rblfilter[7]: listed,ip=[::ffff:127.66.1.2],port=[7],zone=bl.test,code=127.0.0.2,score=10,also=x.test,at=connect,action=ban,bantime=60s,killed=1
Nov 24 10:00:02 mail rblfilter[7]: summed,event=listed,at=connect,action=ban,lines=1234,seconds=10
Nov 24 10:02:00 mail courieresmtpd: started,ip=[::ffff:127.66.1.2],port=[8]
Nov 24 10:02:01 mail courieresmtpd: started,ip=[::ffff:127.66.1.2],port=[9]
Nov 24 10:02:02 mail courieresmtpd: error,relay=::ffff:127.66.1.2,port=9,from=<a@b.test>,to=<c@d.test>: 511 Listed by bl.test
Nov 24 10:02:03 mail rblfilter[7]: id=0D.6B.84,listed,ip=[::ffff:127.66.1.2],port=[9],zone=bl.test,score=5,action=reject
Nov 24 10:02:04 mail rblfilter[7]: byhand,what=unban,ip=[::ffff:127.66.1.2],user=root,for=86400s
Nov 24 10:02:05 mail courierd: newmsg,id=0E.6B.85: dns; x.test (softdnserr [::ffff:127.66.1.2])
Nov 24 10:02:06 mail courierd: started,id=0E.6B.85,from=<a@b.test>,module=local,host=x!,addr=<alice>
Nov 24 10:02:07 mail courierlocal: id=0E.6B.85,from=<a@b.test>,addr=<alice@d.test>,size=209,success: Message delivered.
Nov 24 10:02:08 mail courierd: completed,id=0E.6B.85
Nov 24 10:02:09 mail courierlocal: id=0F.6B.85,from=<a@b.test>,addr=<bob@d.test>,size=209,success: Message delivered.
";

    #[test]
    fn a_clients_story_has_its_lines_and_the_ends_of_its_bans() {
        let traced = traced(client("127.66.1.2"), LOG);
        assert_eq!(
            told(&traced),
            [
                "connected",
                "as it connected: listed by bl.test (127.0.0.2) and x.test, score 10: banned for 1m, session ended",
                // No line of the log tells this.
                "the ban ended, as its time was over",
                "connected",
                "refused: 511 Listed by bl.test (from <a@b.test> to <c@d.test>)",
                "at the end of its data: listed by bl.test, score 5: message refused with a text, nothing else done",
                "root ended its ban and let it in for 1day",
                "message 0E.6B.85 accepted",
                "delivery from <a@b.test> to <alice> begins",
                "delivered to <alice@d.test>: Message delivered.",
                "nothing is left to be done for it",
            ]
        );
        assert_eq!(traced.moments[3].times, 2);
        assert_eq!(traced.count("connected"), 3);
        assert_eq!(traced.summed, 1234);
        let sentence = traced.sentence.unwrap();
        assert_eq!(
            (sentence.action.as_str(), sentence.id.as_deref()),
            ("reject", Some("0D.6B.84"))
        );
    }

    #[test]
    fn a_message_has_its_client_and_its_end() {
        let delivered = traced(Trace::of_message("0E.6B.85"), LOG);
        assert_eq!(delivered.client, Some("127.66.1.2".parse().unwrap()));
        assert_eq!(
            (delivered.count("delivered"), delivered.count("completed")),
            (1, 1)
        );
        let refused = traced(Trace::of_message("0D.6B.84"), LOG);
        assert_eq!(refused.client, Some("127.66.1.2".parse().unwrap()));
        assert_eq!(refused.count("reject"), 1);
        assert!(traced(Trace::of_message("0D.6B.8"), LOG).is_empty());
    }

    #[test]
    fn a_message_id_is_found_where_another_program_logs_it() {
        let log = "Nov 24 10:00:00 mail amavis[7]: passed, Message-ID: <x@y.test>, queue id 0000000000000036.000000006B0480DB.000000E8\n";
        let found = traced(Trace::of_message_id("<x@y.test>"), log);
        assert_eq!(
            found.id.as_deref(),
            Some("0000000000000036.000000006B0480DB.000000E8")
        );
        assert!(traced(Trace::of_message_id("<z@y.test>"), log).is_empty());
    }

    #[test]
    fn what_befell_the_network_of_an_ipv6_client_is_its_own_story() {
        let log = "\
Nov 24 10:00:00 mail rblfilter[7]: listed,ip=[fd00:66:1:2::9],port=[7],zone=bl.test,score=10,at=connect,action=ban,bantime=3600s,killed=1
Nov 24 10:00:01 mail courieresmtpd: started,ip=[fd00:66:1:2::9],port=[7]
Nov 24 10:00:02 mail rblfilter[7]: freed,net=fd00:66:1:2::/64,reason=unlisted
Nov 24 10:00:03 mail rblfilter[7]: freed,net=fd00:66:1:3::/64,reason=unlisted
";
        let traced = traced(client("fd00:66:1:2::5"), log);
        assert_eq!(traced.moments.len(), 2, "{traced:?}");
        assert_eq!(
            traced.moments[0].other,
            Some("fd00:66:1:2::9".parse().unwrap())
        );
        assert_eq!(
            traced.moments[1].text,
            "the ban ended early: the lists name it no longer"
        );
    }

    #[test]
    fn the_last_moments_are_kept_and_all_are_counted() {
        let mut log = String::new();
        for number in 0..3000 {
            let (minute, second) = (number / 60, number % 60);
            log.push_str(&format!(
                "Nov 24 10:{minute:02}:{second:02} mail courieresmtpd: error,relay=::ffff:1.2.3.4,port=7,from=<{number}@b>,to=<c@d>: 511 no\n"
            ));
        }
        let traced = traced(client("1.2.3.4"), &log);
        assert_eq!(traced.moments.len(), MOST_MOMENTS);
        assert_eq!((traced.earlier, traced.count("refused")), (2000, 3000));
        assert!(traced.moments.last().unwrap().text.contains("<2999@b>"));
    }

    #[test]
    fn equal_moments_are_one() {
        let log = "Nov 24 10:00:00 mail courieresmtpd: started,ip=[::ffff:1.2.3.4],port=[7]\n"
            .repeat(500);
        let traced = traced(client("1.2.3.4"), &log);
        assert_eq!(traced.moments.len(), 1);
        assert_eq!(traced.moments[0].times, 500);
    }

    #[test]
    fn bytes_of_others_are_escaped_and_keys_hidden() {
        let log = b"Nov 24 10:00:00 mail courieresmtpd: error,relay=::ffff:1.2.3.4,port=7,from=<\x1b[31m\xff>,to=<c@d>: 511 see abcdefghijklmnopqrstuvwxyz.zen.dq.spamhaus.net\n";
        let mut trace = client("1.2.3.4");
        trace.read(&mut Clock::new(TimeZone::UTC, AT), log);
        let text = &trace.finish(AT).moments[0].text;
        assert_eq!(
            text,
            "refused: 511 see *.zen.dq.spamhaus.net (from <\\x1b[31m\\xff> to <c@d>)"
        );
    }

    proptest::proptest! {
        /// Whatever stands in a log is told in printable ASCII.
        #[test]
        fn no_line_does_harm(event in "listed|byhand|shed|freed|spared|[a-z]{1,5}", rest in proptest::collection::vec(0_u8.., 0..80), text in ".{0,60}") {
            let mut log = format!("Nov 24 10:00:00 mail rblfilter[7]: {event},ip=[::ffff:1.2.3.4],user={text},").into_bytes();
            log.extend_from_slice(&rest);
            log.extend_from_slice(b"\nNov 24 10:00:00 mail courieresmtpd: error,relay=::ffff:1.2.3.4,port=7,from=<");
            log.extend_from_slice(&rest);
            log.extend_from_slice(b">,to=<x@y>: 550 no\n");
            let mut trace = client("1.2.3.4");
            trace.read(&mut Clock::new(TimeZone::UTC, AT), &log);
            for moment in trace.finish(AT).moments {
                proptest::prop_assert!(moment.text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            }
        }
    }
}
