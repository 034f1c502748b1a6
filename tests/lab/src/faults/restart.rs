//! Courier's own daemons started again, and rblfilter with a configuration that is none.

use std::fs;

use super::scenario::Mend;
use super::stage::Stage;
use crate::{Error, wait_for};

const CONFIG: &str = "/etc/courier/filters/rblfilter.toml";
const GARBAGE: &[u8] = b"\x00\xff mode = [enforce\n[[dnsbl]\nzone = \x1b[2J\n";
const LIMIT: std::time::Duration = std::time::Duration::from_secs(20);

/// couriertcpd of port 25; its sessions go on.
pub(super) fn couriertcpd(stage: &mut Stage) -> Result<Mend, Error> {
    stage.lab.esmtpd_stop()?;
    Ok(Mend::by(|stage: &mut Stage| stage.lab.esmtpd_start()))
}

/// courierd, the queue's owner.
pub(super) fn courierd(stage: &mut Stage) -> Result<Mend, Error> {
    stage.lab.run_ok(&["courier", "stop"])?;
    let gone = || {
        let all = stage.lab.processes();
        (!all
            .iter()
            .any(|process| process.comm == "courierd" && process.state != 'Z'))
        .then_some(())
    };
    wait_for(LIMIT, gone).ok_or_else(|| Error::Timeout {
        what: "the end of courierd".into(),
        limit: LIMIT,
    })?;
    Ok(Mend::by(|stage: &mut Stage| {
        stage.lab.run_ok(&["courier", "start"]).map(drop)
    }))
}

/// courierfilter, and rblfilter with it.
pub(super) fn courierfilter(stage: &mut Stage) -> Result<Mend, Error> {
    stage.lab.run_ok(&["courierfilter", "stop"])?;
    let gone = || stage.filter_processes().is_empty().then_some(());
    wait_for(LIMIT, gone).ok_or_else(|| Error::Timeout {
        what: "the filter's end".into(),
        limit: LIMIT,
    })?;
    Ok(Mend::by(|stage: &mut Stage| {
        stage.lab.run_ok(&["courierfilter", "start"]).map(drop)
    }))
}

/// rblfilter, as the admin does it.
pub(super) fn filter(stage: &mut Stage) -> Result<Mend, Error> {
    let product = stage.product()?.clone();
    product.filterctl_stop(&stage.lab)?;
    product.filterctl_start(&stage.lab)?;
    Ok(Mend::nothing())
}

/// rblfilter is started again on garbage; afterwards with the right file.
pub(super) fn garbage(stage: &mut Stage) -> Result<Mend, Error> {
    overwrite(GARBAGE)?;
    filter(stage)?;
    Ok(Mend::by(|stage: &mut Stage| {
        overwrite(stage.toml.as_bytes())?;
        filter(stage).map(drop)
    }))
}

/// The configuration is put into service as it is.
pub(super) fn reload(stage: &mut Stage) -> Result<Mend, Error> {
    stage.lab.run_ok(&["rblfilter", "reload"])?;
    Ok(Mend::nothing())
}

/// It is garbage, and refused; afterwards the right file is put into service.
pub(super) fn garbage_reloaded(stage: &mut Stage) -> Result<Mend, Error> {
    overwrite(GARBAGE)?;
    let refused = stage.lab.run(&["rblfilter", "reload"]);
    let refused = refused.map_err(|error| Error::io("run", "rblfilter reload", error))?;
    if refused.status.success() {
        return Err(Error::Command {
            program: "rblfilter reload".into(),
            text: "garbage is put into service".into(),
        });
    }
    Ok(Mend::by(|stage: &mut Stage| {
        overwrite(stage.toml.as_bytes())?;
        reload(stage).map(drop)
    }))
}

/// In its place, with its owner and mode.
fn overwrite(bytes: &[u8]) -> Result<(), Error> {
    fs::write(CONFIG, bytes).map_err(|e| Error::io("write", CONFIG, e))
}
