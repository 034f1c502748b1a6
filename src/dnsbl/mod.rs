//! The DNS lists: which zones there are, what they are asked, what their
//! answers mean.
//!
//! A list's answer is `listed`, `not listed` or `unknown`; an error of any kind
//! is `unknown`, and nobody is refused for what is not known.

mod answer;
mod codes;
mod current;
mod lookup;
mod query;
mod verdicts;
mod zone;

pub use answer::{Answer, Unknown};
pub use codes::{Codes, CodesError, is_error};
pub use current::CurrentLists;
pub use lookup::{Lists, StartError};
pub use verdicts::Verdicts;
pub use zone::Zone;

/// A list that names a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The list's name as it may be shown.
    pub zone: String,
    /// The address that the list answered, where it is known.
    pub code: Option<std::net::Ipv4Addr>,
    /// Where a person can look the client up; may hold `{ip}`.
    pub lookup_url: String,
}
