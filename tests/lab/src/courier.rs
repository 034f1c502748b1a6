//! Courier's configuration and its start, in the order of Debian's units.
//!
//! The configuration is the machine's, made predictable: what an admin may have added (filters, aliases, access lists,
//! users) is taken out, and what the lab needs is written last, where it wins.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use crate::command::Command;
use crate::endpoints::{Endpoints, is_listening};
use crate::namespaces::Namespaces;
use crate::{Config, Error, wait_for};

/// Courier's spool.
pub(crate) const SPOOL: &str = "/var/lib/courier";
/// The password of [`crate::USER`].
pub(crate) const PASSWORD: &str = "secret";
const PASSWORD_MD5: &str = "$1$evixP.tM$hf5yua5jx1c.fPcv3M515/";
const ETC: &str = "/etc/courier";
const HOME: &str = "/run/lab/alice";
const UID: u32 = 5000;
/// Far above what one machine can start in the time that a lab takes.
const LIMIT: Duration = Duration::from_secs(20);

/// The compilers of the tables do not depend on each other.
const TABLES: &str = "set --
for table in makesmtpaccess makeacceptmailfor makealiases makeuserdb 'maildirmake /run/lab/alice/Maildir'; do
    $table & set -- \"$@\" $!
done
for pid; do wait \"$pid\" || exit 1; done";

/// Writes the configuration and compiles its tables.
pub(crate) fn configure(spaces: &Rc<Namespaces>, config: &Config) -> Result<(), Error> {
    for folder in [
        "filters/active",
        "smtpaccess",
        "aliases",
        "esmtpacceptmailfor.dir",
        "hosteddomains",
    ] {
        empty(&format!("{ETC}/{folder}"))?;
    }
    for (name, text) in [
        ("me", "lab.test\n".to_owned()),
        ("defaultdomain", "lab.test\n".to_owned()),
        (
            "dsnfrom",
            "\"Courier of the lab\" <postmaster@lab.test>\n".to_owned(),
        ),
        ("locals", "lab.test\nlocalhost\n".to_owned()),
        ("esmtpacceptmailfor.dir/lab", "lab.test\n".to_owned()),
        ("smtpaccess/default", lines(&config.smtp_access)),
        ("aliases/system", aliases(config)),
        ("userdb", users()),
    ] {
        let path = format!("{ETC}/{name}");
        fs::write(&path, text).map_err(|e| Error::io("write", &path, e))?;
    }
    for name in ["userdb", "aliases/system"] {
        let path = format!("{ETC}/{name}");
        fs::set_permissions(&path, Permissions::from_mode(0o600))
            .map_err(|e| Error::io("chmod", &path, e))?;
    }
    append("authdaemonrc", "authmodulelist=\"authuserdb\"\n")?;
    append("esmtpd", &esmtpd(config))?;
    append("esmtpd-msa", &esmtpd_msa(config))?;
    append("courierd", &lines(&config.courierd))?;

    fs::create_dir(HOME).map_err(|e| Error::io("make", HOME, e))?;
    chown(HOME, Some(UID), Some(UID)).map_err(|e| Error::io("chown", HOME, e))?;
    run(spaces, &["sh", "-c", TABLES])?;
    run(spaces, &["chown", "-R", &format!("{UID}:{UID}"), HOME])
}

/// Starts every daemon and waits for what each one opens.
pub(crate) fn start(spaces: &Rc<Namespaces>, config: &Config) -> Result<(), Error> {
    run(spaces, &["authdaemond", "start"])?;
    exists("/run/courier/authdaemon/socket")?;
    run(spaces, &["courierfilter", "start"])?;
    exists("/run/courier/courierfilter.pid")?;
    run(spaces, &["courier", "start"])?;
    exists("/var/lib/courier/tmp/trigger")?;
    let ports = Endpoints::of(config.spaces);
    esmtpd_start(spaces, ports)?;
    if config.msa {
        run(spaces, &["esmtpd-msa", "start"])?;
        listens(ports.msa)?;
    }
    Ok(())
}

/// Starts the daemon of port 25 and waits for its port.
pub(crate) fn esmtpd_start(spaces: &Rc<Namespaces>, ports: Endpoints) -> Result<(), Error> {
    run(spaces, &["esmtpd", "start"])?;
    listens(ports.smtp)
}

