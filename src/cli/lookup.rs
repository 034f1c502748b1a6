//! `rblfilter lookup`: what the lists say of an address, and what would follow.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use crossterm::terminal;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::tz::TimeZone;
use rblfilter_warden::protected::Protected;
use serde_json::json;
use tokio::task::JoinHandle;

use super::exit;
use super::json::in_ascii;
use super::let_in::{self, IsLetIn, LetIn};
use crate::config::{self, Config};
use crate::control;
use crate::courier::session::parse_address;
use crate::daemon::NeverBan;
use crate::dnsbl::{Answer, Evidence, Got, Level, Lists, Look, News, Notice, is_global};
use crate::why::{Forecast, Opinion, wrap};

/// Addresses that are asked for at the same time.
const AT_ONCE: usize = 128;

/// What the DNS lists say of an address, and what would follow
///
/// Asks the lists for addresses, past what is kept of them: each one's answer, its
/// score, TTL and time, the list's text, and the sentence; and whether somebody
/// lets it in by hand, whatever they say. A list that fails its self-test is not
/// counted. A progress bar shows how far it is where standard
/// error is a terminal. Exit status: 0 all pass, 1 one is listed, 2 a list did not
/// say.
#[derive(Debug, Args)]
pub struct Command {
    /// The addresses; "-" reads them from standard input, one a line
    #[arg(required_unless_present = "file", value_name = "ADDRESS")]
    addresses: Vec<String>,
    /// Read addresses from this file, one a line
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// How the whole run ends: the worst of its addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    #[default]
    Pass,
    Unknown,
    Listed,
}

pub fn run(command: &Command, path: &Path) -> ExitCode {
    // What was typed comes first.
    let addresses = match addresses(command) {
        Ok(addresses) => addresses,
        Err(error) => {
            eprintln!("rblfilter: {error}");
            return exit::USAGE.into();
        }
    };
    let config = match config::read(path) {
        Ok(config) => config,
        Err(error) if error.is_denied() => {
            eprintln!("rblfilter: {error} (try with sudo)");
            return exit::PERMISSION.into();
        }
        Err(error) => {
            eprintln!("rblfilter: {error}");
            return exit::CONFIG.into();
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let let_in = LetIn::read()
        .inspect_err(|error| eprintln!("rblfilter: cannot tell who is let in by hand: {error}"))
        .ok();
    let end =
        runtime.and_then(|runtime| runtime.block_on(all(&config, addresses, let_in, command.json)));
    match end {
        Ok(End::Pass) => ExitCode::SUCCESS,
        Ok(End::Listed) => ExitCode::from(1),
        Ok(End::Unknown) => ExitCode::from(2),
        // The reader has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rblfilter: {error}");
            exit::SOFTWARE.into()
        }
    }
}

fn addresses(command: &Command) -> Result<Vec<IpAddr>, String> {
    let mut all = Vec::new();
    let parse = |text: &str| {
        // Also as the log writes it.
        let inner = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'));
        parse_address(inner.unwrap_or(text)).ok_or_else(|| {
            format!("{text:?} is no address, expected for example 203.0.113.9 or 2001:db8::1")
        })
    };
    let mut lines = |reader: &mut dyn BufRead, name: &str| -> Result<(), String> {
        for (line, number) in reader.lines().zip(1..) {
            let line = line.map_err(|error| match error.kind() {
                io::ErrorKind::InvalidData => format!(
                    "{name}: line {number}: no text, expected one address a line, for example 203.0.113.9"
                ),
                _ => format!("cannot read {name}: {error}"),
            })?;
            let text = line.split('#').next().unwrap_or_default().trim();
            if !text.is_empty() {
                all.push(parse(text).map_err(|error| format!("{name}: line {number}: {error}"))?);
            }
        }
        Ok(())
    };
    if let Some(path) = &command.file {
        let file = File::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                format!("cannot read {}: there is no such file", path.display())
            }
            _ => format!("cannot read {}: {error}", path.display()),
        })?;
        lines(&mut BufReader::new(file), &path.display().to_string())?;
    }
    for text in &command.addresses {
        if text == "-" {
            lines(&mut io::stdin().lock(), "standard input")?;
        }
    }
    for text in command.addresses.iter().filter(|text| *text != "-") {
        all.push(parse(text)?);
    }
    Ok(all)
}

