//! Both filters are asked and answer.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

use serde_json::Value;

#[test]
fn both_filters_accept_every_request() {
    let lab = Path::new(env!("CARGO_BIN_EXE_lab"));
    let output = Command::new(lab)
        .args(["requests", "--count", "203", "--json", "--install"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../install.sh"))
        .arg("--programs")
        .arg(lab.parent().unwrap())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
    for (index, filter) in ["ratefilter", "rblfilter"].into_iter().enumerate() {
        assert_eq!(rows[index]["filter"], filter);
        for way in ["one_by_one", "in_flight"] {
            let answered = &rows[index][way];
            assert_eq!(answered["count"], 203, "{rows:#}");
            assert!(
                answered["reply"].as_str().unwrap().starts_with('2'),
                "{rows:#}"
            );
            assert!(answered["per_second"].as_f64().unwrap() > 50.0, "{rows:#}");
        }
    }
}
