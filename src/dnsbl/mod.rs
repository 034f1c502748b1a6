//! The DNS lists: which there are, what they are asked, what their answers
//! mean and are worth, and whether they are to be believed.
//!
//! A list's answer is `listed`, `not listed` or `unknown`; an error of any kind
//! is `unknown`, and nobody is refused for what is not known. What decides is
//! pure (`answer`, `rule`, `score`, `selftest`, `health`, `budget`, `cache`'s
//! entries); `resolver`, `lookup`, `test_run` and `keep` do the rest.

mod again;
mod answer;
mod budget;
mod cache;
mod clock;
mod codes;
mod evidence;
mod global;
mod health;
mod keep;
mod look;
mod lookup;
pub mod query;
mod recall;
pub(crate) mod resolver;
mod rule;
mod said;
mod score;
mod selftest;
pub mod spf;
mod status;
mod test_run;
mod zone;

pub use answer::{Answer, Hit, Unknown};
pub use cache::{Bounds, Cache, Entry, Key};
pub use clock::Clock;
pub use codes::{Codes, CodesError, is_error};
pub use evidence::{Evidence, Listing};
pub use global::is_global;
pub use health::{Change, Got, Health, Reason, Trust};
pub use look::Look;
pub use lookup::{Counts, Lists, News, Notice};
pub use resolver::{Records, Resolver, StartError};
pub use rule::{MOST_RULES, Match, Met, Rule, reach};
pub use said::{Said, Saying};
pub use score::{Level, Reach, Score, Tally, Thresholds};
pub use selftest::{Failure, Family, Probe, verdict};
pub use zone::Zone;

/// The lists of this configuration.
#[cfg(test)]
fn lists_of(text: &str) -> std::sync::Arc<Lists> {
    let config = crate::config::parse(text).unwrap();
    let (lists, _notices) = Lists::new(
        config.zones,
        config.resolver,
        config.cache,
        config.thresholds,
    );
    lists
}

/// A nameserver that says nothing, and a list that is asked through it; a query is
/// given up after 15 s.
#[cfg(test)]
fn silent_list() -> (std::net::UdpSocket, std::sync::Arc<Lists>) {
    let nameserver = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let text = format!(
        "lookup.nameservers = [\"{}\"]\nlookup.limit = \"30s\"\nlookup.query-limit = \"15s\"\n\
         [[dnsbl]]\nzone = \"bl.test\"",
        nameserver.local_addr().unwrap()
    );
    let lists = lists_of(&text);
    (nameserver, lists)
}
