//! A list asked for one address, for the admin to see: past the cache, with all
//! that it answers.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rblfilter_warden::policy::without_keys;
use tokio::time::timeout;

use super::answer::{Answer, Unknown};
use super::health::Trust;
use super::lookup::Lists;
use super::query;
use super::selftest::Family;

/// How long the text for a reply may take.
const TEXT_TIME: Duration = Duration::from_secs(1);
/// The most of a TXT record that is told.
const MAX_TEXT: usize = 200;

/// What one list answered.
#[derive(Clone, Debug)]
pub struct Look {
    /// The list, by its place in the configuration.
    pub list: usize,
    /// What it means.
    pub answer: Answer,
    /// The addresses that it answered.
    pub codes: Vec<Ipv4Addr>,
    /// How long that holds.
    pub ttl: Option<Duration>,
    /// How long it took.
    pub took: Duration,
    /// Its TXT record, where it lists.
    pub text: String,
    /// Whether it is believed: it has passed its self-test.
    pub believed: bool,
}

impl Lists {
    /// Asks each list that covers `client`, once its self-test is over. They
    /// must be kept tested meanwhile.
    pub async fn look(self: &Arc<Self>, client: IpAddr) -> Vec<Look> {
        let client = client.to_canonical();
        let mut looks = tokio::task::JoinSet::new();
        for (index, list) in self.lists.iter().enumerate() {
            if list.zone.covers(client) {
                let lists = Arc::clone(self);
                looks.spawn(async move { lists.look_at(index, client).await });
            }
        }
        let mut looks = looks.join_all().await;
        looks.sort_by_key(|look| look.list);
        looks
    }

    async fn look_at(&self, index: usize, client: IpAddr) -> Look {
        let mut moved = self.moved.subscribe();
        let health = || self.lists[index].health(Family::of(client)).trust();
        // The sender lives as long as the lists.
        while health() == Trust::Wait && moved.changed().await.is_ok() {}
        let zone = &self.lists[index].zone;
        let mut look = Look {
            list: index,
            answer: Answer::NotListed,
            codes: Vec::new(),
            ttl: None,
            took: Duration::ZERO,
            text: String::new(),
            believed: matches!(health(), Trust::Yes | Trust::Try),
        };
        let Some(name) = query::name(client, zone.origin()) else {
            return look;
        };
        if !self.grant(index, Instant::now()) {
            look.answer = Answer::Unknown(Unknown::Budget);
            return look;
        }
        // The semaphore is never closed.
        let _turn = self.turns.acquire().await;
        let begun = Instant::now();
        let limit = self.settings.limit;
        match timeout(limit, self.resolver.addresses(&name)).await {
            Ok(Ok(records)) => {
                look.answer = Answer::from_addresses(&records.data, zone.rules());
                look.codes = records.data;
                look.ttl = records.ttl;
            }
            Ok(Err(unknown)) => look.answer = Answer::Unknown(unknown),
            Err(_) => look.answer = Answer::Unknown(Unknown::Timeout),
        }
        look.took = begun.elapsed();
        if !look.codes.is_empty() {
            look.text = self.text(index, client).await;
        }
        look
    }

    /// What the list's TXT record says of `client`, in printable ASCII, cut off
    /// at 200 characters; nothing where it does not say in time.
    pub async fn text(&self, index: usize, client: IpAddr) -> String {
        let name = self
            .zone(index)
            .and_then(|zone| query::name(client.to_canonical(), zone.origin()));
        let Some(name) = name.filter(|_| self.grant(index, Instant::now())) else {
            return String::new();
        };
        let texts = timeout(
            TEXT_TIME.min(self.settings.limit),
            self.resolver.texts(&name),
        )
        .await;
        let Ok(Ok(texts)) = texts else {
            return String::new();
        };
        let first = texts.data.first().map(|text| String::from_utf8_lossy(text));
        // Some echo the name that was asked for, with the key in it.
        let first = first.map(|text| without_keys(&text));
        let shown = |c: char| {
            if c == ' ' || c.is_ascii_graphic() {
                c
            } else {
                '?'
            }
        };
        first
            .unwrap_or_default()
            .chars()
            .map(shown)
            .take(MAX_TEXT)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dnsbl::silent_list;

    #[tokio::test]
    async fn a_text_that_does_not_come_in_its_time_is_none() {
        let (nameserver, lists) = silent_list();
        let begun = Instant::now();
        let client = [198, 51, 100, 1].into();
        assert_eq!(lists.text(0, client).await, "");
        // One query would take 15 s.
        assert!((1..12).contains(&begun.elapsed().as_secs()));
        let mut asked = [0; 512];
        assert!(nameserver.recv(&mut asked).unwrap() > 0);
    }
}