/// What addresses are looked up with, until it is dropped.
struct Desk {
    lists: Arc<Lists>,
    never_ban: NeverBan,
    protected: Protected,
    /// None: that is not known.
    let_in: Option<LetIn>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Desk {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Desk {
    /// Begins to test the lists, and reads what `never-ban.spf` names; what does
    /// not work is handed to `tell`.
    async fn open(config: &Config, tell: impl Fn(String) + Clone + Send + 'static) -> Self {
        let (lists, mut notices) = Lists::new(
            config.zones.clone(),
            config.resolver.clone(),
            config.cache,
            config.thresholds,
        );
        if let Err(error) = lists.resolver().check() {
            tell(error.to_string());
        }
        let testing = tokio::spawn(Arc::clone(&lists).keep_tested());
        let (named, hears) = (Arc::clone(&lists), tell.clone());
        let hearing = tokio::spawn(async move {
            while let Some(Notice { list, news }) = notices.recv().await {
                if let (Some(zone), News::Opened(_, reason, _)) = (named.zone(list), news) {
                    hears(format!("{}: not believed: {reason}", zone.name()));
                }
            }
        });
        let never_ban = NeverBan::new(&config.never_ban);
        for (domain, error) in never_ban.read_once(lists.resolver()).await {
            tell(format!(
                "never-ban.spf: cannot read the SPF record of {domain}: {error}; whoever would be banned may be one of its senders"
            ));
        }
        let mut protected = Protected::new(config.allow.clone());
        // Where they cannot be listed, nobody is taken for one of them.
        let _ = protected.refresh(std::time::Instant::now());
        Self {
            lists,
            never_ban,
            protected,
            let_in: None,
            tasks: [testing, hearing],
        }
    }

    /// Asks the lists for `address`, where that is asked for.
    fn ask(&self, config: &Config, address: IpAddr) -> JoinHandle<Vec<Look>> {
        let asked = config.resolver.query_non_global || is_global(address);
        let lists = Arc::clone(&self.lists);
        tokio::spawn(async move {
            if asked {
                lists.look(address).await
            } else {
                Vec::new()
            }
        })
    }

    fn found(&self, config: &Config, address: IpAddr, looks: Vec<Look>) -> Found<'_> {
        Found::new(
            config,
            &self.lists,
            address,
            looks,
            &self.never_ban,
            &self.protected,
            self.let_in
                .as_ref()
                .map_or(IsLetIn::Unknown, |let_in| let_in.of(address)),
        )
    }
}

/// What would follow if `address` connected now.
///
/// # Errors
/// Where the system gives no thread or descriptor.
pub(super) fn forecast(config: &Config, address: IpAddr) -> io::Result<Forecast> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        // What does not work is part of the answer.
        let desk = Desk::open(config, |_| {}).await;
        let looks = desk.ask(config, address).await.map_err(io::Error::other)?;
        Ok(desk.found(config, address, looks).forecast())
    })
}

async fn all(
    config: &Config,
    addresses: Vec<IpAddr>,
    let_in: Option<LetIn>,
    json: bool,
) -> io::Result<End> {
    let mut desk = Desk::open(config, |text| eprintln!("rblfilter: {text}")).await;
    desk.let_in = let_in;
    let width = width();
    let bar = bar(addresses.len());
    let mut open: VecDeque<(IpAddr, JoinHandle<Vec<Look>>)> = VecDeque::new();
    let mut rest = addresses.into_iter();
    let mut end = End::Pass;
    loop {
        while open.len() < AT_ONCE {
            let Some(address) = rest.next() else { break };
            open.push_back((address, desk.ask(config, address)));
        }
        let Some((address, task)) = open.pop_front() else {
            break;
        };
        let looks = task.await.map_err(io::Error::other)?;
        let found = desk.found(config, address, looks);
        end = end.max(found.end());
        let text = if json {
            found.json()
        } else {
            found.text(width)
        };
        bar.suspend(|| io::stdout().write_all(text.as_bytes()))?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(end)
}

/// For more than a screenful, where somebody looks.
fn bar(addresses: usize) -> ProgressBar {
    if addresses < 20 || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos} of {len} addresses, {per_sec}, {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(u64::try_from(addresses).unwrap_or(u64::MAX)).with_style(style)
}

/// One address and all that was found.
struct Found<'a> {
    lists: &'a Lists,
    address: IpAddr,
    looks: Vec<Look>,
    evidence: Evidence,
    level: Level,
    note: Option<String>,
    let_in: IsLetIn,
}

