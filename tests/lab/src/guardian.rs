//! What makes sure that nothing outlives a lab in the machine's own pid namespace.
//!
//! The guardian is a small `sh` in the lab's mount namespace. It waits for the end of file on its descriptor 0, whose
//! other end this process alone holds: it comes when the lab is dropped, and also when this process is killed. Then it
//! kills, by pid, whatever is in its own mount namespace, until nothing else is. It never looks at anything but the
//! mount namespace, which is the lab's alone, so no other process can be hit.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use crate::Error;
use crate::command::PATH;

/// No program is started while it looks and kills: `-ef` compares the namespaces (device and inode), `kill` and `read`
/// are built in, so the list holds none of its own children. The owner is spared while it is the parent: a thread of
/// it is in the mount namespace, perhaps the first one. A zombie has no namespace any more.
///
/// Its descriptor 2 is the machine's lock, which so is free only when all is gone. `$1` is the lab's cgroup, or empty.
const GUARDIAN: &str = r#"
trap '' HUP INT QUIT TERM PIPE
owner=$PPID
echo ready
exec >/dev/null
while read -r line; do :; done
found=yes
while [ -n "$found" ]; do
    found=
    while read -r key value; do [ "$key" != PPid: ] || parent=$value; done </proc/$$/status
    for proc in /proc/[0-9]*; do
        pid=${proc#/proc/}
        [ "$pid" != $$ ] || continue
        [ "$pid" != "$owner" ] || [ "$parent" != "$owner" ] || continue
        [ "$proc/ns/mnt" -ef /proc/$$/ns/mnt ] || continue
        kill -s KILL "$pid" 2>/dev/null && found=yes
    done
done
[ -n "$1" ] || exit 0
for try in 1 2 3 4 5 6 7 8 9 10; do
    rmdir "$1"/* "$1" 2>/dev/null
    [ -d "$1" ] || exit 0
    sleep 0.1
done
"#;

/// Starts it in the calling thread's mount namespace. Closing the child's stdin sets it to work.
pub(crate) fn start(lock: &File, cgroup: &str) -> Result<Child, Error> {
    let failed = |e| Error::io("start", "the lab's guardian", e);
    let mut guardian = Command::new("/bin/sh")
        .args(["-c", GUARDIAN, "guardian", cgroup])
        .env_clear()
        .env("PATH", PATH)
        .current_dir("/")
        // A Ctrl-C ends the lab's owner, and it is then that the guardian is needed.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(lock.try_clone().map_err(failed)?)
        .spawn()
        .map_err(failed)?;
    let mut line = String::new();
    if let Some(stdout) = guardian.stdout.take() {
        let _ = BufReader::new(stdout).read_line(&mut line);
    }
    if line == "ready\n" {
        return Ok(guardian);
    }
    drop(guardian.stdin.take());
    let _ = guardian.kill();
    let _ = guardian.wait();
    Err(Error::Command {
        program: "the lab's guardian".into(),
        text: format!("it said {line:?}, not that it is ready"),
    })
}
