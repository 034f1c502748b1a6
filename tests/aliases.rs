//! Looking up aliases has an end, whatever `aliaslookup` does.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rblfilter::courier::aliases::Aliases;
use rblfilter_warden::policy::Layer;

/// A program in the place of `aliaslookup`, in a folder of its own, in which it notes
/// what it is asked.
struct Lookup(PathBuf);

impl Lookup {
    fn new(name: &str, script: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("rblfilter-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let program = folder.join("aliaslookup");
        let asked = folder.join("asked");
        let script = format!("#!/bin/sh\necho \"$1\" >>{}\n{script}\n", asked.display());
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, Permissions::from_mode(0o700)).unwrap();
        Self(folder)
    }

    fn start(&self) -> Aliases {
        let own = Path::new(env!("CARGO_BIN_EXE_rblfilter"));
        Aliases::start(own, "rblfilter", &self.0.join("aliaslookup"), Layer::Auto).unwrap()
    }

    fn asked(&self) -> usize {
        fs::read_to_string(self.0.join("asked")).map_or(0, |text| text.lines().count())
    }
}

impl Drop for Lookup {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// So many aliases that stand for what the program prints.
fn aliases(count: usize) -> Vec<(String, String)> {
    let pair = |number| (format!("a{number}@x.test"), format!("a{number}@x.test"));
    (0..count).map(pair).collect()
}

#[tokio::test]
async fn more_aliases_than_are_looked_up_do_not_stand() {
    let lookup = Lookup::new("most", "echo \"$1\"");
    let looking = lookup.start();
    assert!(looking.all_stand(aliases(8)).await.unwrap());
    assert_eq!(lookup.asked(), 8);
    // The same many times over is one.
    let same = [aliases(1), aliases(1), aliases(8)].concat();
    assert!(looking.all_stand(same).await.unwrap());
    assert!(!looking.all_stand(aliases(9)).await.unwrap());
    assert_eq!(lookup.asked(), 16, "none of the nine");
}

#[tokio::test]
async fn all_look_ups_of_a_message_together_have_their_time() {
    let lookup = Lookup::new("slow", "sleep 0.3; echo x");
    let looking = lookup.start();
    let slow: Vec<_> = (0..8)
        .map(|number| (format!("a{number}"), "x".to_owned()))
        .collect();
    let begun = Instant::now();
    let error = looking.all_stand(slow).await.unwrap_err();
    let asked = lookup.asked();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    assert!(
        asked < 8 && begun.elapsed() < Duration::from_secs(10),
        "{asked}"
    );
}