impl<'a> Found<'a> {
    fn new(
        config: &Config,
        lists: &'a Lists,
        address: IpAddr,
        looks: Vec<Look>,
        never_ban: &NeverBan,
        protected: &Protected,
        let_in: IsLetIn,
    ) -> Self {
        let mut evidence = Evidence::default();
        let now = Got::at(std::time::Instant::now());
        for look in looks.iter().filter(|look| look.believed) {
            if let Some(zone) = lists.zone(look.list) {
                evidence.add(look.list, zone, look.answer.clone(), now);
            }
        }
        let mut level = evidence.level(&config.thresholds);
        let mut note = None;
        if protected.protects(address).is_some() {
            level = Level::Pass;
            note = Some("never judged: allow.networks, or the host's own address".to_owned());
        } else if let IsLetIn::Until(until, networks) = &let_in {
            level = Level::Pass;
            note = Some(format!(
                "let in by hand until {}, whatever the lists say ({})",
                let_in::shown(*until, &TimeZone::system()),
                control::how_it_ends(address, networks.iter().copied())
            ));
        } else if level == Level::Ban && never_ban.contains(address) {
            level = Level::Reject;
            note = Some("never banned: never-ban".to_owned());
        } else if level == Level::Ban && never_ban.unread().is_some() {
            level = Level::Reject;
            note = Some("not banned: a domain of never-ban.spf could not be read".to_owned());
        } else if looks.is_empty() {
            note =
                Some("no list is asked for it (is it private? lookup.query-non-global)".to_owned());
        }
        Self {
            lists,
            address,
            looks,
            evidence,
            level,
            note,
            let_in,
        }
    }

    fn end(&self) -> End {
        if self.level > Level::Pass {
            End::Listed
        } else if self.looks.iter().any(Self::is_unknown) {
            End::Unknown
        } else {
            End::Pass
        }
    }

    fn name(&self, look: &Look) -> &str {
        self.lists
            .zone(look.list)
            .map_or("?", crate::dnsbl::Zone::name)
    }

    fn score(&self, look: &Look) -> f64 {
        match (&look.answer, self.lists.zone(look.list)) {
            (Answer::Listed(hit), Some(zone)) => hit.met.score(zone.rules()).points(),
            _ => 0.0,
        }
    }

    fn is_unknown(look: &Look) -> bool {
        !look.believed || matches!(look.answer, Answer::Unknown(_))
    }

    /// What a list says, in words.
    fn meaning(&self, look: &Look) -> String {
        let codes: Vec<String> = look.codes.iter().map(ToString::to_string).collect();
        let codes = codes.join(" ");
        match &look.answer {
            Answer::Listed(_) => format!("listed {codes}, score {}", self.score(look)),
            Answer::NotListed if codes.is_empty() => "not listed".to_owned(),
            Answer::NotListed => format!("answered {codes}, which no rule is for"),
            Answer::Unknown(unknown) => format!("unknown: {unknown}"),
        }
    }

    fn forecast(&self) -> Forecast {
        let opinions = self.looks.iter().map(|look| {
            let url = |zone: &crate::dnsbl::Zone| zone.lookup_url().to_owned();
            let mut answer = self.meaning(look);
            if !look.believed {
                answer.push_str(" (not believed: it has failed its self-test)");
            }
            Opinion {
                name: self.name(look).to_owned(),
                answer,
                against: look.believed && self.score(look) > 0.0,
                unknown: Self::is_unknown(look),
                text: look.text.clone(),
                lookup_url: self.lists.zone(look.list).map(url).unwrap_or_default(),
            }
        });
        Forecast {
            sentence: self.level.to_string(),
            score: self.evidence.tally.score.to_string(),
            note: self.note.clone(),
            lists: opinions.collect(),
        }
    }

    /// For people, in lines of at most `width`.
    fn text(&self, width: usize) -> String {
        let mut text = String::new();
        let head = format!(
            "{}: {}, score {}",
            self.address, self.level, self.evidence.tally.score
        );
        wrap(&mut text, ("", "  "), &head, width);
        if let Some(note) = &self.note {
            wrap(&mut text, ("  ", "  "), note, width);
        }
        let names = self.looks.iter().map(|look| self.name(look).len()).max();
        let column = names.unwrap_or(0);
        // Beside a name that is too long there would be no room.
        let rest = " ".repeat(if column < width / 2 { column + 4 } else { 6 });
        for look in &self.looks {
            let mut told = self.meaning(look);
            if let Some(ttl) = look.ttl {
                told.push_str(&format!(", ttl {}s", ttl.as_secs()));
            }
            told.push_str(&format!(", {}", milliseconds(look.took)));
            if !look.text.is_empty() {
                told.push_str(&format!(": {}", look.text));
            }
            if !look.believed {
                told.push_str(" (not believed: it has failed its self-test)");
            }
            let first = format!("  {:column$}  ", self.name(look));
            if first.len() < width {
                wrap(&mut text, (&first, &rest), &told, width);
            } else {
                wrap(&mut text, ("  ", "  "), self.name(look), width);
                wrap(&mut text, (&rest, &rest), &told, width);
            }
        }
        text
    }

