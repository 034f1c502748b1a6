//! The checked `[metrics]` table.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};

use super::error::Problem;
use super::file;
use super::model::Check;
use crate::control::SOCKET;
use crate::courier::paths::Paths;

/// The longest path of a Unix socket, less what its hidden name needs
/// (`sun_path`, unix(7)).
const LONGEST: usize = 100;

/// Where what is counted can be read; nowhere, unless given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Over HTTP.
    pub listen: Option<Listen>,
    /// A file for node_exporter.
    pub textfile: Option<PathBuf>,
}

/// What is listened on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A TCP port of this host alone.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Check<'_> {
    pub(super) fn metrics(&self, metrics: &file::Metrics) -> Result<Metrics, Problem> {
        Ok(Metrics {
            listen: self.listen(&metrics.listen)?,
            textfile: self.textfile(&metrics.textfile)?,
        })
    }

    fn listen(&self, listen: &file::Text) -> Result<Option<Listen>, Problem> {
        let text = listen.get_ref().as_str();
        if text.is_empty() {
            return Ok(None);
        }
        let wrong = |message: String| self.wrong(listen.span(), message);
        let path = text.strip_prefix("unix:").unwrap_or(text);
        if let Some(of) = whose(Path::new(path)) {
            return wrong(format!("metrics.listen: {text:?} is {of}"));
        }
        if path.starts_with('/') {
            return if path.len() <= LONGEST && !path.ends_with('/') {
                Ok(Some(Listen::Unix(path.into())))
            } else {
                wrong(format!(
                    "metrics.listen: {text:?} is no path of a socket, expected a file's, of at most {LONGEST} bytes"
                ))
            };
        }
        match text.parse::<SocketAddr>() {
            Ok(address) if !address.ip().to_canonical().is_loopback() => wrong(format!(
                "metrics.listen: {text:?} can be reached from elsewhere, expected a loopback address, such as \"127.0.0.1:9625\" (let a proxy of yours serve others)"
            )),
            Ok(address) if address.port() > 0 => Ok(Some(Listen::Tcp(address))),
            _ => wrong(format!(
                "metrics.listen: {text:?} is no address with a port and no path of a socket, expected for example \"127.0.0.1:9625\", \"[::1]:9625\" or \"unix:/var/lib/courier/rblfilter/metrics\""
            )),
        }
    }

    fn textfile(&self, textfile: &file::Text) -> Result<Option<PathBuf>, Problem> {
        let text = textfile.get_ref().as_str();
        if text.is_empty() {
            return Ok(None);
        }
        let path = PathBuf::from(text);
        if let Some(of) = whose(&path) {
            let message = format!("metrics.textfile: {text:?} is {of}");
            return self.wrong(textfile.span(), message);
        }
        // node_exporter reads no other.
        let is_prom = path.extension().is_some_and(|end| end == "prom");
        if path.is_absolute() && is_prom && !text.ends_with('/') {
            return Ok(Some(path));
        }
        self.wrong(
            textfile.span(),
            format!(
                "metrics.textfile: {text:?} is no absolute path that ends with .prom, expected for example \"/var/lib/prometheus/node-exporter/rblfilter.prom\""
            ),
        )
    }
}

/// Whose place `path` is, and what is expected instead, where it is not for ours:
/// Courier asks whatever is in its filters' folders about every message.
fn whose(path: &Path) -> Option<String> {
    let paths = Paths::from_env();
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            part => plain.push(part),
        }
    }
    let of = if plain == paths.state().join(SOCKET) {
        "the filter's control socket"
    } else if ["allfilters", "filters"]
        .iter()
        .any(|folder| plain.starts_with(paths.localstatedir.join(folder)))
    {
        "in a folder of Courier's filters, which it asks about every message"
    } else {
        return None;
    };
    Some(format!(
        "{of}, expected a place elsewhere, for example in {}",
        paths.state().display()
    ))
}

#[cfg(test)]
mod tests {
    use crate::config::parse;

    fn metrics(key: &str, value: &str) -> Result<super::Metrics, String> {
        parse(&format!("[metrics]\n{key} = {value:?}\n"))
            .map(|config| config.metrics)
            .map_err(|problem| problem.message)
    }

    #[test]
    fn it_listens_where_this_host_alone_can_reach_it() {
        for (listen, expected) in [
            ("127.0.0.1:9625", "127.0.0.1:9625"),
            ("127.0.0.99:1", "127.0.0.99:1"),
            ("[::1]:9625", "[::1]:9625"),
            ("unix:/run/x/metrics", "unix:/run/x/metrics"),
            ("/run/x/metrics", "unix:/run/x/metrics"),
        ] {
            let found = metrics("listen", listen).unwrap().listen.unwrap();
            assert_eq!(found.to_string(), expected);
        }
        assert_eq!(metrics("listen", "").unwrap(), super::Metrics::default());
        for (listen, expected) in [
            ("0.0.0.0:9625", "can be reached from elsewhere"),
            ("[::]:9625", "can be reached from elsewhere"),
            ("203.0.113.1:9625", "can be reached from elsewhere"),
            ("127.0.0.1:0", "is no address with a port"),
            ("127.0.0.1", "is no address with a port"),
            ("localhost:9625", "is no address with a port"),
            ("unix:metrics", "is no address with a port"),
            ("/run/x/", "is no path of a socket"),
        ] {
            let error = metrics("listen", listen).unwrap_err();
            assert!(error.contains(expected), "{listen}: {error}");
        }
    }

    #[test]
    fn what_courier_and_the_filter_themselves_listen_on_is_not_for_it() {
        for place in [
            "allfilters/rblfilter",
            "filters/rblfilter",
            "/allfilters//./x",
            "rblfilter/../filters/x",
            "rblfilter/control",
        ] {
            for before in ["", "unix:"] {
                let listen = format!("{before}/var/lib/courier/{place}");
                let error = metrics("listen", &listen).unwrap_err();
                assert!(error.contains("expected a place elsewhere"), "{error}");
            }
        }
        let error = metrics("textfile", "/var/lib/courier/allfilters/x.prom").unwrap_err();
        assert!(error.contains("expected a place elsewhere"), "{error}");
        for listen in ["rblfilter/metrics", "rblfilter/allfilters", "filters2/x"] {
            let listen = format!("/var/lib/courier/{listen}");
            assert!(metrics("listen", &listen).is_ok(), "{listen}");
        }
    }

    #[test]
    fn a_textfile_is_one_that_node_exporter_reads() {
        assert!(
            metrics("textfile", "/var/x/rblfilter.prom")
                .unwrap()
                .textfile
                .is_some()
        );
        for textfile in [
            "rblfilter.prom",
            "/var/x/rblfilter.txt",
            "/var/x/.prom/",
            "/",
        ] {
            let error = metrics("textfile", textfile).unwrap_err();
            assert!(error.contains("ends with .prom"), "{textfile}: {error}");
        }
    }
}
