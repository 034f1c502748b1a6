//! One thing that is wrong, and what is said of it, a row each.

use super::healthy::*;
use crate::doctor::Level;
use crate::doctor::facts::*;
use crate::status::Health;

pub(super) type Change = fn(&mut Facts);

/// What is changed, and what is said then: by which check, how bad, words of what
/// was found and of what mends it.
pub(super) const ROWS: &[(Change, &str, Level, &str, &str)] = &[
    (
        |f| f.courier.there = false,
        "courier-missing",
        Level::Problem,
        "no Courier is installed",
        "apt-get install courier-mta",
    ),
    (
        |f| f.install.filter = Ok(None),
        "filter-missing",
        Level::Problem,
        "rblfilter is not installed",
        "./install.sh",
    ),
    (
        |f| f.install.filter.as_mut().unwrap().as_mut().unwrap().mode = 0o644,
        "filter-missing",
        Level::Problem,
        "cannot be executed",
        "chmod 0755 /usr/lib/courier/filters/rblfilter",
    ),
    (
        |f| f.install.link = Ok(None),
        "filter-not-active",
        Level::Problem,
        "is not started",
        "filterctl start rblfilter",
    ),
    (
        |f| f.install.link = Ok(Some("/elsewhere".into())),
        "filter-not-active",
        Level::Problem,
        "leads to /elsewhere",
        "rm /etc/courier/filters/active/rblfilter; filterctl start rblfilter",
    ),
    (
        |f| f.courier.courierfilter = None,
        "courierfilter-stopped",
        Level::Problem,
        "does not run",
        "courierfilter start",
    ),
    (
        |f| f.filter = Filter::Stopped,
        "filter-ended",
        Level::Problem,
        "was started, and does not run",
        "filterctl stop rblfilter; sleep 1; filterctl start rblfilter",
    ),
    (
        |f| f.courier.processes[1].replaced = Ok(true),
        "old-program-runs",
        Level::Warning,
        "process 12 (rblfilter-warde) runs a program that was replaced",
        "rblfilter reload",
    ),
    (
        |f| running(f).version = "0.0.1".into(),
        "old-program-runs",
        Level::Warning,
        "version 0.0.1 runs",
        "rblfilter reload",
    ),
    (
        |f| f.install.filter.as_mut().unwrap().as_mut().unwrap().mode = 0o775,
        "program-writable",
        Level::Problem,
        "mode 0775",
        "chmod go-w",
    ),
    (
        |f| f.install.warden.as_mut().unwrap().as_mut().unwrap().uid = UID,
        "program-writable",
        Level::Problem,
        "owner 110",
        "setcap cap_net_admin=p /usr/lib/courier/rblfilter-warden",
    ),
    (
        |f| f.install.warden = Ok(None),
        "warden-missing",
        Level::Problem,
        "is missing",
        "./install.sh",
    ),
    (
        |f| f.install.warden.as_mut().unwrap().as_mut().unwrap().gid = 0,
        "warden-missing",
        Level::Problem,
        "cannot be executed by Courier's user",
        "chown 0:112",
    ),
    (
        |f| f.install.warden.as_mut().unwrap().as_mut().unwrap().mode = 0o755,
        "warden-missing",
        Level::Warning,
        "executed by everybody",
        "chmod o-rwx",
    ),
    (
        |f| f.install.capability = Ok(false),
        "warden-incapable",
        Level::Problem,
        "no capability",
        "setcap cap_net_admin=p /usr/lib/courier/rblfilter-warden",
    ),
    (
        |f| {
            f.install.capability = Ok(false);
            toml(f, &format!("mode = \"observe\"\n{TOML}"));
        },
        "warden-incapable",
        Level::Note,
        "no bans are made now",
        "setcap",
    ),
    (
        |f| f.install.nosuid = Ok(true),
        "warden-nosuid",
        Level::Problem,
        "mounted nosuid",
        "fstab",
    ),
    (
        |f| {
            f.courier.courierfilter.as_mut().unwrap().no_new_privs = Some(true);
            f.systemd = true;
        },
        "no-new-privileges",
        Level::Problem,
        "runs with no_new_privs",
        "systemctl restart courierfilter",
    ),
    (
        |f| f.install.unit = vec![("NoNewPrivileges".into(), "yes".into())],
        "no-new-privileges",
        Level::Problem,
        "for its next start",
        "take NoNewPrivileges= out",
    ),
    (
        |f| f.courier.courierfilter.as_mut().unwrap().bounding = Some(0),
        "capability-bounded",
        Level::Problem,
        "bounding set",
        "CAP_NET_ADMIN",
    ),
    (
        |f| f.install.unit = vec![("CapabilityBoundingSet".into(), "cap_chown cap_kill".into())],
        "capability-bounded",
        Level::Problem,
        "without CAP_NET_ADMIN",
        "CAP_NET_ADMIN",
    ),
    (
        |f| f.install.state = Ok(None),
        "state-folder",
        Level::Problem,
        "is missing",
        "install -d -m 0750 -o 110 -g 112 /var/lib/courier/rblfilter",
    ),
    (
        |f| f.install.state.as_mut().unwrap().as_mut().unwrap().uid = 0,
        "state-folder",
        Level::Problem,
        "cannot write there",
        "chown 110:112",
    ),
    (
        |f| f.install.state.as_mut().unwrap().as_mut().unwrap().mode = 0o777,
        "state-folder",
        Level::Problem,
        "others can put files there",
        "chmod 0750",
    ),
    (
        |f| f.install.socket.as_mut().unwrap().as_mut().unwrap().mode = 0o666,
        "filter-socket",
        Level::Problem,
        "everybody can speak",
        "chmod 0660",
    ),
    (
        |f| f.install.socket = Ok(None),
        "filter-socket",
        Level::Problem,
        "its socket is gone",
        "filterctl start rblfilter",
    ),
    (
        |f| f.install.boot_units = Some(vec!["rblfilter-firewall.service"]),
        "boot-rules",
        Level::Warning,
        "not enabled: rblfilter-firewall.service",
        "systemctl enable rblfilter-firewall.service",
    ),
    (
        |f| f.install.boot_units = None,
        "boot-rules",
        Level::Note,
        "no systemd",
        "rblfilter firewall apply",
    ),
    (
        |f| f.courier.enablefiltering = Ok(Some("local\n".into())),
        "esmtp-not-filtered",
        Level::Problem,
        "does not name esmtp",
        "echo esmtp >>/etc/courier/enablefiltering",
    ),
    (
        |f| f.courier.enablefiltering = Ok(Some("local".into())),
        "esmtp-not-filtered",
        Level::Problem,
        "does not name esmtp",
        "printf '\\nesmtp\\n'",
    ),
    (
        |f| f.courier.enablefiltering = Ok(None),
        "esmtp-not-filtered",
        Level::Problem,
        "does not name esmtp",
        "echo esmtp",
    ),
    (
        |f| toml(f, &format!("ports = [25, 26]\n{TOML}")),
        "port-not-served",
        Level::Warning,
        "serves port 26",
        "esmtpd start",
    ),
    (
        |f| {
            f.courier.daemons = Ok(daemons(&format!(
                "{ESMTPD}MAXDAEMONS=50\nESMTPAUTH=PLAIN\n"
            )));
        },
        "esmtpd-not-restarted",
        Level::Warning,
        "MAXDAEMONS, ESMTPAUTH",
        "esmtpd stop; sleep 1; esmtpd start",
    ),
    (
        |f| {
            f.courier.daemons = Ok(daemons(&format!("{ESMTPD}BLACKLISTS=-block=b.test\n")));
            f.systemd = true;
        },
        "esmtpd-not-restarted",
        Level::Warning,
        "BLACKLISTS",
        "systemctl restart courier-mta",
    ),
    (
        |f| f.courier.listeners[0].logins = Ok(Some("ESMTPAUTH_TLS")),
        "logins-on-judged-port",
        Level::Problem,
        "ESMTPAUTH_TLS is set",
        "ESMTPAUTH_TLS=\"\"",
    ),
    (
        // Who cannot see the process is told what the file says.
        |f| {
            esmtpd(f, "ESMTPAUTH=LOGIN");
            f.courier.listeners[0].logins = Err("denied".into());
        },
        "logins-on-judged-port",
        Level::Problem,
        "ESMTPAUTH is set",
        "/etc/courier/esmtpd",
    ),
    (
        |f| esmtpd(f, "BLACKLISTS='-block=b.test,BLOCK2 -allow=w.test'"),
        "courier-looks-up",
        Level::Warning,
        "asks 2 lists before each session begins (BLACKLISTS): b.test, w.test",
        "in /etc/courier/filters/rblfilter.toml: [[dnsbl]] zone = \"b.test\", [[dnswl]] zone = \"w.test\"",
    ),
    (
        |f| esmtpd(f, "DROP=-drop=BLOCK2"),
        "courier-drops",
        Level::Warning,
        "whose BLOCK2 is set",
        "DROP=\"\"",
    ),
    (
        |f| esmtpd(f, "BLACKLISTS='-block=BL.test.,BLOCK2'"),
        "zone-asked-twice",
        Level::Warning,
        "both ask bl.test",
        "out of BLACKLISTS",
    ),
    (
        |f| esmtpd(f, "BLACKLISTS='-block=b.test,SPAM'"),
        "verdict-unread",
        Level::Warning,
        "is in SPAM",
        "add SPAM to block-variables",
    ),
    (
        |f| esmtpd(f, "BLACKLISTS='-block=b.test'"),
        "block-refuses-postmaster",
        Level::Warning,
        "b.test into BLOCK",
        "BLOCK2",
    ),
    (
        |f| esmtpd(f, "TCPDOPTS=-noidentlookup"),
        "reverse-lookups",
        Level::Note,
        "looks up each client's name",
        "add -nodnslookup to TCPDOPTS",
    ),
    (
        |f| esmtpd(f, "MAXPERIP=40"),
        "one-client-fills-slots",
        Level::Warning,
        "one address may have all 40 slots (MAXPERIP=40",
        "MAXPERIP well below",
    ),
    (
        |f| esmtpd(f, "MAXPERC="),
        "one-client-fills-slots",
        Level::Warning,
        "one network (/24)",
        "MAXPERC",
    ),
    (
        |f| esmtpd(f, "MAXDAEMONS=10"),
        "few-slots",
        Level::Warning,
        "10 slots, of which 2 are free",
        "MAXDAEMONS=40",
    ),
    (
        |f| esmtpd(f, "TCPDOPTS='-nodnslookup -proxy'"),
        "behind-proxy",
        Level::Warning,
        "behind a proxy",
        "proxy's host",
    ),
    (
        |f| f.courier.listeners[0].proxied = true,
        "behind-proxy",
        Level::Warning,
        "behind a proxy",
        "proxy's host",
    ),
    (
        |f| {
            let mx = vec!["203.0.113.9".parse().unwrap(), own()];
            f.dns.exchangers = vec![("lab.test".into(), Ok(vec![("mx2.lab.test".into(), mx)]))];
        },
        "mx-not-exempt",
        Level::Warning,
        "mx2.lab.test, an MX of a domain of ours",
        "add \"203.0.113.9\" to allow.networks",
    ),
    (
        |f| f.dns.exchangers = vec![("lab.test".into(), Err("no answer in time".into()))],
        "mx-not-exempt",
        Level::Note,
        "MX hosts of lab.test are not known: no answer in time",
        "",
    ),
    (
        |f| f.courier.others = vec!["pythonfilter".into()],
        "other-filters",
        Level::Note,
        "pythonfilter",
        "filterctl stop",
    ),
    (
        |f| {
            f.config.read = Err(ConfigError {
                text: "cannot read x: line 7: unknown key".into(),
                denied: false,
            });
        },
        "config-wrong",
        Level::Problem,
        "line 7",
        "rblfilter config check",
    ),
    (
        |f| f.config.installed = Err("x: the filter cannot read it".into()),
        "config-wrong",
        Level::Problem,
        "cannot read it",
        "chown 0:112 /etc/courier/filters/rblfilter.toml; chmod 0640",
    ),
    (
        |f| toml(f, &format!("[allow]\nnetworks = [\"0.0.0.0/0\"]\n{TOML}")),
        "config-note",
        Level::Warning,
        "whole family",
        "allow.networks",
    ),
    (
        |f| toml(f, &format!("score.ban-needs = 2\n{TOML}")),
        "config-note",
        Level::Note,
        "ban-needs",
        "",
    ),
    (
        |f| running(f).standing = 2,
        "config-note",
        Level::Note,
        "2 bans made before observe",
        "",
    ),
    (
        |f| {
            f.config.keyed = true;
            f.config.file.as_mut().unwrap().as_mut().unwrap().mode = 0o644;
        },
        "key-readable",
        Level::Problem,
        "holds a key",
        "chmod 0640",
    ),
    (
        |f| {
            toml(f, &format!("ports = [25, 587]\n{TOML}"));
            f.courier.listeners[0].options.ports = "smtp,587".into();
        },
        "submission-judged",
        Level::Warning,
        "your own users",
        "ports = [25]",
    ),
    (
        |f| {
            toml(f, &format!("mode = \"observe\"\n{TOML}"));
            f.config.age = Some(20 * 86_400 + 5);
        },
        "observing",
        Level::Note,
        "as it is for 20 days: is it not time to decide?",
        "mode = \"enforce\"",
    ),
    (
        |f| toml(f, &format!("ban.backend = \"dry-run\"\n{TOML}")),
        "dry-run",
        Level::Note,
        "nobody is shut out",
        "backend = \"auto\"",
    ),
    (
        |f| toml(f, &format!("watch = \"off\"\n{TOML}")),
        "watch-off",
        Level::Note,
        "end of data alone",
        "watch = \"auto\"",
    ),
    (
        |f| toml(f, &format!("guard.enabled = false\n{TOML}")),
        "guard-off",
        Level::Note,
        "slot guard is off",
        "[guard] enabled = true",
    ),
    (
        |f| toml(f, ""),
        "no-verdict",
        Level::Problem,
        "everybody passes",
        "add a [[dnsbl]]",
    ),
    (
        |f| f.dns.answered[0].1 = Err("no answer in time".into()),
        "no-resolver",
        Level::Problem,
        "127.0.0.1: no answer in time",
        "unbound",
    ),
    (
        |f| f.dns.answered.clear(),
        "no-resolver",
        Level::Problem,
        "/etc/resolv.conf names no nameserver",
        "unbound",
    ),
    (
        |f| {
            let other = "203.0.113.53".parse().unwrap();
            f.dns
                .answered
                .push((other, Err("no answer in time".into())));
        },
        "nameserver-silent",
        Level::Warning,
        "203.0.113.53: no answer in time",
        "take 203.0.113.53 out of /etc/resolv.conf",
    ),
    (
        |f| {
            f.dns.nameservers = Ok(vec![
                "127.0.0.53".parse().unwrap(),
                "9.9.9.9".parse().unwrap(),
            ]);
        },
        "public-resolver",
        Level::Warning,
        "through 9.9.9.9",
        "unbound",
    ),
    (
        |f| {
            running(f).lists = vec![list("bl.test", "ipv4", Health::Down)];
            degraded(f, "dnsbl", "bl.test", "it does not list 127.0.0.2");
        },
        "zone-down",
        Level::Problem,
        "bl.test (ipv4 clients) is down: it does not list 127.0.0.2",
        "take bl.test out",
    ),
    (
        |f| {
            running(f).lists[1].health = Health::Down;
            degraded(
                f,
                "dnsbl",
                "bl.test ipv6",
                "it does not list ::ffff:7f00:2: where it knows no IPv6 addresses",
            );
        },
        "zone-down",
        Level::Warning,
        "bl.test (ipv6 clients) is down",
        "ipv6 = false for bl.test",
    ),
    (
        |f| running(f).lists[0].health = Health::Silent,
        "zone-down",
        Level::Warning,
        "left a question unanswered",
        "bl.test",
    ),
    (
        |f| running(f).lists[0].health = Health::Testing,
        "zone-down",
        Level::Unknown,
        "did not end in time",
        "",
    ),
    (
        // Without the filter it is tested by the command itself.
        |f| {
            f.filter = Filter::Stopped;
            f.dns.tested = vec![(list("bl.test", "ipv4", Health::Down), "SERVFAIL".into())];
        },
        "zone-down",
        Level::Problem,
        "is down: SERVFAIL",
        "bl.test",
    ),
    (
        |f| toml(f, "[[dnsbl]]\nzone = \"bl.test\"\nipv6 = false\n"),
        "ipv6-unjudged",
        Level::Note,
        "no [[dnsbl]] is asked",
        "ipv6 = true",
    ),
    (
        |f| f.firewall = Some(Ok(vec!["the set rblfilter4 is missing".into()])),
        "firewall-wrong",
        Level::Problem,
        "the set rblfilter4 is missing",
        "rblfilter firewall apply",
    ),
    (
        |f| f.firewall = Some(Err("it did not end in time".into())),
        "firewall-wrong",
        Level::Unknown,
        "could not look: it did not end in time",
        "",
    ),
    (
        |f| f.filter = Filter::Silent("cannot ask: timed out".into()),
        "filter-silent",
        Level::Problem,
        "timed out",
        "filterctl start rblfilter",
    ),
    (
        |f| degraded(f, "warden", "", "operation not permitted"),
        "degraded",
        Level::Problem,
        "warden does not work: operation not permitted",
        "do this",
    ),
    (
        |f| degraded(f, "rule", "rblfilter4", "no rule uses it"),
        "degraded",
        Level::Problem,
        "rule rblfilter4 does not work",
        "rblfilter firewall apply",
    ),
    (
        |f| degraded(f, "aliases", "", "gone"),
        "degraded",
        Level::Warning,
        "aliases does not work: gone",
        "do this",
    ),
    (
        |f| {
            toml(f, &format!("watch = \"events\"\n{TOML}"));
            running(f).watch = "poll".into();
        },
        "watch-polls",
        Level::Warning,
        "the kernel gives none",
        "watch = \"auto\"",
    ),
    (
        |f| running(f).watch = "poll".into(),
        "watch-polls",
        Level::Note,
        "by polling",
        "",
    ),
    (
        |f| running(f).sandbox.worker.seccomp = false,
        "sandbox-thin",
        Level::Warning,
        "the worker is not bound",
        "seccomp = \"auto\"",
    ),
    (
        |f| {
            let mounts = "22 27 0:21 / /proc rw - proc proc rw,hidepid=invisible\n";
            f.host.mounts = Ok(mounts.into());
            f.courier.courierfilter.as_mut().unwrap().mounts = Ok(mounts.into());
        },
        "proc-hidden",
        Level::Problem,
        "hidepid=",
        "mount -o remount,hidepid=2,gid=112 /proc",
    ),
    (
        |f| {
            let mounts = "22 27 0:21 / /proc rw - proc proc rw,hidepid=invisible\n";
            f.courier.courierfilter.as_mut().unwrap().mounts = Ok(mounts.into());
        },
        "proc-hidden",
        Level::Problem,
        "hidepid=",
        "ProtectProc=",
    ),
    (
        |f| f.host.kernel = Ok("5.4.0".into()),
        "kernel-old",
        Level::Problem,
        "Linux 5.4.0",
        "newer kernel",
    ),
    (
        |f| f.host.pidfd = Err("cannot open a pidfd".into()),
        "kernel-old",
        Level::Problem,
        "cannot open a pidfd",
        "newer kernel",
    ),
    (
        |f| f.host.synchronised = Ok(false),
        "clock-unsynchronised",
        Level::Note,
        "nobody keeps the clock right",
        "timedatectl set-ntp true",
    ),
    (
        |f| f.host.now -= 7200,
        "clock-jumped",
        Level::Warning,
        "1h 59m 50s behind",
        "timedatectl",
    ),
    (
        |f| f.host.log = Err("cannot connect to /dev/log: no such file".into()),
        "log-missing",
        Level::Warning,
        "/dev/log",
        "rsyslog",
    ),
    (
        |f| f.courier.courierfilter.as_mut().unwrap().memory = Some(64 << 20),
        "memory-limit",
        Level::Warning,
        "64 MiB",
        "MemoryMax=512M",
    ),
    (
        |f| f.courier.courierfilter.as_mut().unwrap().open_files = Some(1024),
        "open-files",
        Level::Warning,
        "1024 files",
        "LimitNOFILE=",
    ),
    (
        |f| f.host.free = Ok((1 << 20, 1 << 30)),
        "disk-full",
        Level::Problem,
        "1 MiB",
        "df -h",
    ),
    (
        |f| f.host.free = Ok((1 << 40, 1000)),
        "disk-full",
        Level::Warning,
        "1000 files left",
        "df -i",
    ),
];
