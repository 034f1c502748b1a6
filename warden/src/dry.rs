//! No set at all, for `backend = "dry-run"`: everything is done, and nothing
//! of it in the kernel.

use std::time::Instant;

use ipnetwork::IpNetwork;

use crate::sets::{Applied, Change, Ends, Kernel, Problem};

/// What holds nobody.
pub struct Dry;

impl Kernel for Dry {
    fn read(&mut self, _now: Instant) -> Result<Ends, Problem> {
        Ok(Ends::new())
    }

    fn create(&mut self, _most: u32) -> Result<(), Problem> {
        Ok(())
    }

    fn apply(&mut self, changes: &[Change]) -> Vec<Result<Applied, Problem>> {
        vec![Ok(Applied::Done); changes.len()]
    }

    fn grow(&mut self, _ends: &Ends, _most: u32, _now: Instant) -> Result<(), Problem> {
        Ok(())
    }

    fn look(&mut self) -> Result<bool, Problem> {
        Ok(true)
    }

    fn holds(&mut self, networks: &[IpNetwork]) -> Result<Vec<bool>, Problem> {
        Ok(vec![true; networks.len()])
    }

    fn flush(&mut self) -> Result<(), Problem> {
        Ok(())
    }

    fn is_used(&mut self) -> Result<bool, Problem> {
        Ok(true)
    }

    fn is_ipset(&self) -> bool {
        true
    }
}
