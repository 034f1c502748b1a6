//! `rblfilter doctor`: what makes the filter useless or dangerous, and what mends
//! it.
//!
//! One way: [`gather()`] looks at the host, Courier and the filter (bounded in
//! time, and nothing it cannot see is an error), [`facts`] is what it saw, the
//! checks decide (pure; each has its row in [`catalogue`]), a [`Finding`] is what
//! one of them says.

pub mod catalogue;
mod checks;
pub mod facts;
mod finding;
mod gather;
pub mod texts;

pub use catalogue::{ALL, Check, Group};
pub use checks::examine;
pub use facts::{Facts, Filter};
pub use finding::{Finding, Level, status};
pub use gather::gather;
