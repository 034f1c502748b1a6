//! What the documents name is there.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs;
use std::path::Path;

/// All Rust sources below `folder`, as one text.
fn sources(folder: &Path, into: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            into.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

/// Each row of docs/limits.md names the tests that reach the bound, where it
/// has some.
#[test]
fn the_tests_that_the_limits_name_are_there() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = String::new();
    for folder in ["src", "tests", "warden/src"] {
        sources(&top.join(folder), &mut all);
    }
    let limits = fs::read_to_string(top.join("docs/limits.md")).unwrap();
    let rows = limits.lines().filter(|line| line.starts_with("| ")).skip(1);
    let mut named = 0;
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        assert!(cells.len() >= 3, "{row}");
        for test in cells.get(3).into_iter().flat_map(|cell| cell.split(", ")) {
            let test = test.trim_matches([' ', '|', '`']);
            if !test.is_empty() {
                assert!(
                    all.contains(&format!("fn {test}(")),
                    "no test {test}: {row}"
                );
                named += 1;
            }
        }
    }
    assert!(named > 50, "{named}");
}

/// Each fuzz target is told of, and has inputs to begin with.
#[test]
fn each_fuzz_target_is_told_of_and_has_a_corpus() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let told = fs::read_to_string(top.join("docs/fuzzing.md")).unwrap();
    for entry in fs::read_dir(top.join("fuzz/targets")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(told.contains(&format!("| `{name}` |")), "{name}");
        let corpus = fs::read_dir(top.join("fuzz/corpus").join(name)).unwrap();
        assert!(corpus.count() > 0, "{name}");
    }
}

/// The documents that are read, by their path from the top.
fn documents() -> Vec<String> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all: Vec<String> = [
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
    ]
    .map(String::from)
    .into();
    for entry in fs::read_dir(top.join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".md") {
            all.push(format!("docs/{name}"));
        }
    }
    all.sort();
    all
}

/// The text without what stands in blocks of code, which is no link.
fn prose(text: &str) -> String {
    let mut prose = String::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if !fenced && !line.starts_with("    ") {
            prose.push_str(line);
            prose.push('\n');
        }
    }
    prose
}

/// What a heading is called in a link (as GitHub and most others make it).
fn anchor(heading: &str) -> String {
    heading
        .trim_start_matches('#')
        .trim()
        .to_lowercase()
        .chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            '-' | '_' => Some(c),
            c => c.is_alphanumeric().then_some(c),
        })
        .collect()
}

fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let mut all: Vec<String> = Vec::new();
    for heading in headings {
        let name = anchor(heading);
        let before = all.iter().filter(|other| **other == name).count();
        all.push(if before == 0 {
            name
        } else {
            format!("{name}-{before}")
        });
    }
    all
}

/// Each link within the documents leads to a file that is there, and to a heading of
/// it; and each picture is there.
#[test]
fn the_links_within_the_documents_lead_somewhere() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut followed = 0;
    for name in documents() {
        let path = top.join(&name);
        let text = fs::read_to_string(&path).unwrap();
        let prose = prose(&text);
        let targets = prose.split("](").skip(1).map(|rest| {
            let end = rest
                .find(')')
                .unwrap_or_else(|| panic!("{name}: {rest:.60}"));
            rest[..end].replace('\n', " ")
        });
        let sources = prose.split(" src=\"").chain(prose.split(" srcset=\""));
        let sources = sources
            .filter(|rest| !rest.contains('\n') || rest.find('"') < rest.find('\n'))
            .filter_map(|rest| rest.split_once('"').map(|(target, _)| target.to_owned()))
            .filter(|target| target.ends_with(".svg") || target.ends_with(".png"));
        for target in targets.chain(sources.collect::<Vec<_>>()) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (file, heading) = target.split_once('#').unwrap_or((&target, ""));
            let there = match file {
                "" => path.clone(),
                file => path.parent().unwrap().join(file),
            };
            assert!(there.exists(), "{name}: no {target}");
            if !heading.is_empty() {
                let text = fs::read_to_string(&there).unwrap();
                let all = anchors(&text);
                assert!(
                    all.iter().any(|anchor| anchor == heading),
                    "{name}: no heading for {target}: {all:?}"
                );
            }
            followed += 1;
        }
    }
    assert!(followed > 50, "{followed}");
}

/// The index tells of every document, and the README of the index.
#[test]
fn the_index_has_every_document() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let index = fs::read_to_string(top.join("docs/index.md")).unwrap();
    for name in documents() {
        if let Some(page) = name.strip_prefix("docs/")
            && page != "index.md"
        {
            assert!(index.contains(&format!("({page})")), "{page}");
        }
    }
    let readme = fs::read_to_string(top.join("README.md")).unwrap();
    assert!(readme.contains("(docs/index.md)"));
}
