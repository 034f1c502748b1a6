//! `GET /metrics`, over HTTP/1.1. Any user of the machine may reach a port on
//! loopback, so nobody is trusted: a few connections at a time, each for a limited
//! time and one request, accepted no faster than so many a second. What is beyond
//! waits in the kernel.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::Source;
use super::listening::{Listening, Stream};
use crate::config::Listen;
use crate::degraded::{Degraded, Part};

/// Connections at the same time.
const MOST: usize = 8;
/// How long one may last, and its head may take to come.
const TIME: Duration = Duration::from_secs(10);
const HEAD_TIME: Duration = Duration::from_secs(5);
/// The pause after each that was accepted.
const GAP: Duration = Duration::from_millis(20);
/// The pause before what failed is tried again, and between looks whether the
/// socket is there.
const AGAIN: Duration = Duration::from_secs(5);
/// The longest head of a request, in bytes (hyper's least).
const HEAD: usize = 8192;

const OPEN: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Serves until the future is dropped.
pub async fn serve(source: &Arc<Source>, listen: &Listen, degraded: &Degraded) {
    let part = || Part::Metrics("listen");
    loop {
        match Listening::begin(listen).await {
            Ok(listening) => {
                let error = accept(source, &listening, || {
                    degraded.leave(&part(), Instant::now());
                })
                .await;
                degraded.enter(part(), format!("{listen}: {error}"), Instant::now());
            }
            Err(error) => {
                let text = format!("cannot listen on {listen}: {error}");
                degraded.enter(part(), text, Instant::now());
            }
        }
        sleep(AGAIN).await;
    }
}

/// Accepts until that fails; why. `works` is called when it begins.
async fn accept(source: &Arc<Source>, listening: &Listening, works: impl Fn()) -> io::Error {
    let places = Arc::new(Semaphore::new(MOST));
    let mut connections = JoinSet::new();
    works();
    let mut gone = pin!(listening.gone(AGAIN));
    loop {
        while connections.try_join_next().is_some() {}
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return io::Error::other("a bug");
        };
        let stream = tokio::select! {
            accepted = listening.accept() => match accepted {
                Ok(stream) => stream,
                Err(error) => return error,
            },
            () = &mut gone => return io::Error::other("the socket was removed"),
        };
        let source = Arc::clone(source);
        connections.spawn(async move {
            // Whoever takes longer, or speaks no HTTP, is none that counts.
            let _ = timeout(TIME, answer(stream, source)).await;
            drop(place);
        });
        sleep(GAP).await;
    }
}

async fn answer(stream: Box<dyn Stream>, source: Arc<Source>) -> hyper::Result<()> {
    let service = service_fn(move |request: Request<Incoming>| {
        let source = Arc::clone(&source);
        async move { Ok::<_, Infallible>(respond(&request, &source).await) }
    });
    http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HEAD)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

async fn respond(request: &Request<Incoming>, source: &Source) -> Response<Full<Bytes>> {
    if request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "not found: see /metrics\n");
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "expected GET or HEAD\n");
        let methods = HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(ALLOW, methods);
        return response;
    }
    let Ok(texts) = source.texts().await else {
        return plain(StatusCode::INTERNAL_SERVER_ERROR, "a bug, see the log\n");
    };
    let (kind, text) = if wants_open_metrics(request.headers()) {
        (OPEN, &texts.open)
    } else {
        (CLASSIC, &texts.classic)
    };
    let mut response = Response::new(Full::new(Bytes::from(text.clone())));
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// Whether OpenMetrics is asked for by name, and preferred (RFC 9110 §12.5.1).
fn wants_open_metrics(headers: &HeaderMap) -> bool {
    let (mut open, mut classic) = (0.0_f64, 0.0_f64);
    let accepts = headers.get_all(ACCEPT).into_iter();
    for accept in accepts.filter_map(|value| value.to_str().ok()) {
        for range in accept.split(',') {
            let mut words = range.split(';').map(str::trim);
            let kind = words.next().unwrap_or_default();
            let weight = words
                .find_map(|word| word.strip_prefix("q=")?.parse().ok())
                .unwrap_or(1.0);
            if kind.eq_ignore_ascii_case("application/openmetrics-text") {
                open = open.max(weight);
            } else if ["text/plain", "text/*", "*/*"].contains(&kind) {
                classic = classic.max(weight);
            }
        }
    }
    open > 0.0 && open >= classic
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_what_is_asked_for() {
        // Prometheus 2.42 and 3.0, a browser, curl, and nobody.
        for (accept, expected) in [
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                true,
            ),
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,*/*;q=0.2",
                true,
            ),
            ("text/html,application/xhtml+xml,*/*;q=0.8", false),
            ("*/*", false),
            ("application/openmetrics-text;q=0", false),
            ("application/openmetrics-text;q=0.1, text/plain", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
            assert_eq!(wants_open_metrics(&headers), expected, "{accept}");
        }
        assert!(!wants_open_metrics(&HeaderMap::new()));
    }
}