/// Stops the daemon of port 25 and waits until nothing listens there. Sessions go on.
pub(crate) fn esmtpd_stop(spaces: &Rc<Namespaces>, ports: Endpoints) -> Result<(), Error> {
    run(spaces, &["esmtpd", "stop"])?;
    wait(&format!("the end of port {}", ports.smtp), || {
        !is_listening(ports.smtp)
    })
}

/// Appends to a file below /etc/courier.
pub(crate) fn append(name: &str, text: &str) -> Result<(), Error> {
    let path = format!("{ETC}/{name}");
    let file = OpenOptions::new().append(true).create(true).open(&path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|e| Error::io("write", &path, e))
}

/// The files below a folder, recursively, sorted. What vanishes meanwhile is left out.
pub(crate) fn files_below(folder: impl AsRef<Path>) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files.extend(files_below(entry.path())),
            Ok(_) => files.push(entry.path()),
            Err(_) => {}
        }
    }
    files.sort();
    files
}

pub(crate) fn run(spaces: &Rc<Namespaces>, words: &[&str]) -> Result<(), Error> {
    let program = if words.contains(&"-c") {
        "one of the makers of Courier's tables".to_owned()
    } else {
        words.join(" ")
    };
    let output = Command::new(spaces, words.first().copied().unwrap_or_default())
        .args(words.iter().skip(1))
        .current_dir("/")
        .output()
        .map_err(|e| Error::io("run", &program, e))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(Error::command(&program, &output))
    }
}

fn esmtpd(config: &Config) -> String {
    let ports = Endpoints::of(config.spaces);
    let mut text = format!(
        "\n# The lab's.\nPORT={}\nBOFHCHECKDNS=0\nMAXDAEMONS={}\nMAXPERC=100000\nMAXPERIP=100000\nTARPIT={}\nBLACKLISTS={}\n\
         DROP={}\nESMTPAUTH={}\nESMTPAUTH_TLS={}\n",
        ports.listen(ports.smtp),
        config.max_daemons,
        u8::from(config.tarpit),
        quoted(&config.blacklists),
        quoted(&config.drop),
        quoted(&config.esmtp_auth),
        quoted(&config.esmtp_auth_tls),
    );
    if !config.tcpd_options.is_empty() {
        text.push_str(&format!(
            "TCPDOPTS=\"$TCPDOPTS \"{}\n",
            quoted(&config.tcpd_options)
        ));
    }
    text + &lines(&config.esmtpd)
}

fn esmtpd_msa(config: &Config) -> String {
    let ports = Endpoints::of(config.spaces);
    format!(
        "\n# The lab's.\nPORT={}\nBOFHCHECKDNS=0\nMAXDAEMONS={}\nMAXPERC=100000\nMAXPERIP=100000\nBLACKLISTS=\nDROP=\n\
         AUTH_REQUIRED={}\nESMTPAUTH=\"PLAIN LOGIN\"\n",
        ports.listen(ports.msa),
        config.max_daemons,
        u8::from(config.msa_auth_required),
    )
}

/// With and without the domain: Courier takes a local domain off before it looks a recipient up, a login keeps it.
fn users() -> String {
    let fields =
        format!("uid={UID}|gid={UID}|home={HOME}|mail={HOME}/Maildir|systempw={PASSWORD_MD5}");
    format!("alice@lab.test\t{fields}\nalice\t{fields}\n")
}

fn aliases(config: &Config) -> String {
    let mut text = String::new();
    for name in ["postmaster", "abuse", "root", "mailer-daemon", "uucp"] {
        text.push_str(&format!("{name}: alice@lab.test\n"));
    }
    text + &lines(&config.aliases)
}

fn lines(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

fn empty(folder: &str) -> Result<(), Error> {
    let failed = |e| Error::io("empty", folder, e);
    match fs::read_dir(folder) {
        Ok(entries) => entries
            .into_iter()
            .try_for_each(|entry| {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    fs::remove_dir_all(entry.path())
                } else {
                    fs::remove_file(entry.path())
                }
            })
            .map_err(failed),
        Err(_) => fs::create_dir_all(folder).map_err(failed),
    }
}

fn exists(path: &str) -> Result<(), Error> {
    wait(&path, || Path::new(path).exists())
}

fn listens(port: u16) -> Result<(), Error> {
    wait(&format!("a listener on port {port}"), || is_listening(port))
}

fn wait(what: &dyn ToString, mut test: impl FnMut() -> bool) -> Result<(), Error> {
    wait_for(LIMIT, || test().then_some(())).ok_or_else(|| Error::Timeout {
        what: what.to_string(),
        limit: LIMIT,
    })
}
