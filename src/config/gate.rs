//! The checked `[gate]` table.

use std::time::Duration;

use rblfilter_warden::policy::{DENY, PASS, THROUGH};

use super::error::Problem;
use super::file;
use super::model::{Check, KillPolicy};
use crate::dnsbl::Zone;

/// The gate, where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// The longest that a packet is held.
    pub limit: Duration,
    /// The number of the kernel's queue.
    pub queue: u16,
    /// The most entries of each of its sets.
    pub max_entries: u32,
}

impl Check<'_> {
    pub(super) fn gate(
        &self,
        gate: &file::Gate,
        kill: KillPolicy,
        zones: &[Zone],
    ) -> Result<Option<Gate>, Problem> {
        let checked = Gate {
            // A client sends its SYN again after one second.
            limit: self.duration(
                "gate.limit",
                &gate.limit,
                Duration::from_millis(50)..=Duration::from_millis(900),
            )?,
            // In range by the check.
            queue: u16::try_from(self.within("gate.queue", &gate.queue, 0..=u16::MAX.into())?)
                .unwrap_or(u16::MAX),
            max_entries: self.number("gate.max-entries", &gate.max_entries, 1..=16_000_000)?,
        };
        // The warden reads it for itself.
        self.within("gate.asks-per-second", &gate.asks_per_second, 1..=200_000)?;
        if !*gate.enabled.get_ref() {
            return Ok(None);
        }
        if kill != KillPolicy::Always {
            return self.wrong(
                gate.enabled.span(),
                "gate.enabled: with kill = \"pressure\" listed clients are to read their 554, which at the gate they cannot; expected kill = \"always\"",
            );
        }
        if !zones.iter().any(|zone| !zone.allows()) {
            return self.wrong(
                gate.enabled.span(),
                "gate.enabled: the gate asks the lists of [[dnsbl]], and there are none",
            );
        }
        Ok(Some(checked))
    }

    /// Bans are kept in sets of their own.
    pub(super) fn no_gate_set(
        &self,
        key: &str,
        set: &toml::Spanned<String>,
    ) -> Result<(), Problem> {
        let name = set.get_ref();
        match [PASS, DENY, THROUGH]
            .iter()
            .find(|own| name.starts_with(**own))
        {
            None => Ok(()),
            Some(own) => self.wrong(
                set.span(),
                format!(
                    "ban.{key}: {name:?} is a name of the gate's sets ({own}...), expected another"
                ),
            ),
        }
    }
}
