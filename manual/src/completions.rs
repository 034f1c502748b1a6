//! What bash, zsh and fish complete.

use clap::Command;
use clap_complete::Shell;

use crate::{Made, Result};

/// A file for each shell, named as that shell looks for it.
///
/// # Errors
/// Where a script is no text.
pub fn all(command: &Command) -> Result<Vec<Made>> {
    let made = |(path, shell)| {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut command.clone(), "rblfilter", &mut script);
        Ok((path, String::from_utf8(script)?))
    };
    [
        ("courierfilter/completions/rblfilter.bash", Shell::Bash),
        ("courierfilter/completions/_rblfilter", Shell::Zsh),
        ("courierfilter/completions/rblfilter.fish", Shell::Fish),
    ]
    .map(made)
    .into_iter()
    .collect()
}
