//! What the lists said of a client, as far as it is kept, for `rblfilter why`.

use std::net::IpAddr;
use std::time::Instant;

use super::answer::Answer;
use super::cache::Key;
use super::evidence::Evidence;
use super::lookup::Lists;
use super::selftest::Family;
use crate::why::Recalled;

impl Lists {
    /// Each list's answer on `client` that is in the cache, also one that no
    /// longer holds; and what those add up to that count, at `now`. Nobody is asked.
    #[must_use]
    pub fn recall(&self, client: IpAddr, now: Instant) -> (Vec<Recalled>, Evidence) {
        let client = client.to_canonical();
        let seconds = self.clock.seconds(now);
        let mut evidence = Evidence::default();
        let mut all = Vec::new();
        for (index, list) in self.lists.iter().enumerate() {
            let zone = &list.zone;
            let entry = self.cache.get(&Key::new(list.number, client));
            let Some(entry) = entry.filter(|_| zone.covers(client)) else {
                continue;
            };
            let got = self.got(&entry);
            let believed = list.health(Family::of(client)).believes(got);
            let answer = entry.answer();
            let (code, score) = match &answer {
                Answer::Listed(hit) => (Some(hit.code), hit.met.score(zone.rules()).points()),
                _ => (None, 0.0),
            };
            if believed && entry.is_fresh(seconds) {
                evidence.add(index, zone, answer, got);
            }
            all.push(Recalled {
                name: zone.name().to_owned(),
                listed: code.is_some(),
                code,
                score,
                age: seconds.saturating_sub(entry.got),
                left: entry.ends.saturating_sub(seconds),
                believed,
                lookup_url: zone.lookup_url().to_owned(),
            });
        }
        (all, evidence)
    }
}
