//! The Debian package, in a Debian of its own: installed, upgraded, removed, purged.
#![allow(missing_docs, clippy::unwrap_used)]

mod debian;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use debian::{Debian, scratch};

/// Longer than anything takes that is not broken.
const LIMIT: Duration = Duration::from_secs(30);

/// Courier for lab.test with one user; who comes from 127.66.0.0/16 is listed.
const COURIER: &str = r#"set -e
cd /etc/courier
echo lab.test | tee me defaultdomain esmtpacceptmailfor.dir/lab >locals
printf '127.66\tallow,BLOCK=listed\n' >smtpaccess/default
printf 'postmaster: alice@lab.test\n' >aliases/system
for name in alice alice@lab.test; do
    printf '%s\tuid=5000|gid=5000|home=/home/alice|mail=/home/alice/Maildir\n' $name
done >userdb
chmod 600 userdb aliases/system
echo 'authmodulelist=authuserdb' >>authdaemonrc
printf 'BOFHCHECKDNS=0\nMAXPERIP=1000\nMAXPERC=1000\nTARPIT=0\nPORT=127.0.0.1.25\nTCPDOPTS="$TCPDOPTS -nodnslookup"\n' >>esmtpd
install -d -o 5000 -g 5000 /home/alice
maildirmake /home/alice/Maildir
chown -R 5000:5000 /home/alice
makesmtpaccess && makeacceptmailfor && makealiases && makeuserdb
"#;
/// In the order of Debian's units.
const START: &str = "authdaemond start && courierfilter start && courier start && esmtpd start";

/// A message from the address in $ARGV[0]; prints the last reply. Who is refused stays, in
/// silence, for as long as it may, at most $ARGV[1] seconds.
const SMTP: &str = r#"use IO::Socket::INET;
$SIG{ALRM} = sub { print "silence\n"; exit };
alarm 30;
$s = IO::Socket::INET->new(PeerAddr => "127.0.0.1:25", LocalAddr => $ARGV[0], Timeout => 30)
    or do { print "no connection\n"; exit };
sub reply { do { $l = <$s>; defined $l or do { print "closed\n"; exit } } while $l =~ /^\d+-/; $l }
reply();
for ("EHLO client.test", "MAIL FROM:<bob\@client.test>", "RCPT TO:<alice\@lab.test>", "DATA") {
    print $s "$_\r\n"; $r = reply(); 
    next if $r =~ /^[23]/;
    print $r;
    alarm $ARGV[1];
    if ($ARGV[1]) { while (defined($l = <$s>)) {} }
    exit;
}
print $s "Subject: test\r\n\r\nHello.\r\n.\r\n"; print reply();
"#;

const CLEAN: &str = "127.1.2.3";
const LISTED: &str = "127.66.1.2";

/// The package with the programs that were built with the tests.
struct Package {
    /// The folder that holds it, and what else is installed from.
    folder: PathBuf,
    file: PathBuf,
    depends: String,
}

fn package() -> &'static Package {
    static PACKAGE: OnceLock<Package> = OnceLock::new();
    PACKAGE.get_or_init(|| {
        let folder = scratch().join("package");
        let _ = fs::remove_dir_all(&folder);
        let target = folder.join("target");
        fs::create_dir_all(target.join("release")).unwrap();
        for program in ["rblfilter", "rblfilter-warden"] {
            // As cargo-deb looks for them.
            fs::copy(
                programs().join(program),
                target.join("release").join(program),
            )
            .unwrap();
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args([
                "deb",
                "--no-build",
                "--fast",
                "--offline",
                "--locked",
                "--output",
            ])
            .arg(&folder)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("CARGO_TARGET_DIR", &target)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "cargo deb: {said}");
        fs::remove_dir_all(target).unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        let file = PathBuf::from(stdout.trim());
        let depends = dpkg_deb(&["--field", file.to_str().unwrap(), "Depends"]);
        Package {
            folder,
            file,
            depends: depends.trim().to_owned(),
        }
    })
}

