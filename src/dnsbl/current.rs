//! The lists as the host's resolver configuration is now: at boot it may be
//! there only after us, and it may change.

use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::{Lists, StartError, Zone};
use crate::config::Resolver;

/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The lists, made when they are first asked and again when resolv.conf has
/// changed.
#[derive(Debug)]
pub struct CurrentLists {
    zones: Vec<Zone>,
    settings: Resolver,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    lists: Option<Arc<Lists>>,
    looked: Option<Instant>,
    changed: Option<SystemTime>,
}

impl CurrentLists {
    /// Lists of these zones.
    #[must_use]
    pub fn new(zones: Vec<Zone>, settings: Resolver) -> Self {
        Self {
            zones,
            settings,
            state: Mutex::default(),
        }
    }

    /// The lists to ask; `None` where there are no zones. Must be called within
    /// a runtime.
    ///
    /// # Errors
    /// Where there is no nameserver to ask; the next call looks again.
    pub fn get(&self, now: Instant) -> Result<Option<Arc<Lists>>, StartError> {
        if self.zones.is_empty() {
            return Ok(None);
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state
            .looked
            .is_none_or(|at| now.duration_since(at) > LOOK_EVERY)
        {
            let changed = self.changed();
            if state.lists.is_none() || changed != state.changed {
                // One that became unusable leaves those before in force.
                match Lists::new(self.zones.clone(), &self.settings) {
                    Ok(lists) => state.lists = Some(Arc::new(lists)),
                    Err(error) if state.lists.is_none() => return Err(error),
                    Err(_) => {}
                }
                state.changed = changed;
            }
            state.looked = Some(now);
        }
        Ok(state.lists.clone())
    }

    /// When resolv.conf was last changed, where it is in force.
    fn changed(&self) -> Option<SystemTime> {
        if !self.settings.nameservers.is_empty() {
            return None;
        }
        fs::metadata(RESOLV_CONF)
            .and_then(|meta| meta.modified())
            .ok()
    }
}
