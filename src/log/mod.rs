//! What we tell the admin: events in the grammar of Courier's own log lines
//! (docs/logging.md), through a queue to syslog's mail facility.

mod event;
mod sink;
mod sums;

pub use event::Event;
pub use sink::{Direct, Guard, LINES_PER_SECOND, set_lines_per_second, start};
