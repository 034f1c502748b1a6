//! Courier's aliases, as `aliaslookup` tells them.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::control_file::Alias;

/// How long all look-ups of a message together may take; one reads a record of
/// a database.
const PATIENCE: Duration = Duration::from_secs(1);
/// The most aliases that are looked up for one message: it takes a process each.
const MOST: usize = 8;

/// Whether each alias stands for its address, among others. Neither is
/// trusted: both may be the client's words. More than eight are not looked up,
/// and do not.
///
/// # Errors
/// Where `program` (`aliaslookup`) cannot be run, fails, or takes too long.
pub async fn all_stand(program: &Path, aliases: Vec<Alias>) -> io::Result<bool> {
    let distinct: HashSet<Alias> = aliases.into_iter().collect();
    if distinct.len() > MOST {
        return Ok(false);
    }
    let all = async {
        for (alias, address) in &distinct {
            if !stands_for(program, alias, address).await? {
                return Ok(false);
            }
        }
        Ok(true)
    };
    timeout(PATIENCE, all)
        .await
        .unwrap_or(Err(io::ErrorKind::TimedOut.into()))
}

async fn stands_for(program: &Path, alias: &str, address: &str) -> io::Result<bool> {
    let mut command = Command::new(program);
    command
        .arg(alias)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let output = command.output().await?;
    if !output.status.success() {
        return Err(io::Error::other(format!(
            "{}: {}",
            program.display(),
            output.status
        )));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text
        .lines()
        .any(|line| line.trim().eq_ignore_ascii_case(address)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(program: &str, count: usize) -> io::Result<bool> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        // echo prints its argument.
        let pair = |number| (format!("{number}@a.test"), format!("{number}@A.test"));
        runtime.block_on(all_stand(
            Path::new(program),
            (0..count).map(pair).collect(),
        ))
    }

    #[test]
    fn an_alias_stands_for_what_the_program_prints() {
        assert!(ask("/bin/echo", 1).unwrap());
        assert!(ask("/bin/echo", MOST).unwrap());
        assert!(!ask("/bin/echo", MOST + 1).unwrap());
        assert!(!ask("/bin/true", 1).unwrap());
        assert!(ask("/bin/false", 1).is_err());
        assert!(ask("/nowhere", 1).is_err());
    }
}
