//! What the libraries ask for that are linked into the programs: their licences, each
//! text once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::{Result, top};

/// The programs that are distributed.
const PROGRAMS: [&str; 2] = ["rblfilter", "rblfilter-warden"];

/// `cargo metadata`, as far as it matters.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    repository: Option<String>,
    source: Option<String>,
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    kind: Option<String>,
}

impl Package {
    /// Runs in the compiler, and is not linked.
    fn is_macro(&self) -> bool {
        self.targets
            .iter()
            .any(|target| target.kind.iter().any(|kind| kind == "proc-macro"))
    }

    /// The texts in its folder; of several to choose from, MIT's.
    fn texts(&self) -> Result<Vec<String>> {
        let folder = self.manifest_path.parent().unwrap_or(Path::new("."));
        let mut paths = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .to_lowercase();
            let is_one = ["license", "licence", "copying", "copyright", "notice"]
                .iter()
                .any(|start| name.starts_with(start));
            if is_one && path.is_file() {
                paths.push((name, path));
            }
        }
        paths.sort();
        let chosen = self.license.as_deref().unwrap_or_default().contains("OR");
        if chosen && paths.iter().any(|(name, _)| name.contains("mit")) {
            paths.retain(|(name, _)| name.contains("mit"));
        }
        let mut texts = Vec::new();
        for (_, path) in paths {
            let text = fs::read_to_string(path)?;
            let lines: Vec<_> = text.lines().map(str::trim_end).collect();
            texts.push(lines.join("\n").trim_matches('\n').to_owned());
        }
        Ok(texts)
    }
}

/// All libraries that are linked into the programs, in the order of their names.
fn linked(metadata: &Metadata) -> Vec<&Package> {
    let packages: BTreeMap<_, _> = metadata
        .packages
        .iter()
        .map(|package| (&package.id, package))
        .collect();
    let nodes: BTreeMap<_, _> = metadata
        .resolve
        .nodes
        .iter()
        .map(|node| (&node.id, node))
        .collect();
    let mut open: Vec<_> = metadata
        .packages
        .iter()
        .filter(|package| PROGRAMS.contains(&&*package.name))
        .map(|package| &package.id)
        .collect();
    let mut found = BTreeSet::new();
    while let Some(id) = open.pop() {
        if packages[id].is_macro() || !found.insert(id) {
            continue;
        }
        let linked = nodes[id]
            .deps
            .iter()
            .filter(|dependency| dependency.dep_kinds.iter().any(|kind| kind.kind.is_none()));
        open.extend(linked.map(|dependency| &dependency.pkg));
    }
    let mut linked: Vec<_> = found
        .into_iter()
        .map(|id| packages[id])
        .filter(|package| package.source.is_some())
        .collect();
    linked.sort_by_key(|package| (&package.name, &package.version));
    linked
}

/// The file.
///
/// # Errors
/// Where cargo cannot tell, or a library's folder cannot be read.
pub fn text() -> Result<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--locked", "--offline"])
        .arg("--filter-platform=x86_64-unknown-linux-gnu")
        .current_dir(top())
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    let metadata: Metadata = serde_json::from_slice(&output.stdout)?;
    let mut text = String::from(
        "The libraries that are linked into rblfilter and rblfilter-warden, and their licences.\n\
         Where a library may be had under one of several, it is MIT's that is made use of.\n\
         SQLite, which libsqlite3-sys brings, is in the public domain.\n\n",
    );
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in linked(&metadata) {
        let name = format!("{} {}", package.name, package.version);
        writeln!(
            text,
            "{name}: {} {}",
            package.license.as_deref().unwrap_or("see below"),
            package.repository.as_deref().unwrap_or_default()
        )?;
        for text in package.texts()? {
            texts.entry(text).or_default().push(name.clone());
        }
    }
    let mut texts: Vec<_> = texts.into_iter().collect();
    texts.sort_by(|a, b| a.1.cmp(&b.1));
    for (licence, names) in texts {
        write!(
            text,
            "\n{}\n{}:\n\n{licence}\n",
            "-".repeat(78),
            names.join(", ")
        )?;
    }
    Ok(text)
}
