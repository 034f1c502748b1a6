//! The domains that Courier takes mail for: `locals`, `hosteddomains`,
//! `esmtpacceptmailfor` (courier(8)).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

/// The longest file that is read, and the most domains.
const MOST_BYTES: u64 = 16 << 20;
const MOST: usize = 100_000;
/// The files, and the folders of such files.
const FILES: [&str; 3] = ["locals", "hosteddomains", "esmtpacceptmailfor"];
const FOLDERS: [&str; 2] = ["hosteddomains", "esmtpacceptmailfor.dir"];

/// Those in `sysconfdir`, in lower case, each once. A file that is not there
/// names none; where `locals` is missing, `me` is one.
///
/// # Errors
/// Where a file cannot be read.
pub fn read(sysconfdir: &Path) -> io::Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    let mut names: Vec<_> = FILES.iter().map(|name| sysconfdir.join(name)).collect();
    if !names[0].exists() {
        names.push(sysconfdir.join("me"));
    }
    for folder in FOLDERS {
        match fs::read_dir(sysconfdir.join(folder)) {
            Ok(entries) => {
                for entry in entries {
                    names.push(entry?.path());
                }
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) => {}
            Err(error) => return Err(error),
        }
    }
    for path in names {
        match fs::metadata(&path) {
            Ok(meta) if meta.is_file() && meta.len() <= MOST_BYTES => {}
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => continue,
        }
        let text = fs::read(&path)?;
        all.extend(domains(&String::from_utf8_lossy(&text)).take(MOST - all.len().min(MOST)));
    }
    Ok(all)
}

/// The domains that a file names, one a line, the first word of it; not those
/// that it takes back (`!`), nor names without a dot.
pub fn domains(text: &str) -> impl Iterator<Item = String> + '_ {
    text.lines().filter_map(|line| {
        let word = line.split_whitespace().next()?;
        let word = word.strip_prefix('.').unwrap_or(word);
        let fits = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
        let is_domain = word.len() <= 253
            && word.contains('.')
            && word.chars().all(fits)
            && !word.starts_with('.')
            && !word.ends_with(|c: char| c == '.' || c.is_ascii_digit());
        is_domain.then(|| word.to_lowercase())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_names_a_domain() {
        let text = "# comment.test\nlocalhost\nLab.Test\n!not.test\n.sub.test\nhosted.test\talias.test\n\n192.168.1.1\n  a.test  \n";
        let all: Vec<String> = domains(text).collect();
        assert_eq!(all, ["lab.test", "sub.test", "hosted.test", "a.test"]);
    }

    proptest! {
        #[test]
        fn what_it_names_is_a_name(text in "[\\PC\n\t .!#a-z]{0,60}") {
            for domain in domains(&text) {
                prop_assert!(domain.contains('.') && !domain.contains(char::is_whitespace));
            }
        }
    }
}
