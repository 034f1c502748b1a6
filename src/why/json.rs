//! The facts for programs.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::facts::Facts;
use super::story::{Line, Story};
use super::subject::Subject;
use super::trace::Traced;

/// All of it, as one object; times as RFC 3339 has them.
#[must_use]
pub fn json(facts: &Facts, story: &Story) -> Value {
    let kind = match facts.subject {
        Subject::Client(_) => "client",
        Subject::Message(_) => "message",
        Subject::MessageId(_) => "message-id",
    };
    let named = match &facts.subject {
        Subject::Client(client) => client.to_string(),
        Subject::Message(id) | Subject::MessageId(id) => id.clone(),
    };
    let commands = |line: &Line| match line {
        Line::Command(command, what) => Some(json!({"do": command, "what": what})),
        _ => None,
    };
    let advice: Vec<Value> = story
        .parts
        .iter()
        .flat_map(|part| &part.lines)
        .filter_map(commands)
        .collect();
    json!({
        "subject": named,
        "kind": kind,
        "client": facts.client,
        "now": time(facts.now),
        "known": facts.is_anything_known(),
        "summary": story.summary,
        "filter": facts.known(),
        "file": facts.file.as_ref().and_then(|file| file.as_ref().ok()),
        "in-kernel-set": facts.kernel.as_ref().and_then(|kernel| kernel.as_ref().ok()),
        "configured": facts.settings(),
        "logs": facts.log.as_ref().map(|logs| logs.sources.clone()).ok(),
        "message": facts.message().map(traced),
        "log": facts.traced().map(traced),
        "forecast": facts.expected(),
        "advice": advice,
        "not-looked-at": facts.not_looked_at(),
    })
}

fn time(at: i64) -> String {
    Timestamp::from_second(at).map_or_else(|_| at.to_string(), |time| time.to_string())
}

fn traced(traced: &Traced) -> Value {
    let moments: Vec<Value> = traced
        .moments
        .iter()
        .map(|moment| {
            json!({
                "time": time(moment.at),
                "kind": moment.kind,
                "text": moment.text,
                "client": moment.other,
                "id": moment.id,
                "times": moment.times,
                "until": time(moment.until),
            })
        })
        .collect();
    json!({
        "first": traced.period.map(|(first, _)| time(first)),
        "last": traced.period.map(|(_, last)| time(last)),
        "moments": moments,
        "earlier": traced.earlier,
        "counts": traced.counts,
        "summed": traced.summed,
    })
}
