//! A message's control files: any bytes are an envelope of single lines.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rblfilter::courier::control_file::{Envelope, MAX_RECIPIENTS};

fuzz_target!(|bytes: &[u8]| {
    let mut envelope = Envelope::default();
    envelope.add(bytes);
    let texts = [
        &envelope.message_id,
        &envelope.sender,
        &envelope.authenticated,
        &envelope.module,
    ];
    assert!(texts.into_iter().flatten().all(|text| !text.contains('\n')));
    let lines = bytes.split(|byte| *byte == b'\n');
    let recipients = lines.filter(|line| line.first() == Some(&b'r')).count();
    assert_eq!(envelope.recipients.len(), recipients.min(MAX_RECIPIENTS));

    // Where a file ends makes no difference.
    for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
        let mut parts = Envelope::default();
        parts.add(&bytes[..at]);
        parts.add(&bytes[at + 1..]);
        assert_eq!(parts, envelope);
        if at > 256 {
            break;
        }
    }

    // One that says otherwise is enough.
    if let (Some(said), Some(other)) = (envelope.remote_ip, envelope.from_ip) {
        assert_eq!(envelope.agrees_with(said), said == other);
    }
    let exempt = ["postmaster".to_owned(), "abuse".to_owned()];
    if let Some(aliases) = envelope.only_for(&exempt) {
        assert!(
            !envelope.recipients.is_empty()
                && !envelope.has_more
                && aliases.len() <= envelope.recipients.len()
        );
    }
});
