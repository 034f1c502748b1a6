//! What a right configuration may not mean as it is written.

use std::fmt;
use std::time::Duration;

use rblfilter_warden::policy::Backend;

use super::Config;

/// Something that an author may not have meant, or should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// Neither lists nor variables.
    NoVerdict,
    /// More lists must agree than there are.
    BanNeeds {
        /// How many must agree.
        needs: usize,
        /// How many there are.
        lists: usize,
    },
    /// Nobody is shut out.
    DryRun,
    /// Bans of before count for no longer than this, in seconds.
    ShortMemory(u32),
    /// A whole family is not judged.
    WholeFamily,
    /// Ports where users log in are judged.
    Submission,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoVerdict => {
                f.write_str("with neither lists nor block-variables, every message is accepted")
            }
            Self::BanNeeds { needs, lists } => write!(
                f,
                "score.ban-needs = {needs}, but {lists} [[dnsbl]] are here: nobody is banned whom couriertcpd does not name too, by a list that is none of these"
            ),
            Self::DryRun => f.write_str(
                "ban.backend is \"dry-run\": bans are told and kept, and nobody is shut out",
            ),
            Self::ShortMemory(seconds) => write!(
                f,
                "the bans of before count for {}, as nothing is kept for longer (retention)",
                humantime::format_duration(Duration::from_secs((*seconds).into()))
            ),
            Self::WholeFamily => {
                f.write_str("allow.networks holds a whole family: none of its clients is judged")
            }
            Self::Submission => f.write_str(
                "your own users log in on ports 465 and 587, from addresses that lists name",
            ),
        }
    }
}

/// What there is to note of `config`.
#[must_use]
pub fn notes(config: &Config) -> Vec<Note> {
    let lists = config.zones.iter().filter(|zone| !zone.allows()).count();
    let needs = config.thresholds.ban_needs;
    let window = config.ban.durations.window;
    [
        (
            config.zones.is_empty() && config.block_variables.is_empty(),
            Note::NoVerdict,
        ),
        (needs > lists.max(1), Note::BanNeeds { needs, lists }),
        (config.ban.backend == Backend::DryRun, Note::DryRun),
        (window == config.retention, Note::ShortMemory(window)),
        (
            config.allow.iter().any(|network| network.prefix() == 0),
            Note::WholeFamily,
        ),
        (
            config.ports.iter().any(|port| [465, 587].contains(port)),
            Note::Submission,
        ),
    ]
    .into_iter()
    .filter_map(|(is_so, note)| is_so.then_some(note))
    .collect()
}
