//! `rblfilter why`: everything known of a client or a message, in plain words.
//!
//! Pure: facts in, a story out. Whoever asks the running filter, reads its file
//! and the log, and asks the lists is `cli/why.rs`; what cannot be looked at is
//! part of the story.
//!
//! ```text
//! subject (an argument) → trace (the log's lines → moments) ┐
//! known (the filter's word), file, kernel, configuration    ├→ story → text, json
//! ```

mod advice;
mod facts;
mod json;
mod known;
mod moment;
mod pages;
mod story;
mod subject;
mod text;
mod trace;

pub use facts::{Configured, Facts, Forecast, Logs, Opinion};
pub use json::json;
pub use known::{Former, Held, Known, OpenSession, Recalled};
pub use moment::{Moment, Sentence};
pub use story::{Line, Part, Story, story};
pub use subject::Subject;
pub use text::{text, wrap};
pub use trace::{MOST_MOMENTS, Trace, Traced};
