//! What is checked: each check's name, which stays, and why it matters.

use super::finding::Level;

/// What a check is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Programs, their rights, their files.
    Installation,
    /// Courier's own configuration.
    Courier,
    /// rblfilter.toml.
    Configuration,
    /// DNS lists and nameservers.
    Lists,
    /// Sets and rules.
    Firewall,
    /// The filter that runs.
    Filter,
    /// The host.
    Host,
}

impl Group {
    /// As a heading.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Installation => "Installation",
            Self::Courier => "Courier",
            Self::Configuration => "Configuration",
            Self::Lists => "DNS lists",
            Self::Firewall => "Firewall",
            Self::Filter => "The running filter",
            Self::Host => "The host",
        }
    }
}

/// One check.
#[derive(Debug, PartialEq, Eq)]
pub struct Check {
    /// Its name, that of what is wrong; scripts rely on it.
    pub id: &'static str,
    /// What it is about.
    pub group: Group,
    /// The worst that it finds.
    pub worst: Level,
    /// Why it matters, in one line.
    pub why: &'static str,
}

macro_rules! checks {
    ($($name:ident $id:literal $group:ident $worst:ident: $why:literal;)*) => {
        $(
            #[doc = concat!("`", $id, "`: ", $why, ".")]
            pub static $name: Check = Check {
                id: $id,
                group: Group::$group,
                worst: Level::$worst,
                why: $why,
            };
        )*
        /// All, in the order in which they are told.
        pub static ALL: &[&Check] = &[$(&$name),*];
    };
}

