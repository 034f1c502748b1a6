//! One message: from the request on the filter socket to the sentence and its
//! execution.

mod bans;
mod connect;
mod end;
mod forget;
mod gate;
mod hand;
mod history;
mod keeper;
mod known;
mod lists;
mod retiring;
mod sets;
mod snapshot;
mod status;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use ipnetwork::IpNetwork;
use rblfilter_warden::bucket::Bucket;
use rblfilter_warden::layers::Layers;
use rblfilter_warden::protected::{Protected, Protection};
use rblfilter_warden::request::{self as warden_request, Outcome};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{interval_at, sleep};

use super::exporter;
use super::never_ban::NeverBan;
use crate::config::{Config, KillPolicy, Mode, WatchBy};
use crate::courier::aliases::Aliases;
use crate::courier::control_file::{self, Envelope};
use crate::courier::identified::{Identified, Peer};
use crate::courier::paths::Paths;
use crate::courier::request::Request;
use crate::degraded::{Degraded, Part};
use crate::dnsbl::{Clock, Lists, Notice};
use crate::enforce::allows::Allows;
use crate::enforce::book::{Book, Next, Record};
use crate::enforce::kill::{self, Killer};
use crate::enforce::warden::{SetsRest, Warden};
use crate::firewall;
use crate::gate::Gate;
use crate::guard;
use crate::history::History;
use crate::judge::{self, Conviction, Sentence};
use crate::log::Event;
use crate::metrics::Metrics;
use crate::senders::Senders;
use crate::sessions::Verdict;
use crate::store::{Store, Write};
use crate::watch::{By, Sender, Table};
use retiring::Retiring;

pub use retiring::Deciding;

/// What reading a message's files, its session's processes and Courier's
/// aliases may take, beside the lists' limit.
pub(super) const READ_TIME: Duration = Duration::from_secs(2);

/// How long a message waits for the end of its session, where that has been
/// decided.
const ENDING_TIME: Duration = Duration::from_secs(1);

/// How often the counters are told in the log.
const TELL_EVERY: Duration = Duration::from_secs(3600);

/// The pause after a bug, before what it ended begins again.
const AFTER_A_BUG: Duration = Duration::from_secs(1);

/// Lines of clients that the gate denied, in a second; the rest is counted.
const GATE_LINES: u32 = 20;

/// Longer than any session lasts.
const LONGEST_SESSION: Duration = Duration::from_secs(7 * 24 * 3600);

/// All that judging a message takes.
#[derive(Debug)]
pub struct Filter {
    config: Config,
    paths: Paths,
    /// What looks up aliases, where it could be started.
    aliases: Option<Arc<Aliases>>,
    /// What this process is bound by.
    layers: Layers,
    begun: Instant,
    /// By what sessions are seen, once they are.
    watching: Mutex<Option<By>>,
    lists: Arc<Lists>,
    /// What there is to hear of the lists, until somebody listens.
    notices: Mutex<Option<mpsc::UnboundedReceiver<Notice>>>,
    open: Mutex<lists::Open>,
    never_ban: NeverBan,
    /// The time that the bans are counted in.
    clock: Clock,
    book: Mutex<Book>,
    /// Whom the admin lets in for a while.
    allows: Mutex<Allows>,
    /// Set once, at the start.
    store: OnceLock<Store>,
    /// What of it comes after the start.
    late: Mutex<bans::Late>,
    /// Which of the kernel's sets lack bans that run; notified of each.
    lacking: sets::Lacking,
    /// In `observe`, the bans from before it, which the kernel may still hold.
    standing: Mutex<HashMap<IpNetwork, Record>>,
    /// What was said of full sets.
    full: sets::Full,
    table: Arc<Table>,
    senders: Senders,
    killer: Killer,
    warden: Warden,
    gate: Gate,
    /// How many lines of denied clients are logged in a second.
    gate_lines: Mutex<Bucket>,
    metrics: Arc<Metrics>,
    history: Mutex<History>,
    sets_rest: SetsRest,
    protected: Mutex<Protected>,
    degraded: Arc<Degraded>,
    /// The sessions that are left a grace, by their `courieresmtpd`, and by which
    /// sentence. One that sends another message is judged anew, and taken out.
    graced: Mutex<HashMap<i32, u64>>,
    /// How many there were.
    graces: AtomicU64,
    retiring: Retiring,
}