    fn json(&self) -> String {
        let lists: Vec<serde_json::Value> = self
            .looks
            .iter()
            .map(|look| {
                let (answer, why) = match &look.answer {
                    Answer::Listed(_) => ("listed", None),
                    Answer::NotListed => ("not-listed", None),
                    Answer::Unknown(unknown) => ("unknown", Some(unknown.to_string())),
                };
                json!({
                    "name": self.name(look),
                    "answer": answer,
                    "why": why,
                    "codes": look.codes,
                    "score": self.score(look),
                    "ttl": look.ttl.map(|ttl| ttl.as_secs()),
                    "milliseconds": look.took.as_secs_f64() * 1000.0,
                    "text": look.text,
                    "believed": look.believed,
                })
            })
            .collect();
        let object = json!({
            "address": self.address,
            "sentence": self.level.to_string(),
            "score": self.evidence.tally.score.points(),
            "note": self.note,
            "let-in": self.let_in.known(),
            "let-in-until": self.let_in.until(),
            "lists": lists,
        });
        format!("{}\n", in_ascii(&object.to_string()))
    }
}

/// The columns of the terminal; where it is none, a list stays in its line.
fn width() -> usize {
    if !io::stdout().is_terminal() {
        return usize::MAX;
    }
    terminal::size().map_or(80, |(columns, _)| usize::from(columns).max(20))
}

fn milliseconds(took: Duration) -> String {
    format!("{:.1} ms", took.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a list's answer, and one who is let in, where it is.
    fn told(let_in: IsLetIn, width: usize) -> (String, String) {
        let config = config::parse(
            "[[dnsbl]]\nzone = \"a-list-with-quite-a-long-name.bl.test\"\nself-test = false\n",
        )
        .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let _in = runtime.enter();
        let (lists, _notices) = Lists::new(
            config.zones.clone(),
            config.resolver.clone(),
            config.cache,
            config.thresholds,
        );
        let look = Look {
            list: 0,
            answer: Answer::NotListed,
            codes: vec!["127.0.0.2".parse().unwrap()],
            ttl: Some(Duration::from_secs(300)),
            took: Duration::from_millis(12),
            text: "a text of a list, ".repeat(9),
            believed: true,
        };
        let found = Found::new(
            &config,
            &lists,
            "203.0.113.9".parse().unwrap(),
            vec![look],
            &NeverBan::new(&config.never_ban),
            &Protected::new(Vec::new()),
            let_in,
        );
        (found.text(width), found.json())
    }

    #[test]
    fn who_is_let_in_is_told_so_and_until_when() {
        let until = |network: &str| IsLetIn::Until(1_800_003_600, vec![network.parse().unwrap()]);
        let (text, json) = told(until("203.0.113.9/32"), usize::MAX);
        let (head, rest) = text.split_once('\n').unwrap();
        assert_eq!(head, "203.0.113.9: pass, score 0");
        assert!(
            rest.starts_with("  let in by hand until 2027-01-1"),
            "{text}"
        );
        assert!(
            rest.contains("(rblfilter allow 203.0.113.9 --for 0s ends that)"),
            "{text}"
        );
        for part in ["\"let-in\":true,", "\"let-in-until\":1800003600,"] {
            assert!(json.contains(part), "{json}");
        }
        let (text, _) = told(until("203.0.113.0/24"), usize::MAX);
        let all = "(rblfilter allow 203.0.113.9 --for 0s ends that, for all of 203.0.113.0/24)";
        assert!(text.contains(all), "{text}");
        let (text, json) = told(IsLetIn::No, usize::MAX);
        assert!(!text.contains("let in"), "{text}");
        for part in ["\"let-in\":false,", "\"let-in-until\":null,"] {
            assert!(json.contains(part), "{json}");
        }
        let (_, json) = told(IsLetIn::Unknown, usize::MAX);
        for part in ["\"let-in\":null,", "\"let-in-until\":null,"] {
            assert!(json.contains(part), "{json}");
        }
    }

    #[test]
    fn it_wraps_at_the_terminals_width_and_nowhere_else() {
        assert_eq!(told(IsLetIn::No, usize::MAX).0.lines().count(), 2);
        for width in [20, 40, 80, 132] {
            let (text, _) = told(
                IsLetIn::Until(1_800_003_600, vec!["203.0.113.9/32".parse().unwrap()]),
                width,
            );
            for line in text.lines() {
                assert!(line.chars().count() <= width, "{width}: {line:?}");
            }
            assert!(text.lines().count() > 4, "{text}");
            let joined: String = text.split_whitespace().collect();
            assert!(
                joined.contains("a-list-with-quite-a-long-name.bl.test"),
                "{text}"
            );
        }
    }
}
