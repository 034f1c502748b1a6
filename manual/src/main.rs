//! Writes what is made from other sources, and is committed: the manual pages, the
//! reference of the configuration, shell completions, the licences of the libraries.
//!
//! `cargo run -p rblfilter-manual` after a change of a command, a key of the
//! configuration, a text in manual/text or a dependency. `cargo test` says when
//! that was forgotten.

mod commands;
mod completions;
mod keys;
mod licences;
mod markup;
mod page;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

/// What can go wrong: a source that is not as it should be, a file that cannot be
/// written.
type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A file of the checkout, and what it is to hold.
type Made = (&'static str, String);

/// The checkout.
fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Everything that is made.
fn all() -> Result<Vec<Made>> {
    let command = rblfilter::cli::command();
    let mut all = vec![
        ("courierfilter/rblfilter.8", commands::page(&command)?),
        ("courierfilter/rblfilter.toml.5", keys::page()?),
        ("docs/configuration.md", keys::reference()?),
        ("courierfilter/third-party-licences", licences::text()?),
    ];
    all.extend(completions::all(&command)?);
    Ok(all)
}

/// Those of `made` whose file in the checkout holds something else.
fn stale(made: Vec<Made>) -> Vec<Made> {
    made.into_iter()
        .filter(|(path, text)| {
            !fs::read_to_string(top().join(path)).is_ok_and(|there| there == *text)
        })
        .collect()
}

fn main() -> Result<()> {
    for (path, text) in stale(all()?) {
        let file = top().join(path);
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(file, text)?;
        println!("{path}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_what_its_sources_say() {
        let stale: Vec<_> = stale(all().unwrap())
            .into_iter()
            .map(|(path, _)| path)
            .collect();
        assert!(
            stale.is_empty(),
            "not as their sources say: {stale:?}; run: cargo run -p rblfilter-manual"
        );
    }
}