checks! {
    COURIER_MISSING "courier-missing" Installation Problem:
        "without Courier there is nothing to filter";
    FILTER_MISSING "filter-missing" Installation Problem:
        "Courier cannot start a filter that is not there";
    FILTER_NOT_ACTIVE "filter-not-active" Installation Problem:
        "courierfilter starts only what filters/active names";
    COURIERFILTER_STOPPED "courierfilter-stopped" Installation Problem:
        "courierfilter starts the filter; while it does not run, no mail is filtered";
    FILTER_ENDED "filter-ended" Installation Problem:
        "Courier waits for its word: a filter that has ended stops all mail with 432";
    OLD_PROGRAM_RUNS "old-program-runs" Installation Warning:
        "what the installed version mends is not in service yet";
    PROGRAM_WRITABLE "program-writable" Installation Problem:
        "who may write to a program, or to its folder, runs as whoever starts it";
    WARDEN_MISSING "warden-missing" Installation Problem:
        "the warden alone bans: without it listed clients come again at once";
    WARDEN_INCAPABLE "warden-incapable" Installation Problem:
        "without cap_net_admin the warden cannot change the kernel's sets: nobody is banned";
    WARDEN_NOSUID "warden-nosuid" Installation Problem:
        "on a file system that is mounted nosuid, file capabilities do not count: nobody is banned";
    NO_NEW_PRIVILEGES "no-new-privileges" Installation Problem:
        "NoNewPrivileges= takes the warden's capability away: nobody is banned";
    CAPABILITY_BOUNDED "capability-bounded" Installation Problem:
        "a bounding set without cap_net_admin takes it from the warden: nobody is banned";
    STATE_FOLDER "state-folder" Installation Problem:
        "bans outlive a restart only where the filter can write, and nobody else should";
    FILTER_SOCKET "filter-socket" Installation Problem:
        "Courier must reach the filter's socket, and nobody else should";
    BOOT_RULES "boot-rules" Installation Warning:
        "after a reboot banned clients get in until the sets and the rules are made again";

    ESMTP_NOT_FILTERED "esmtp-not-filtered" Courier Problem:
        "Courier asks filters about the sources in enablefiltering alone";
    PORT_NOT_SERVED "port-not-served" Courier Warning:
        "a port where no couriertcpd listens has no sessions to judge";
    ESMTPD_NOT_RESTARTED "esmtpd-not-restarted" Courier Warning:
        "couriertcpd reads its settings when it starts: what runs is not what the file says";
    LOGINS_ON_JUDGED_PORT "logins-on-judged-port" Courier Problem:
        "who may yet log in is never ended early: listed clients keep their slots, the guard is idle";
    COURIER_DROPS "courier-drops" Courier Warning:
        "who is dropped by couriertcpd is never banned, and costs look-ups each time it comes";
    COURIER_LOOKS_UP "courier-looks-up" Courier Warning:
        "couriertcpd asks one list after another, two queries each, while the client holds a slot";
    ZONE_ASKED_TWICE "zone-asked-twice" Courier Warning:
        "each client is looked up twice, and the list's limit of queries reached twice as fast";
    VERDICT_UNREAD "verdict-unread" Courier Warning:
        "a verdict of couriertcpd's in a variable that is not in block-variables counts for nothing";
    BLOCK_REFUSES_POSTMASTER "block-refuses-postmaster" Courier Warning:
        "Courier itself refuses all mail of a client with BLOCK set, mail for postmaster too (RFC 5321, 4.5.1)";
    REVERSE_LOOKUPS "reverse-lookups" Courier Note:
        "the client's name is looked up while it holds a slot, for minutes where its nameserver is dead";
    ONE_CLIENT_FILLS_SLOTS "one-client-fills-slots" Courier Warning:
        "one host or one network alone may take all connection slots";
    FEW_SLOTS "few-slots" Courier Warning:
        "a small wave takes all slots before the guard has any to free";
    BEHIND_PROXY "behind-proxy" Courier Warning:
        "the packets are the proxy's: the kernel's sets keep nobody out, and bans do nothing";
    MX_NOT_EXEMPT "mx-not-exempt" Courier Warning:
        "a backup MX passes on spam from others, and would be refused and banned for it";
    OTHER_FILTERS "other-filters" Courier Note:
        "a message waits for all filters, one after another; a second one that asks lists asks twice";

    CONFIG_WRONG "config-wrong" Configuration Problem:
        "with a wrong file the filter that starts accepts every message";
    CONFIG_NOTE "config-note" Configuration Warning:
        "the file is right, and may not say what was meant";
    KEY_READABLE "key-readable" Configuration Problem:
        "a list's key is as good as a password, and every user of this host can read it";
    SUBMISSION_JUDGED "submission-judged" Configuration Warning:
        "your own users log in on ports 465 and 587, from addresses that lists name";
    OBSERVING "observing" Configuration Note:
        "in observe nobody is refused, ended or banned";
    DRY_RUN "dry-run" Configuration Note:
        "with ban.backend = \"dry-run\" nobody is shut out by the kernel";
    WATCH_OFF "watch-off" Configuration Note:
        "without the watch a listed client keeps its slot until the end of its data";
    GUARD_OFF "guard-off" Configuration Note:
        "without the guard a wave that no list names can take all slots";

    NO_VERDICT "no-verdict" Lists Problem:
        "with neither lists nor couriertcpd's verdicts everybody passes";
    NO_RESOLVER "no-resolver" Lists Problem:
        "without a nameserver no list is asked, and nobody is refused";
    NAMESERVER_SILENT "nameserver-silent" Lists Warning:
        "a nameserver that does not answer makes look-ups late, and clients unknown";
    PUBLIC_RESOLVER "public-resolver" Lists Warning:
        "lists answer the big public resolvers with 127.255.255.x, or not at all";
    ZONE_DOWN "zone-down" Lists Problem:
        "a list that fails its self-test (RFC 5782) convicts nobody";
    IPV6_UNJUDGED "ipv6-unjudged" Lists Note:
        "clients that come by IPv6 are looked up in no list";

    FIREWALL_WRONG "firewall-wrong" Firewall Problem:
        "without its set and rule a ban shuts nobody out";

    FILTER_SILENT "filter-silent" Filter Problem:
        "a filter that does not answer its admin may not answer Courier either";
    DEGRADED "degraded" Filter Problem:
        "a part of the filter does not work; mail flows, and less is kept out";
    WATCH_POLLS "watch-polls" Filter Warning:
        "by polling a session is seen some milliseconds later than by the kernel's word";
    SANDBOX_THIN "sandbox-thin" Filter Warning:
        "who takes over a process that is bound by less can do more";

    PROC_HIDDEN "proc-hidden" Host Problem:
        "with hidepid= the filter cannot see couriertcpd's children, and so no session in time";
    KERNEL_OLD "kernel-old" Host Problem:
        "pidfds, on which each end of a session rests, want Linux 5.10 or later";
    CLOCK_UNSYNCHRONISED "clock-unsynchronised" Host Note:
        "the log's times are compared with those of other hosts, and DNSSEC wants the right time";
    CLOCK_JUMPED "clock-jumped" Host Warning:
        "with a clock that goes back the log's lines are out of order, and bans end late after a reboot";
    LOG_MISSING "log-missing" Host Warning:
        "nobody learns what was refused, ended and banned, nor what does not work";
    MEMORY_LIMIT "memory-limit" Host Warning:
        "a million answers and as many bans take some 250 MiB; beyond the limit the kernel ends the filter";
    OPEN_FILES "open-files" Host Warning:
        "each session and each query that is open takes file descriptors";
    DISK_FULL "disk-full" Host Problem:
        "on a full disk Courier takes no mail, and bans are forgotten at a restart";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_check_has_a_name_of_its_own_and_a_reason_of_one_line() {
        let mut ids: Vec<&str> = ALL.iter().map(|check| check.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), ALL.len());
        for check in ALL {
            let plain = |c: char| c.is_ascii_lowercase() || c == '-' || c.is_ascii_digit();
            assert!(check.id.chars().all(plain), "{}", check.id);
            assert!(check.why.len() <= 110, "{}", check.why);
            assert!(check.worst >= Level::Note, "{}", check.id);
        }
        assert!(ALL.is_sorted_by_key(|check| check.group));
    }

    /// The admin guide tells all of them, with the same words.
    #[test]
    fn the_admin_guide_tells_each_check() {
        let guide = include_str!("../../docs/admin-guide.md");
        let told: Vec<&str> = guide
            .lines()
            .filter(|line| line.starts_with("| `") && line.matches(" | ").count() == 2)
            .filter(|line| {
                ["| problem | ", "| warning | ", "| note | "]
                    .iter()
                    .any(|level| line.contains(level))
            })
            .collect();
        let rows: Vec<String> = ALL
            .iter()
            .map(|check| format!("| `{}` | {} | {} |", check.id, check.worst, check.why))
            .collect();
        assert_eq!(told, rows, "{}", rows.join("\n"));
    }
}
