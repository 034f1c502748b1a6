//! What is counted, for others to read: over HTTP on loopback or a Unix socket,
//! and in a file. Neither is there unless the configuration asks for it; what
//! does not work is a degraded state and is tried again, and no mail waits for it.

mod http;
mod listening;
mod textfile;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::filter::Filter;
use crate::config::Metrics as Settings;
use crate::metrics::exposition::{classic, open_metrics};

/// How old what is told may be: whoever asks more often costs nothing more.
const FRESH: Duration = Duration::from_secs(1);

/// Where all of it is asked for.
#[derive(Debug)]
pub struct Source {
    filter: Arc<Filter>,
    last: Mutex<Option<(Instant, Arc<Texts>)>>,
}

/// The same in both formats.
#[derive(Debug)]
pub struct Texts {
    /// OpenMetrics 1.0.
    pub open: String,
    /// The text format 0.0.4.
    pub classic: String,
}

impl Source {
    /// How it is now, or was a moment ago.
    ///
    /// # Errors
    /// Where a bug kept it from being told.
    async fn texts(&self) -> io::Result<Arc<Texts>> {
        // Held while it is made: others wait for the same.
        let mut last = self.last.lock().await;
        if let Some((at, texts)) = &*last
            && at.elapsed() < FRESH
        {
            return Ok(Arc::clone(texts));
        }
        let filter = Arc::clone(&self.filter);
        // It reads of /proc, and counts what may be a million bans.
        let made = tokio::task::spawn_blocking(move || {
            let open = open_metrics(filter.snapshot());
            let classic = classic(&open);
            Arc::new(Texts { open, classic })
        });
        let texts = made.await.map_err(io::Error::other)?;
        *last = Some((Instant::now(), Arc::clone(&texts)));
        Ok(texts)
    }
}

/// Serves what `settings` ask for, until the future is dropped.
pub async fn run(filter: Arc<Filter>, settings: Settings) {
    let source = Arc::new(Source {
        filter: Arc::clone(&filter),
        last: Mutex::default(),
    });
    let over_http = async {
        if let Some(listen) = &settings.listen {
            http::serve(&source, listen, filter.degraded()).await;
        }
    };
    let to_file = async {
        if let Some(path) = &settings.textfile {
            textfile::keep(&source, path, filter.degraded()).await;
        }
    };
    tokio::join!(over_http, to_file);
}
