//! The clients that have delivered mail lately: the last that anything is done
//! to for silence alone.

use std::net::IpAddr;
use std::time::Duration;

use moka::sync::Cache;

/// How long that is remembered.
const LATELY: Duration = Duration::from_secs(24 * 3600);
/// The most clients that are remembered.
const MOST: u64 = 50_000;

/// Clients whose messages were accepted.
#[derive(Debug)]
pub struct Senders(Cache<IpAddr, ()>);

impl Default for Senders {
    fn default() -> Self {
        Self(
            Cache::builder()
                .max_capacity(MOST)
                .time_to_live(LATELY)
                .build(),
        )
    }
}

impl Senders {
    /// A message of `client` was accepted.
    pub fn delivered(&self, client: IpAddr) {
        self.0.insert(client, ());
    }

    /// Whether one was within the last day.
    #[must_use]
    pub fn has_delivered(&self, client: IpAddr) -> bool {
        self.0.contains_key(&client)
    }
}
