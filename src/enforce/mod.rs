//! Carrying a sentence out: the ban, through the warden, and the end of the
//! session.

pub mod allows;
pub mod ban;
pub mod book;
pub mod durations;
pub mod forget;
pub mod grounds;
pub mod kill;
pub mod warden;
