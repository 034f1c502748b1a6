//! A Debian 12 of its own, with Courier: made once by mmdebstrap, and from then on the
//! read-only layer below what a test writes, in private namespaces.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rblfilter_lab::wait_for;

use crate::LIMIT;

/// What a Courier host has that the package does not ask for.
const HOST: &str = "courier-mta,courier-authlib-userdb";
/// The questions of Courier's packages.
const ANSWERS: &str = "courier-base courier-base/webadmin-configmode boolean false
courier-mta courier-mta/defaultdomain string localhost
courier-mta courier-mta/dsnfrom string mailer@localhost";

/// Mounts everything, and is then pid 1 of the new system.
const INIT: &str = r#"set -e
mount -t tmpfs -o mode=755 tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"
mount -t proc proc proc
mount -t tmpfs -o mode=755 tmpfs run
mkdir -m 1777 run/lock
chroot . install -d -o courier -g courier -m 775 /run/courier
chroot . install -d -o courier -g courier -m 750 /run/courier/authdaemon
mount -t tmpfs -o mode=755 tmpfs dev
for node in null zero full random urandom tty; do
    touch dev/$node
    mount --bind /dev/$node dev/$node
done
mkdir -m 1777 dev/shm
ln -s /proc/self/fd dev/fd
mkdir checkout programs packages
mount --bind -o ro "$3" checkout
mount --bind -o ro "$4" programs
mount --bind -o ro "$5" packages
ip link set lo up
exec chroot . /bin/bash -c 'echo ready; exec >/dev/null; sleep infinity & while :; do wait; done'"#;

/// One such system; it ends with this value.
pub struct Debian {
    /// unshare(1), whose end is the end of all.
    unshare: Child,
    /// Its pid 1, as we see it.
    init: u32,
    place: PathBuf,
}

impl Debian {
    /// Starts one that sees `programs` and `packages` under these names in its root,
    /// and the checkout; `depends` are the packages that ours asks for.
    pub fn start(name: &str, depends: &str, programs: &Path, packages: &Path) -> Self {
        let root = root(depends);
        let place = scratch().join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&place).unwrap();
        let mut unshare = Command::new("unshare")
            .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--"])
            .args(["bash", "-c", INIT, "init"])
            .args([
                &place,
                &root,
                Path::new(env!("CARGO_MANIFEST_DIR")),
                programs,
                packages,
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut said = BufReader::new(unshare.stdout.take().unwrap());
        said.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "the namespaces of {name}");
        let children = format!("/proc/{0}/task/{0}/children", unshare.id());
        let init = fs::read_to_string(children)
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        Self {
            unshare,
            init,
            place,
        }
    }

    /// Runs a script of bash in it.
    pub fn run(&self, script: &str) -> Output {
        Command::new("nsenter")
            .args(["--target", &self.init.to_string()])
            .args(["--mount", "--net", "--pid", "--root", "--wdns=/", "--"])
            .args([
                "env",
                "-i",
                "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
                "HOME=/root",
            ])
            .args(["DEBIAN_FRONTEND=noninteractive", "timeout", "120"])
            .args(["bash", "-c", script])
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs a script that is to succeed; what it wrote, to standard error too.
    pub fn run_ok(&self, script: &str) -> String {
        let output = self.run(&format!("{{ {script}\n}} 2>&1"));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{script}: {}: {said}",
            output.status
        );
        said
    }

    /// Waits until a script succeeds.
    pub fn wait(&self, script: &str) {
        if wait_for(LIMIT, || self.run(script).status.success().then_some(())).is_none() {
            let processes = self.run_ok("cat /proc/[0-9]*/comm || true");
            panic!("{script}: {:?}; {processes:?}", self.run(script));
        }
    }

    /// Every file and folder, with type, mode, owner, and where a link leads, but
    /// for what changes by itself, and what dpkg keeps of all packages.
    pub fn tree(&self) -> Vec<String> {
        let find = r"find / -xdev \( -path /checkout -o -path /programs -o -path /packages -o -path /proc \
            -o -path /dev -o -path /run -o -path /tmp -o -path /root -o -path /home -o -path /var/log \
            -o -path /var/cache -o -path /var/lib/dpkg -o -path /var/lib/courier/tmp \
            -o -path /var/lib/courier/msgs -o -path /var/lib/courier/msgq -o -path /var/lib/courier/track \) \
            -prune -o -printf '%p %y %m %u:%g %l\n' | sort";
        self.run_ok(find).lines().map(String::from).collect()
    }
}

impl Drop for Debian {
    fn drop(&mut self) {
        // Its child, pid 1, is killed with it, and all others with that.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        let _ = fs::remove_dir(&self.place);
    }
}

/// Where tests keep things from one run to the next.
pub fn scratch() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}

/// The system that all of them begin as.
fn root(depends: &str) -> PathBuf {
    let names = depends
        .split(", ")
        .map(|dependency| dependency.split(' ').next().unwrap());
    let include = [HOST]
        .into_iter()
        .chain(names)
        .collect::<Vec<_>>()
        .join(",");
    let folder = scratch().join("debian-12");
    let made_of = scratch().join("debian-12.packages");
    // One at a time makes it.
    let lock = File::create(scratch().join("debian-12.lock")).unwrap();
    lock.lock().unwrap();
    if fs::read_to_string(&made_of).is_ok_and(|there| there == include) {
        return folder;
    }
    let _ = fs::remove_file(&made_of);
    if folder.exists() {
        fs::remove_dir_all(&folder).unwrap();
    }
    let hook = format!("printf '%s\\n' '{ANSWERS}' | chroot \"$1\" debconf-set-selections");
    let output = Command::new("mmdebstrap")
        .args(["--mode=root", "--variant=essential", "--format=directory"])
        .arg(format!("--include={include}"))
        .arg("--aptopt=APT::Install-Recommends \"false\"")
        .arg("--dpkgopt=force-unsafe-io")
        .arg(format!("--essential-hook={hook}"))
        .args([Path::new("bookworm"), &folder])
        .stdin(Stdio::null())
        .output()
        .expect("mmdebstrap");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let mut file = File::create(&made_of).unwrap();
    file.write_all(include.as_bytes()).unwrap();
    folder
}
