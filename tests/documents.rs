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
