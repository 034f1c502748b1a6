//! Courier's aliases, as `aliaslookup` tells them.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

/// How long `aliaslookup` may take; it reads one record of a database.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether `alias` stands for `address`, among others. Neither is trusted: both
/// may be the client's words.
///
/// # Errors
/// Where `program` (`aliaslookup`) cannot be run, fails, or takes too long.
pub async fn stands_for(program: &Path, alias: &str, address: &str) -> io::Result<bool> {
    let mut command = Command::new(program);
    command
        .arg(alias)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let output = match timeout(PATIENCE, command.output()).await {
        Ok(output) => output?,
        Err(_) => return Err(io::ErrorKind::TimedOut.into()),
    };
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

    fn ask(program: &str) -> io::Result<bool> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(stands_for(
            Path::new(program),
            "alice@a.test",
            "Alice@a.test",
        ))
    }

    #[test]
    fn an_alias_stands_for_what_the_program_prints() {
        assert!(ask("/bin/echo").unwrap());
        assert!(!ask("/bin/true").unwrap());
        assert!(ask("/bin/false").is_err());
        assert!(ask("/nowhere").is_err());
    }
}
