//! What is counted.

pub mod exposition;

use prometheus_client::metrics::counter::Counter;

use crate::dnsbl::Counts;
use crate::gate::Counted;
use crate::judge::Sentence;
use crate::latency::Latency;
use crate::log::Event;

/// The counters, since the worker's start.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Sessions that were seen when they connected.
    pub sessions: Counter,
    /// Times that the kernel's word of execs had a gap, and all was looked at.
    pub gaps: Counter,
    /// Messages that reached the filter socket.
    pub messages: Counter,
    /// Sentences against a listed client.
    pub listed: Counter,
    /// Bans that were set.
    pub bans: Counter,
    /// Clients that the gate kept out, those that the watch stopped at connect,
    /// and those that the filter socket refused.
    pub gate: Counter,
    /// See there.
    pub watch: Counter,
    /// See there.
    pub filter: Counter,
    /// What the gate did with packets.
    pub packets: Counted,
    /// Bans for which others had to make room in a full set.
    pub replaced: Counter,
    /// Bans for which a full set was enlarged.
    pub grown: Counter,
    /// Times that a set was found missing, or emptied by somebody else.
    pub emptied: Counter,
    /// Sessions that the slot guard ended.
    pub shed: Counter,
    /// First packets, as the gate's questions were judged.
    pub at_gate: Sentences,
    /// Sessions, when they connected.
    pub at_connect: Sentences,
    /// Messages, at the end of data.
    pub at_message: Sentences,
    /// Sessions that were ended, by what for.
    pub ended: Ended,
    /// From the sight of a session to its sentence.
    pub to_sentence: Latency,
    /// How long messages waited for their answer at the filter socket.
    pub waited: Latency,
}

/// What was decided, in `observe` too.
#[derive(Clone, Debug, Default)]
pub struct Sentences {
    /// Nobody asked what the lists say: an own address, an allowlisted network,
    /// a client that logged in, ….
    pub exempt: Counter,
    /// The lists have nothing against the client, or not enough.
    pub pass: Counter,
    /// It is to be refused with a text.
    pub reject: Counter,
    /// It is to be ended, and banned.
    pub ban: Counter,
}

impl Sentences {
    /// Counts one.
    pub fn count(&self, sentence: &Sentence) {
        match sentence {
            Sentence::Pass => self.pass.inc(),
            Sentence::Reject(_) => self.reject.inc(),
            Sentence::Ban(_) => self.ban.inc(),
        };
    }
}

/// Sessions that were ended, by what for.
#[derive(Clone, Debug, Default)]
pub struct Ended {
    /// Lists named the client when it connected.
    pub connect: Counter,
    /// A message of it was refused.
    pub message: Counter,
    /// The client was silent while slots were short.
    pub silence: Counter,
    /// The admin did.
    pub hand: Counter,
}

impl Metrics {
    /// A line that tells them, and how many answers of the lists there were.
    #[must_use]
    pub fn event(&self, answers: Counts) -> Event {
        [
            ("sessions", self.sessions.get()),
            ("messages", self.messages.get()),
            ("listed", self.listed.get()),
            ("bans", self.bans.get()),
            ("gate", self.gate.get()),
            ("watch", self.watch.get()),
            ("filter", self.filter.get()),
            ("replaced", self.replaced.get()),
            ("grown", self.grown.get()),
            ("emptied", self.emptied.get()),
            ("shed", self.shed.get()),
            ("gaps", self.gaps.get()),
            ("hits", answers.hits),
            ("misses", answers.misses),
            ("unknown", answers.unknown),
        ]
        .into_iter()
        .fold(Event::new("counted"), |event, (name, count)| {
            event.field(name, count)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_told() {
        let metrics = Metrics::default();
        metrics.shed.inc_by(3);
        let answers = Counts {
            hits: 7,
            misses: 5,
            unknown: 1,
        };
        assert_eq!(
            metrics.event(answers).to_string(),
            "counted,sessions=0,messages=0,listed=0,bans=0,gate=0,watch=0,filter=0,replaced=0,grown=0,emptied=0,shed=3,gaps=0,hits=7,misses=5,unknown=1"
        );
    }
}