fn programs() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_rblfilter")).parent().unwrap()
}

fn dpkg_deb(arguments: &[&str]) -> String {
    let output = Command::new("dpkg-deb").args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "dpkg-deb {arguments:?}: {output:?}"
    );
    String::from_utf8(output.stdout).unwrap()
}

impl Package {
    fn debian(&self, name: &str) -> Debian {
        Debian::start(name, &self.depends, programs(), &self.folder)
    }

    /// As a Debian sees it.
    fn name(&self) -> String {
        format!(
            "/packages/{}",
            self.file.file_name().unwrap().to_str().unwrap()
        )
    }

    /// The same with another version, and programs that are other files.
    fn as_version(&self, version: &str) -> String {
        let tree = self.folder.join(version);
        let name = format!("rblfilter_{version}.deb");
        dpkg_deb(&[
            "--raw-extract",
            self.file.to_str().unwrap(),
            tree.to_str().unwrap(),
        ]);
        let control = tree.join("DEBIAN/control");
        let text = fs::read_to_string(&control).unwrap();
        let line = text
            .lines()
            .find(|line| line.starts_with("Version: "))
            .unwrap();
        fs::write(&control, text.replace(line, &format!("Version: {version}"))).unwrap();
        for program in ["filters/rblfilter", "rblfilter-warden"] {
            let path = tree.join("usr/lib/courier").join(program);
            // What stands behind an executable's end changes nothing.
            let bytes = [&fs::read(&path).unwrap()[..], version.as_bytes()].concat();
            fs::write(path, bytes).unwrap();
        }
        let file = self.folder.join(&name);
        let (tree, file) = (tree.to_str().unwrap(), file.to_str().unwrap());
        dpkg_deb(&["-Zgzip", "-z1", "--root-owner-group", "--build", tree, file]);
        format!("/packages/{name}")
    }
}

/// The last reply to a message from `source`.
fn send(debian: &Debian, source: &str) -> String {
    debian.run_ok(&format!("perl /root/smtp.pl {source} 0"))
}

/// That a message from `source` is not taken, and its address is banned.
fn assert_banned(debian: &Debian, source: &str) {
    let said = debian.run_ok(&format!("perl /root/smtp.pl {source} 25"));
    assert!(!said.contains("250") && !said.contains("silence"), "{said}");
    debian.wait(&format!("ipset test rblfilter4 {source}"));
}

/// The set of the addresses that are banned.
fn banned(debian: &Debian) -> String {
    debian.run_ok("ipset list rblfilter4 | sed '1,/^Members/d'")
}

fn filter_pids(debian: &Debian) -> Vec<String> {
    let script =
        ". /usr/share/rblfilter/service.sh; read_courier_paths; pids \"$filter\" | sort -n";
    debian.run_ok(script).lines().map(String::from).collect()
}

