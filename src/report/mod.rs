//! `rblfilter report`: what a mail log tells of connections, slots, refusals,
//! bans and waves.
//!
//! A log goes through once, from left to right, in memory that does not grow
//! with its length; each table's bound is stated where it stands, and the
//! report says where one was reached.
//!
//! ```text
//! source (files, pipes, the journal) → stamp, line (bytes → events) → tally → Report → text, html, json, csv
//! ```
//!
//! Nothing of it runs in the daemon.

mod candidates;
mod csv;
mod distinct;
mod frequent;
mod html;
mod labels;
mod line;
mod series;
mod slots;
mod source;
mod stamp;
mod summary;
mod svg;
mod tally;
mod text;
mod waves;

pub use csv::Table;
pub use html::page;
pub use line::{Event, Ours, bracketed, event, fields};
pub use slots::LONGEST_HOLD;
pub use source::{Block, Error, Journal, Opened, Source, in_order, now};
pub use stamp::{Clock, Head};
pub use summary::Report;
pub use tally::{Options, Tally};
pub use text::{Look, number, text};
