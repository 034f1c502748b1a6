//! The filter socket's requests: the same whatever pieces they come in.
#![no_main]

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use libfuzzer_sys::fuzz_target;
use rblfilter::courier::request::{self, Error, MAX_PATHS, Request};
use tokio::io::{AsyncRead, ReadBuf};

/// A peer that sends so many bytes at a time.
struct Pieces<'a>(&'a [u8], usize);

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let length = self.1.min(self.0.len()).min(buffer.remaining());
        let (piece, rest) = self.0.split_at(length);
        buffer.put_slice(piece);
        self.0 = rest;
        Poll::Ready(Ok(()))
    }
}

fn read(bytes: &[u8], piece: usize) -> Result<Option<Request>, Error> {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
    }
    RUNTIME.with(|runtime| {
        runtime.block_on(request::read(&mut Pieces(bytes, piece), request::MAX_TIME))
    })
}

fuzz_target!(|bytes: &[u8]| {
    let Some((piece, bytes)) = bytes.split_first() else {
        return;
    };
    let whole = read(bytes, usize::MAX);
    let pieces = read(bytes, usize::from(*piece).max(1));
    match (&whole, &pieces) {
        (Ok(whole), Ok(pieces)) => assert_eq!(whole, pieces),
        (Err(whole), Err(pieces)) => assert_eq!(
            std::mem::discriminant(whole),
            std::mem::discriminant(pieces)
        ),
        _ => assert!(bytes.len() > MAX_PATHS, "{whole:?} {pieces:?}"),
    }
    if let Ok(Some(request)) = whole {
        // It is what was sent.
        let mut again = request.data.clone();
        for path in &request.control {
            again.push(b'\n');
            again.extend_from_slice(path);
        }
        again.extend_from_slice(b"\n\n");
        assert!(bytes.starts_with(&again) && !request.control.is_empty());
        let mut paths = std::iter::once(&request.data).chain(&request.control);
        assert!(paths.all(|path| !path.is_empty() && !path.contains(&0)));
    }
});
