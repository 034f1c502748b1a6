//! What the lists said of a client, asked once for all who want to know.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;

use super::Lists;
use super::lookup::Findings;

/// How long an answer is kept: for a session's connect and its messages. (The
/// resolver keeps the lists' answers by their own TTL.)
const KEPT: Duration = Duration::from_secs(60);
/// The most that are kept.
const MOST: u64 = 100_000;

/// The answers of the last minute.
#[derive(Clone, Debug)]
pub struct Verdicts(Cache<IpAddr, Arc<Findings>>);

impl Default for Verdicts {
    fn default() -> Self {
        Self(
            Cache::builder()
                .max_capacity(MOST)
                .time_to_live(KEPT)
                .build(),
        )
    }
}

impl Verdicts {
    /// What `lists` say of `client`. Who asks while the question is open waits
    /// for the same answer; one that some list did not give is not kept.
    pub async fn get(&self, lists: &Lists, client: IpAddr) -> Arc<Findings> {
        let findings = self
            .0
            .get_with(client, async { Arc::new(lists.ask(client).await) })
            .await;
        if findings.listing.is_none() && !findings.unknown.is_empty() {
            self.0.invalidate(&client).await;
        }
        findings
    }
}