#[test]
fn the_package_is_installed_upgraded_removed_and_purged_while_mail_flows() {
    let package = package();
    let debian = package.debian("life");
    debian.run_ok(COURIER);
    debian.run_ok(&format!("cat >/root/smtp.pl <<'END'\n{SMTP}END"));
    debian.run_ok(START);
    assert!(send(&debian, CLEAN).starts_with("250"));
    let before = debian.tree();
    let files = "find /etc -type f -exec md5sum {} + | sort -k 2";
    let contents = debian.run_ok(files);

    // Installed, it is the admin's to start.
    let said = debian.run_ok(&format!("dpkg -i {}", package.name()));
    assert!(said.contains("then: filterctl start rblfilter"), "{said}");
    assert!(filter_pids(&debian).is_empty(), "{said}");
    let modes = "stat -c '%a %U:%G' /usr/lib/courier/rblfilter-warden \
                 /etc/courier/filters/rblfilter.toml /var/lib/courier/rblfilter";
    let expected = "750 root:courier\n640 root:courier\n750 courier:courier\n";
    assert_eq!(debian.run_ok(modes), expected);
    let capability = "getcap /usr/lib/courier/rblfilter-warden | grep -q cap_net_admin=p";
    debian.run_ok(capability);
    debian.run_ok("setcap -r /usr/lib/courier/rblfilter-warden && dpkg-reconfigure rblfilter");
    debian.run_ok(capability);
    debian.run_ok("rblfilter firewall check");
    let own = "sed -i '/^\\[\\[dnsbl\\]\\]/,$d; s/^time = .*/time = \"2h\"/; $a # mine' /etc/courier/filters/rblfilter.toml";
    debian.run_ok(own);
    let configuration = debian.run_ok("cat /etc/courier/filters/rblfilter.toml");
    debian.run_ok("filterctl start rblfilter");
    debian.wait("test -S /var/lib/courier/allfilters/rblfilter && rblfilter status");
    assert!(send(&debian, CLEAN).starts_with("250"));
    assert_banned(&debian, LISTED);

    // An upgrade without a gap, the configuration as the admin left it.
    let started = filter_pids(&debian);
    let done = AtomicBool::new(false);
    let replies = std::thread::scope(|scope| {
        let stream = scope.spawn(|| {
            let mut replies = Vec::new();
            while !done.load(Relaxed) {
                replies.push(send(&debian, CLEAN));
            }
            replies
        });
        let next = package.as_version("0.1.1~test");
        let said = debian.run(&format!("dpkg -i {next} 2>&1"));
        done.store(true, Relaxed);
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.contains("without a gap"), "{said}");
        stream.join().unwrap()
    });
    assert!(
        !replies.is_empty() && replies.iter().all(|reply| reply.starts_with("250")),
        "{replies:?}"
    );
    println!("{} messages during the upgrade", replies.len());
    let now = filter_pids(&debian);
    assert_eq!(
        now[0], started[0],
        "courierfilter knows the supervisor still"
    );
    assert_ne!(now, started);
    debian.run_ok(". /usr/share/rblfilter/service.sh; read_courier_paths; no_old_program_runs");
    debian.run_ok(capability);
    assert_eq!(debian.run_ok(modes), expected);
    assert_eq!(
        debian.run_ok("cat /etc/courier/filters/rblfilter.toml"),
        configuration
    );
    assert!(banned(&debian).contains(LISTED));
    assert_banned(&debian, "127.66.1.3");

    // One whose configuration is wrong is not put into service.
    debian.run_ok("echo 'wrong = 1' >>/etc/courier/filters/rblfilter.toml");
    let said = debian.run_ok(&format!("dpkg -i {}", package.as_version("0.1.2~test")));
    assert!(said.contains("the configuration is wrong; mend"), "{said}");
    assert_eq!(filter_pids(&debian)[0], started[0]);
    assert!(send(&debian, CLEAN).starts_with("250"));
    debian.run_ok("sed -i '$d' /etc/courier/filters/rblfilter.toml && rblfilter reload");

    // Removed, mail goes on without it, and its bans are gone.
    debian.run_ok("dpkg -r rblfilter");
    let left = "grep -sx 'rblfilter.*' /proc/[0-9]*/comm; ipset list -n; iptables-save | grep rblfilter; \
                ls -A /var/lib/courier/allfilters /var/lib/courier/filters | grep rblfilter";
    let left = debian.run(left).stdout;
    assert!(left.is_empty(), "{}", String::from_utf8_lossy(&left));
    assert!(send(&debian, CLEAN).starts_with("250"));
    let reply = send(&debian, LISTED);
    assert!(reply.starts_with("511"), "Courier's own word: {reply}");
    assert_eq!(
        debian.run_ok("cat /etc/courier/filters/rblfilter.toml"),
        configuration
    );

    // Installed again, the configuration is there still; purged, nothing is.
    debian.run_ok(&format!("dpkg -i {}", package.name()));
    assert_eq!(
        debian.run_ok("cat /etc/courier/filters/rblfilter.toml"),
        configuration
    );
    debian.run_ok("filterctl start rblfilter");
    debian.wait("rblfilter status");
    debian.run_ok("dpkg --purge rblfilter");
    assert!(send(&debian, CLEAN).starts_with("250"));
    let after = debian.tree();
    let left: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
    let taken: Vec<_> = before.iter().filter(|line| !after.contains(line)).collect();
    assert!(
        left.is_empty() && taken.is_empty(),
        "left {left:?}, took {taken:?}"
    );
    assert_eq!(debian.run_ok(files), contents);
}

