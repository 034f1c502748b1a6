//! What `rblfilter --version` tells of the build: nothing that differs between two
//! builds of the same sources by the same compiler (no time, no path, no host).

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=RBLFILTER_COMMIT");
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    tell("RUSTC", said(Command::new(rustc).arg("--version")));
    tell("TARGET", env::var("TARGET").ok());
    tell("COMMIT", commit());
    tell(
        "LIBIPSET",
        said(Command::new("pkg-config").args(["--modversion", "libipset"])),
    );
    let features = env::vars().filter_map(|(name, _)| {
        let feature = name.strip_prefix("CARGO_FEATURE_")?;
        Some(feature.to_lowercase().replace('_', "-"))
    });
    let mut features: Vec<_> = features.collect();
    features.sort();
    tell(
        "FEATURES",
        Some(features.join(" ")).filter(|names| !names.is_empty()),
    );
}

fn tell(name: &str, value: Option<String>) {
    let value = value.unwrap_or_else(|| "none".into());
    println!("cargo::rustc-env=RBLFILTER_BUILD_{name}={value}");
}

/// What git, or who builds from a tarball, says that the sources are; of release
/// builds alone, as others would be made anew after each commit.
fn commit() -> Option<String> {
    if let Ok(commit) = env::var("RBLFILTER_COMMIT") {
        return Some(commit).filter(|commit| !commit.is_empty());
    }
    let top = env::var("CARGO_MANIFEST_DIR").ok()?;
    if env::var("PROFILE").as_deref() != Ok("release") || !Path::new(&top).join(".git").exists() {
        return None;
    }
    let git = |arguments: &[&str]| said(Command::new("git").arg("-C").arg(&top).args(arguments));
    if let Some(head) = git(&[
        "rev-parse",
        "--path-format=absolute",
        "--git-path",
        "logs/HEAD",
    ]) {
        println!("cargo::rerun-if-changed={head}");
    }
    git(&[
        "describe",
        "--always",
        "--dirty",
        "--exclude=*",
        "--abbrev=12",
    ])
}

/// The first line that a command says, where it succeeds.
fn said(command: &mut Command) -> Option<String> {
    let output = command
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().next().map(str::to_owned)
}
