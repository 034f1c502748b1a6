//! The configuration: what is wrong is told in one line that can be shown, and
//! what the filter takes the warden takes, too, with the same allowlist.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rblfilter::config;
use rblfilter_warden::policy::Policy;

fuzz_target!(|text: &str| {
    match config::parse(text) {
        Ok(config) => {
            let policy: Policy = toml::from_str(text).expect("what the filter takes");
            assert_eq!(policy.allow.networks.len(), config.allow.len());
            let rules = config.zones.iter().map(|zone| zone.rules().len());
            assert!(rules.max().unwrap_or(0) <= 32);
        }
        Err(problem) => {
            let shown = problem.message;
            assert!(!shown.chars().any(char::is_control), "{shown:?}");
        }
    }
});
