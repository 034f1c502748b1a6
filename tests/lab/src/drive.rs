//! The three processes that `lab requests` sends from: this program, under the names that Courier's have.
//!
//! The listener starts the session, which has the environment that couriertcpd would give it; the session starts
//! `submit`, which connects to the filter, for each request anew, and tells on standard output how long it took.

use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use rblfilter_lab::wave::figures::Percentiles;
use serde::{Deserialize, Serialize};

/// The names; the kernel shows the first 15 bytes.
pub const LISTENER: &str = "couriertcpd";
/// The session.
pub const SESSION: &str = "courieresmtpd";
/// The sender of requests.
pub const SUBMIT: &str = "submit";
const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 1, 2, 3);
/// For each reply; Courier itself has no bound.
const PATIENCE: Duration = Duration::from_secs(10);

/// How requests were answered.
#[derive(Debug, Serialize, Deserialize)]
pub struct Answered {
    /// How many.
    pub count: usize,
    /// From the connect to the reply.
    pub p50_ms: f64,
    /// The same, of a hundred 99 were faster.
    pub p99_ms: f64,
    /// All of them by the time that all took.
    pub per_second: f64,
    /// The reply, which all had.
    pub reply: String,
}

/// What this process is, if it was started under one of the names; its arguments are those of [`run`].
pub fn role() -> Option<(String, Vec<String>)> {
    let mut words = std::env::args();
    let program = words.next()?;
    let name = program.rsplit('/').next()?.to_owned();
    [LISTENER, SESSION, SUBMIT]
        .contains(&name.as_str())
        .then(|| (name, words.collect()))
}

/// `FOLDER SOCKET DATA CONTROL COUNT IN-FLIGHT`
pub fn run(name: &str, arguments: &[String]) -> ExitCode {
    let result = match name {
        LISTENER => next(arguments, SESSION),
        SESSION => next(arguments, SUBMIT),
        _ => submit(arguments),
    };
    result.unwrap_or_else(|error| {
        eprintln!("{name}: {error}");
        ExitCode::FAILURE
    })
}

fn next(arguments: &[String], name: &str) -> io::Result<ExitCode> {
    let folder = arguments.first().ok_or(io::ErrorKind::InvalidInput)?;
    let status = Command::new(format!("{folder}/{name}"))
        .args(arguments)
        .env_clear()
        .env("TCPREMOTEIP", CLIENT.to_ipv6_mapped().to_string())
        .env("TCPREMOTEPORT", "50000")
        .env("TCPLOCALIP", "::ffff:127.0.0.1")
        .env("TCPLOCALPORT", "25")
        .env("MAXDAEMONS", "300")
        .env("TARPIT", "1")
        .env("ESMTPAUTH", "")
        .env("ESMTPAUTH_TLS", "")
        .status()?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn submit(arguments: &[String]) -> io::Result<ExitCode> {
    let [_, socket, data, control, count, in_flight] = arguments else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let number = |text: &String| text.parse::<usize>().map_err(io::Error::other);
    let (count, in_flight) = (number(count)?, number(in_flight)?.max(1));
    let request = format!("{data}\n{control}\n\n");
    let begun = Instant::now();
    let all = std::thread::scope(|scope| {
        let ask = |share: usize| {
            let request = &request;
            scope.spawn(move || {
                (0..share)
                    .map(|_| one(socket, request.as_bytes()))
                    .collect::<io::Result<Vec<_>>>()
            })
        };
        let share = |index| count / in_flight + usize::from(index < count % in_flight);
        let threads: Vec<_> = (0..in_flight).map(|index| ask(share(index))).collect();
        let mut all = Vec::with_capacity(count);
        for thread in threads {
            let answers = thread.join().map_err(|_| io::Error::other("a panic"))??;
            all.extend(answers);
        }
        io::Result::Ok(all)
    })?;
    let took = begun.elapsed().as_secs_f64();
    let reply = all.first().map(|(_, reply)| reply.clone());
    let reply = reply.ok_or(io::ErrorKind::InvalidInput)?;
    if let Some((_, other)) = all.iter().find(|(_, other)| *other != reply) {
        let text = format!("one reply is {reply:?}, another {other:?}");
        return Err(io::Error::other(text));
    }
    let times = Percentiles::of(all.into_iter().map(|(time, _)| time).collect());
    let times = times.ok_or(io::ErrorKind::InvalidInput)?;
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let answered = Answered {
        count: times.count,
        p50_ms: times.p50,
        p99_ms: times.p99,
        per_second: times.count as f64 / took,
        reply,
    };
    println!("{}", serde_json::to_string(&answered)?);
    Ok(ExitCode::SUCCESS)
}

/// As Courier's `submit` does: connect, the paths, an empty line, and a reply whose last line has no hyphen.
fn one(socket: &str, request: &[u8]) -> io::Result<(Duration, String)> {
    let begun = Instant::now();
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request)?;
    let (mut bytes, mut length) = ([0; 512], 0);
    while !bytes[..length].ends_with(b"\n") {
        let more = stream.read(&mut bytes[length..])?;
        if more == 0 {
            let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
            return Err(io::Error::other(format!("no whole reply: {text:?}")));
        }
        length += more;
    }
    let time = begun.elapsed();
    let reply = String::from_utf8_lossy(&bytes[..length]);
    Ok((time, reply.trim_end().to_owned()))
}