/// What is in `after` and not in `before`, with the names that Debian compresses as
/// they are without that, and without where a link leads.
fn put_in_place(before: &[String], after: &[String]) -> BTreeSet<String> {
    let of_dpkg = [
        "/usr/share/doc/rblfilter/copyright",
        "/usr/share/doc/rblfilter/changelog.Debian.gz",
        "/usr/share/lintian",
        "/etc/systemd",
        "/var/lib/systemd",
    ];
    after
        .iter()
        .filter(|line| !before.contains(line))
        .filter(|line| !of_dpkg.iter().any(|path| line.starts_with(path)))
        .map(|line| {
            let mut words = line.split(' ');
            let path = words.next().unwrap_or_default();
            let rest: Vec<_> = words.take(3).collect();
            format!(
                "{} {}",
                path.strip_suffix(".gz").unwrap_or(path),
                rest.join(" ")
            )
        })
        .collect()
}

#[test]
fn the_package_and_install_sh_put_the_same_files_in_place() {
    let package = package();
    let debian = package.debian("files");
    let before = debian.tree();
    let said = debian.run_ok("/checkout/install.sh --no-start --prebuilt /programs");
    assert!(
        said.contains("installed /usr/lib/courier/filters/rblfilter\n"),
        "{said}"
    );
    let by_script = put_in_place(&before, &debian.tree());
    debian.run_ok("/checkout/install.sh --uninstall && rm /etc/courier/filters/rblfilter.toml");
    let left = put_in_place(&before, &debian.tree());
    assert!(left.iter().all(|line| line.contains(" d ")), "{left:?}");

    // In an image that is being made, there is no firewall to change.
    debian.run_ok("printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d && chmod 755 /usr/sbin/policy-rc.d");
    let policy = |line: &String| !line.starts_with("/usr/sbin/policy-rc.d");
    debian.run_ok(&format!("dpkg -i {}", package.name()));
    assert_eq!(debian.run_ok("ipset list -n"), "");
    let mut by_package = put_in_place(&before, &debian.tree());
    by_package.retain(policy);
    let different: Vec<_> = by_package.symmetric_difference(&by_script).collect();
    assert!(different.is_empty(), "in one of them alone: {different:#?}");
    assert!(by_package.len() > 30, "{by_package:?}");
    let output = debian.run("/checkout/install.sh --no-start --prebuilt /programs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("as a Debian package here"),
        "{said}"
    );
}

#[test]
fn lintian_has_nothing_to_say_of_the_package() {
    let package = package();
    let output = Command::new("lintian")
        .args(["--fail-on", "error,warning", "--allow-root"])
        .arg(&package.file)
        .output()
        .expect("lintian");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && said.is_empty(),
        "{said}{output:?}"
    );
    let version = dpkg_deb(&["--field", package.file.to_str().unwrap(), "Version"]);
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let changelog = fs::read_to_string(top.join("courierfilter/debian/changelog")).unwrap();
    let first = format!("rblfilter ({}) ", version.trim());
    assert!(
        changelog.starts_with(&first),
        "courierfilter/debian/changelog: {first}"
    );
    assert_eq!(version.trim(), format!("{}-1", env!("CARGO_PKG_VERSION")));
}
