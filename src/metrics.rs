//! What is counted.

use prometheus_client::metrics::counter::Counter;

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
    /// Sessions that the slot guard ended.
    pub shed: Counter,
}

impl Metrics {
    /// A line that tells them.
    #[must_use]
    pub fn event(&self) -> Event {
        [
            ("sessions", &self.sessions),
            ("messages", &self.messages),
            ("listed", &self.listed),
            ("bans", &self.bans),
            ("shed", &self.shed),
            ("gaps", &self.gaps),
        ]
        .into_iter()
        .fold(Event::new("counted"), |event, (name, counter)| {
            event.field(name, counter.get())
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
        assert_eq!(
            metrics.event().to_string(),
            "counted,sessions=0,messages=0,listed=0,bans=0,shed=3,gaps=0"
        );
    }
}