/// What was prepared before anything was read from outside.
#[derive(Clone, Debug, Default)]
pub struct Prepared {
    /// What looks up aliases, where it could be started.
    pub aliases: Option<Arc<Aliases>>,
    /// What this process is bound by.
    pub layers: Layers,
}

/// What is to be done about a message.
#[derive(Debug)]
pub enum Decision {
    /// It is accepted.
    Accept,
    /// It is refused with this reply, and then the sentence is carried out.
    Refuse(String, Box<Sentenced>),
    /// Its session has been ended: nobody is left to be answered.
    Nobody,
}

/// A conviction and whom it befalls.
#[derive(Debug)]
pub struct Sentenced {
    conviction: Conviction,
    identified: Arc<Identified>,
    message_id: Option<String>,
}

impl Filter {
    /// Makes ready to judge by `config`.
    #[must_use]
    pub fn new(config: Config, paths: Paths, prepared: Prepared) -> Self {
        let (lists, notices) = Lists::new(
            config.zones.clone(),
            config.resolver.clone(),
            config.cache,
            config.thresholds,
        );
        Self {
            protected: Mutex::new(
                Protected::new(config.allow.clone())
                    .with_nameservers(config.resolver.nameservers.iter().map(SocketAddr::ip)),
            ),
            standing: Mutex::default(),
            warden: Warden::default(),
            gate: Gate::default(),
            gate_lines: Mutex::new(Bucket::new(GATE_LINES)),
            lists,
            notices: Mutex::new(Some(notices)),
            open: Mutex::default(),
            never_ban: NeverBan::new(&config.never_ban),
            clock: Clock::new(Instant::now(), SystemTime::now()),
            book: Mutex::new(Book::new(config.ban.durations, config.ban.look_again)),
            allows: Mutex::default(),
            store: OnceLock::new(),
            late: Mutex::default(),
            lacking: sets::Lacking::default(),
            full: sets::Full::default(),
            table: Arc::new(Table::new(
                paths.piddir.clone(),
                config.block_variables.clone(),
            )),
            senders: Senders::new(config.ban.prefix6),
            sets_rest: SetsRest::default(),
            killer: Killer::default(),
            metrics: Arc::default(),
            history: Mutex::default(),
            config,
            paths,
            aliases: prepared.aliases,
            layers: prepared.layers,
            begun: Instant::now(),
            watching: Mutex::new(None),
            degraded: Arc::default(),
            graced: Mutex::default(),
            graces: AtomicU64::new(0),
            retiring: Retiring::default(),
        }
    }

    /// What does not work.
    pub fn degraded(&self) -> &Degraded {
        &self.degraded
    }

    /// What looks up aliases, where it could be started.
    pub fn aliases(&self) -> Option<&Aliases> {
        self.aliases.as_deref()
    }

    /// The warden, which somebody else has to bring.
    pub fn warden(&self) -> &Warden {
        &self.warden
    }

    /// Whether there is something for a warden to do: where nobody is banned,
    /// nothing with a capability runs.
    pub fn needs_warden(&self) -> bool {
        self.config.mode == Mode::Enforce || self.config.watch.by == WatchBy::Events
    }

