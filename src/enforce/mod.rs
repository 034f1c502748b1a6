//! Carrying a sentence out: the ban, through the warden, and the end of the
//! session.

pub mod ban;
pub mod kill;
pub mod ledger;
pub mod warden;
