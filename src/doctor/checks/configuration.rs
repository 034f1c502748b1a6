//! rblfilter.toml.

use super::super::catalogue::*;
use super::super::facts::Facts;
use super::{Out, RELOAD};
use crate::config::{Config, Mode, Note, WatchBy, notes};
use crate::status::STANDING;

/// What puts a change of the backend or the ports into service.
const APPLY: &str = "rblfilter firewall apply; rblfilter reload";
/// After how many days `observe` is asked about.
const LONG: u64 = 14;

pub(super) fn examine(facts: &Facts, out: Out) {
    let path = facts.config.path.display();
    let config = match &facts.config.read {
        Ok(config) => config,
        Err(error) if error.denied => {
            out.push(CONFIG_WRONG.unknown(&error.text));
            return;
        }
        Err(error) => {
            out.push(
                CONFIG_WRONG
                    .problem(error.text.clone())
                    .by_hand("mend the file, until `rblfilter config check` is content")
                    .then(RELOAD),
            );
            return;
        }
    };
    out.push(match &facts.config.installed {
        Ok(()) => CONFIG_WRONG.ok(format!("{path} is right")),
        Err(error) => CONFIG_WRONG.problem(error.clone()).run(format!(
            "chown 0:{gid} {path}; chmod 0640 {path}; rblfilter reload",
            gid = facts.courier_ids.map_or(0, |(_, gid)| gid)
        )),
    });
    let readable = facts.config.file.as_ref().ok().and_then(Option::as_ref);
    if facts.config.keyed && readable.is_some_and(|file| file.mode & 0o004 != 0) {
        out.push(
            KEY_READABLE
                .problem(format!(
                    "a zone in {path} holds a key, and everybody can read it"
                ))
                .run(format!("chmod 0640 {path}")),
        );
    }
    modes(facts, config, out);
}

fn modes(facts: &Facts, config: &Config, out: Out) {
    for note in notes(config) {
        let text = note.to_string();
        out.push(match note {
            // Told by the lists.
            Note::NoVerdict => continue,
            Note::DryRun => DRY_RUN
                .note(text)
                .by_hand("[ban] backend = \"auto\"")
                .then(APPLY),
            Note::Submission => SUBMISSION_JUDGED
                .warning(text)
                .by_hand("ports = [25]")
                .then(APPLY),
            Note::WholeFamily => CONFIG_NOTE
                .warning(text)
                .by_hand("take 0.0.0.0/0 or ::/0 out of allow.networks")
                .then(RELOAD),
            Note::BanNeeds { .. } | Note::ShortMemory(_) => CONFIG_NOTE.note(text),
        });
    }
    if let Some(bans) = facts.filter.status().map(|status| status.standing)
        && bans > 0
    {
        let bans = if bans == 1 {
            "1 ban".to_owned()
        } else {
            format!("{bans} bans")
        };
        out.push(CONFIG_NOTE.note(format!("{bans} {STANDING}")));
    }
    if config.mode == Mode::Observe {
        let days = facts.config.age.map_or(0, |seconds| seconds / 86_400);
        let since = if days == 0 {
            "mode is \"observe\"".to_owned()
        } else {
            format!("mode is \"observe\", and the file as it is for {days} days")
        };
        let what = if days >= LONG {
            since + ": is it not time to decide?"
        } else {
            since
        };
        out.push(
            OBSERVING
                .note(what)
                .by_hand("mode = \"enforce\"")
                .then(RELOAD),
        );
    }
    if config.mode == Mode::Enforce {
        out.push(OBSERVING.ok("mode is \"enforce\""));
    }
    if config.watch.by == WatchBy::Off {
        out.push(
            WATCH_OFF
                .note("watch is \"off\": messages are judged at the end of data alone")
                .by_hand("watch = \"auto\"")
                .then(RELOAD),
        );
    } else if config.guard.is_none() {
        out.push(
            GUARD_OFF
                .note("the slot guard is off")
                .by_hand("[guard] enabled = true")
                .then(RELOAD),
        );
    }
}