    /// The longest that a message may take, whatever hangs.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.config.resolver.limit + READ_TIME
    }

    /// A message has waited so long for its answer.
    pub fn waited(&self, time: Duration) {
        self.metrics.waited.observe(time);
    }

    /// The part that could not accept a connection, and that it can again.
    pub fn accepts(&self, result: Result<(), &io::Error>) {
        match result {
            Ok(()) => self.degraded.leave(&Part::Accept, Instant::now()),
            Err(error) => self.degraded.enter(Part::Accept, error, Instant::now()),
        }
    }

    /// Whether `config` wants other sets or rules of the kernel.
    #[must_use]
    pub fn firewall_differs(&self, config: &Config) -> bool {
        firewall::differs(&self.config, config)
    }

    /// The supervisor is gone.
    pub fn is_alone(&self) {
        let text = "it is gone: nobody starts a worker or a warden that ends, nor reloads";
        self.degraded.enter(Part::Supervisor, text, Instant::now());
    }

    /// The line that tells what is in force.
    #[must_use]
    pub fn started(&self) -> Event {
        let ports: Vec<String> = self.config.ports.iter().map(u16::to_string).collect();
        let zones: Vec<&str> = self.config.zones.iter().map(|zone| zone.name()).collect();
        Event::new("started")
            .field("version", env!("CARGO_PKG_VERSION"))
            .field(
                "mode",
                if self.config.mode == Mode::Enforce {
                    "enforce"
                } else {
                    "observe"
                },
            )
            .field("ports", ports.join("+"))
            .field("zones", zones.join("+"))
            .field("blockvars", self.config.block_variables.join("+"))
    }

    /// Says in the log whether look-ups and bans will work, before the first is
    /// needed. In `observe` mode there are no bans, and the warden is not started.
    pub async fn check(&self) {
        if !self.config.zones.is_empty()
            && let Err(error) = self.lists.resolver().check()
        {
            self.degraded.enter(Part::Resolver, error, Instant::now());
        }
        if self.config.mode == Mode::Observe {
            return;
        }
        match self.warden.ask(warden_request::Request::Check).await {
            Ok(reply) => self.ban_state(reply.ipv6, reply.outcome),
            Err(error) => self.degraded.enter(Part::Warden, error, Instant::now()),
        }
    }

    /// Judges the message of `request`, which `submit`, at `peer`, sent.
    pub async fn judge(self: Arc<Self>, request: Request, peer: Peer) -> Decision {
        self.metrics.messages.inc();
        let (filter, control) = (Arc::clone(&self), request.control);
        // Files on a slow disk must not hold up the other messages.
        let read = tokio::task::spawn_blocking(move || filter.read(&control, peer)).await;
        let Ok(Some((envelope, sender))) = read else {
            return Decision::Accept;
        };
        let Sender { identified, ending } = sender;
        // To accept it would be to get it twice: the client has no answer.
        if ending && kill::ends_within(identified.esmtpd(), ENDING_TIME).await {
            return Decision::Nobody;
        }
        self.graced().remove(&identified.esmtpd().pid());
        let session = &identified.session;
        let id = envelope.message_id.as_deref();
        if let Some(exemption) = judge::exemption(
            session,
            &envelope,
            self.protection(session.client),
            &self.config,
        ) {
            let event = Event::new("exempt").of_message(id).ip(session.client);
            log::debug!("{}", event.field("reason", exemption));
            self.metrics.at_message.exempt.inc();
            let pid = identified.esmtpd().pid();
            self.table.judged(pid, Verdict::Exempt, "");
            return Decision::Accept;
        }
        let sentence = self.sentence(session).await;
        self.metrics.at_message.count(&sentence);
        self.note_verdict(&identified, &sentence);
        let (Sentence::Reject(conviction) | Sentence::Ban(conviction)) = sentence else {
            log::debug!("{}", Event::new("passed").of_message(id).ip(session.client));
            if self.senders.delivered(session.client, Instant::now()) {
                self.put(Write::Sender(session.client, self.now()));
            }
            return Decision::Accept;
        };
        if self.is_for_exempt_recipients(&envelope).await {
            let event = Event::new("exempt").of_message(id).ip(session.client);
            log::info!(
                "{}",
                event
                    .field("zone", conviction.listing.zone)
                    .field("reason", "recipients")
            );
            return Decision::Accept;
        }
        if self.config.mode == Mode::Observe {
            self.metrics.listed.inc();
            let event = listed(&identified, &conviction, id).field("action", "none");
            log::info!("{}", event.field("would", conviction.action()));
            return Decision::Accept;
        }
        // One that is ended at once reads nothing.
        let read = !conviction.end || self.config.kill != KillPolicy::Always;
        let reply = self.reply(session.client, &conviction, read).await;
        let message_id = envelope.message_id;
        Decision::Refuse(
            reply,
            Box::new(Sentenced {
                conviction,
                identified,
                message_id,
            }),
        )
    }

    /// Reads what the message's files and its session's processes tell. `None`,
    /// with a line in the log, where they do not tell who sent it.
    fn read(&self, control: &[Vec<u8>], peer: Peer) -> Option<(Envelope, Sender)> {
        let paths: Vec<PathBuf> = control
            .iter()
            .map(|path| self.paths.resolve(path))
            .collect();
        let envelope = match control_file::read(&paths) {
            Ok(envelope) => envelope,
            Err(error) => {
                log::warn!("{}", Event::new("unreadable").text(error));
                return None;
            }
        };
        let id = envelope.message_id.as_deref();
        // Who is trusted by the control file alone need not be identified.
        let reason = if !envelope.is_smtp() {
            Some("not-smtp".to_owned())
        } else {
            judge::trusted(&envelope).map(|exemption| exemption.to_string())
        };
        if let Some(reason) = reason {
            let event = Event::new("exempt").of_message(id);
            log::debug!("{}", event.field("reason", reason));
            return None;
        }
        let sender = match self.table.of_submit(peer) {
            Ok(sender) => sender,
            Err(error) => {
                log::warn!("{}", Event::new("unidentified").of_message(id).text(error));
                return None;
            }
        };
        let client = sender.identified.session.client;
        if !envelope.agrees_with(client) {
            let event = Event::new("unidentified").of_message(id).ip(client);
            log::warn!("{}", event.text("the control file names another client"));
            return None;
        }
        Some((envelope, sender))
    }

    /// Whether every recipient is one that is never refused. Where that hangs
    /// on an alias that cannot be looked up, it is.
    async fn is_for_exempt_recipients(&self, envelope: &Envelope) -> bool {
        let Some(pairs) = envelope.only_for(&self.config.exempt_recipients) else {
            return false;
        };
        let now = Instant::now();
        let stand = match &self.aliases {
            Some(aliases) => aliases.all_stand(pairs).await,
            None => Err(io::Error::other("what looks them up could not be started")),
        };
        match stand {
            Ok(stand) => {
                self.degraded.leave(&Part::Aliases, now);
                stand
            }
            Err(error) => {
                self.degraded.enter(Part::Aliases, error, now);
                true
            }
        }
    }

    fn protection(&self, client: IpAddr) -> Option<Protection> {
        let mut protected = self
            .protected
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match protected.refresh(now) {
            Ok(()) => self.degraded.leave(&Part::OwnAddresses, now),
            Err(error) => self.degraded.enter(Part::OwnAddresses, error, now),
        }
        // Where our own addresses are not known, this may be one.
        if !protected.knows_own() {
            return Some(Protection::Own);
        }
        let allowed = || self.allows().contains(client, self.now());
        protected
            .protects(client)
            .or_else(|| allowed().then_some(Protection::Allowlisted))
    }

    fn gate_lines(&self) -> MutexGuard<'_, Bucket> {
        self.gate_lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn graced(&self) -> MutexGuard<'_, HashMap<i32, u64>> {
        self.graced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bans the client and ends its session. The client has its reply.
    pub async fn carry_out(
        &self,
        sentenced: Sentenced,
        stop: watch::Receiver<bool>,
        deciding: Deciding,
    ) {
        let Sentenced {
            conviction,
            identified,
            message_id,
        } = sentenced;
        let id = message_id.as_deref();
        self.metrics.filter.inc();
        let event = listed(&identified, &conviction, id);
        if !conviction.end {
            log::info!("{}", event.field("action", conviction.action()));
            return;
        }
        match self.config.kill {
            KillPolicy::Always => {
                // It frees the slot, so it comes first.
                let killed = self.end_refused(&identified);
                let event = self.ban_event(event, &conviction, &identified).await;
                log::info!("{}", event.field("killed", killed));
            }
            KillPolicy::Pressure { grace } => {
                let event = self.ban_event(event, &conviction, &identified).await;
                drop(deciding);
                let limit = format!("{}s", grace.as_secs());
                log::info!("{}", event.field("grace", limit));
                let pid = identified.esmtpd().pid();
                let number = self.graces.fetch_add(1, Ordering::Relaxed);
                self.graced().insert(pid, number);
                kill::grace(&identified, grace, stop).await;
                let session = &identified.session;
                let event = |name| {
                    let event = Event::new(name).of_message(id);
                    event.ip(session.client).port(session.client_port)
                };
                // One that sent another message meanwhile was judged for that.
                let its_own = self.graced().get(&pid) == Some(&number);
                if its_own {
                    self.graced().remove(&pid);
                }
                if its_own && !identified.has_logged_in() {
                    let killed = self.end_refused(&identified);
                    log::info!("{}", event("ended").field("killed", killed));
                } else if identified.esmtpd().is_alive() {
                    log::info!(
                        "{}",
                        event("spared").text("it logged in, or sent another message")
                    );
                }
            }
        }
    }

    /// Ends the session of a client that has its 554; how many processes were
    /// signalled.
    fn end_refused(&self, identified: &Identified) -> usize {
        let killed = self.killer.end(identified, self.table.listeners());
        if killed > 0 {
            self.metrics.ended.message.inc();
        }
        killed
    }

    /// Bans the client where it is to be; the event tells what became of it.
    async fn ban_event(
        &self,
        event: Event,
        conviction: &Conviction,
        identified: &Identified,
    ) -> Event {
        self.metrics.listed.inc();
        let client = identified.session.client;
        let banned = if conviction.ban {
            self.ban(client, conviction).await
        } else {
            None
        };
        let Some(next) = banned else {
            return event.field("action", "kill");
        };
        self.metrics.bans.inc();
        let time = format!("{}s", next.seconds);
        let event = event.field("action", "ban").field("bantime", time);
        if next.count > 1 {
            event.field("offence", next.count)
        } else {
            event
        }
    }

    /// Watches for sessions, guards the slots and keeps the bans, until the future
    /// is dropped.
    pub async fn run(self: Arc<Self>) {
        // Each by itself: a bug in one costs the others nothing.
        let filter = || Arc::clone(&self);
        tokio::join!(
            lasting(|| filter().watch()),
            lasting(|| filter().guard()),
            lasting(|| filter().keep_bans()),
            lasting(|| filter().keep_gate()),
            lasting(|| filter().tell_hourly()),
            lasting(|| exporter::run(filter(), self.config.metrics.clone())),
            lasting(|| filter().keep_history()),
        );
    }

    async fn guard(self: Arc<Self>) {
        if let Some(marks) = self.config.guard {
            guard::run(Arc::clone(&self.table), Arc::clone(&self), marks).await;
        }
    }

    /// Sees to it that who is ended ends, until the future is dropped.
    pub async fn see_to_kills(self: Arc<Self>) {
        lasting(|| {
            let filter = Arc::clone(&self);
            async move { filter.killer.see_to_it().await }
        })
        .await;
    }

    /// Sees to it that who was ended has ended, as this process is about to end.
    pub async fn finish_kills(&self) {
        self.killer.finish().await;
    }

    async fn tell_hourly(self: Arc<Self>) {
        let mut clock = interval_at((Instant::now() + TELL_EVERY).into(), TELL_EVERY);
        loop {
            clock.tick().await;
            self.tell_counters();
        }
    }

    /// Says what was counted.
    pub fn stopped(&self) {
        self.tell_counters();
    }

    fn tell_counters(&self) {
        log::info!("{}", self.metrics.event(self.lists.counts()));
        if let Some(event) = self.metrics.packets.event() {
            log::info!("{event}");
        }
    }

    /// Bans the client; for how long, where it is banned now.
    async fn ban(&self, client: IpAddr, conviction: &Conviction) -> Option<Next> {
        let network = self.network_of(client);
        // In a set that is not there nobody can be banned a moment later either.
        if self.is_released() || self.sets_rest.is_resting(client.is_ipv6(), Instant::now()) {
            return None;
        }
        let next = self.book().next(network, self.now());
        let request = warden_request::Request::Ban {
            network,
            seconds: next.asked(),
        };
        match self.warden.ask(request).await {
            Ok(reply) => {
                self.ban_state(reply.ipv6, reply.outcome);
                if next.running {
                    self.note_missing(reply.ipv6, reply.outcome);
                } else if reply.outcome.is_new() || reply.outcome == Outcome::Extended {
                    self.note_ban(network, client, next, conviction).await;
                }
                reply.outcome.is_banned().then_some(next)
            }
            Err(error) => {
                self.degraded.enter(Part::Warden, error, Instant::now());
                None
            }
        }
    }
}

/// Runs what lasts as long as the filter in a task of its own; again, after a
/// pause, where a bug ended it (its panic is logged where it happens). It ends
/// with the future.
async fn lasting<F: Future<Output = ()> + Send + 'static>(begin: impl Fn() -> F) {
    let mut tasks = JoinSet::new();
    loop {
        tasks.spawn(begin());
        match tasks.join_next().await {
            Some(Err(error)) if error.is_panic() => sleep(AFTER_A_BUG).await,
            _ => return,
        }
    }
}

fn listed(identified: &Identified, conviction: &Conviction, id: Option<&str>) -> Event {
    let session = &identified.session;
    let event = Event::new("listed")
        .of_message(id)
        .ip(session.client)
        .port(session.client_port);
    conviction.told(event)
}
