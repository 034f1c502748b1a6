//! The demonstration shows what it promises.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

#[test]
fn the_demo_shows_a_wave_without_and_with_rblfilter() {
    let lab = Path::new(env!("CARGO_BIN_EXE_lab"));
    let output = Command::new(lab)
        .args(["demo", "--seconds", "4", "--install"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../install.sh"))
        .arg("--programs")
        .arg(lab.parent().unwrap())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let row = |name: &str| -> Vec<u32> {
        let line = text
            .lines()
            .find(|line| line.trim_start().starts_with(name))
            .unwrap();
        line.split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect()
    };
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "80 columns:\n{text}"
    );
    let slots = row("slots in use, peak");
    assert!(slots[0] >= 100 && slots[2] <= 30, "{text}");
    let ended = row("spammers' sessions ended");
    assert!(
        ended[0] == 0 && ended[2] + 5 >= ended[3] && ended[3] >= 100,
        "{text}"
    );
    let mail = row("legitimate mail accepted");
    assert!(mail[2] == mail[3] && mail[3] >= 10, "{text}");
    assert!(row("addresses banned")[1] >= 100, "{text}");
}
