//! The only unsafe code of the house.
#![allow(unsafe_code)]

pub mod descriptors;

mod watched;

pub use watched::watched;
