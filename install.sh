#!/usr/bin/env bash
# Builds rblfilter and puts it into service on a Courier host; says what it changes.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: sudo ./install.sh [--observe] [--no-start] [--prebuilt DIR]
       sudo ./install.sh --demo
       sudo ./install.sh --uninstall

  (nothing)       build, install, set up the firewall, filterctl start rblfilter
  --observe       a new configuration says mode = "observe": decide and log alone
  --no-start      install, but leave the filter as it is
  --prebuilt DIR  take rblfilter and rblfilter-warden from DIR, do not build
  --demo          show rblfilter at work on a real Courier in private
                  namespaces; this machine's Courier is not touched
  --uninstall     stop and remove it; the configuration stays
USAGE
}

top=$(cd "$(dirname "$0")" && pwd)
action=install observe=no start=yes prebuilt=
changes=0
# shellcheck source=courierfilter/prepare.sh
. "$top/courierfilter/prepare.sh"

say() { echo "  $*"; changes=$((changes + 1)); }

while [ $# -gt 0 ]; do
    case $1 in
    --observe) observe=yes ;;
    --no-start) start=no ;;
    --prebuilt) [ $# -gt 1 ] || fail "--prebuilt needs a folder"; prebuilt=$2; shift ;;
    --demo) action=demo ;;
    --uninstall) action=uninstall ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 64 ;;
    esac
    shift
done
[ "$(id -u)" = 0 ] || fail "must run as root (sudo $0 …)"

read_courier_paths() {
    courier() { courier-config | sed -n "s/^$1=//p" | sed "s|\${prefix}|$prefix|"; }
    prefix=$(courier-config | sed -n 's/^prefix=//p')
    sysconfdir=$(courier sysconfdir) localstatedir=$(courier localstatedir)
    libexecdir=$(courier libexecdir) sbindir=$(courier sbindir)
    mailuser=$(courier mailuser) mailgroup=$(courier mailgroup)
    filter=$libexecdir/filters/rblfilter
    warden=$libexecdir/rblfilter-warden
    config=$sysconfdir/filters/rblfilter.toml
    active=$sysconfdir/filters/active/rblfilter
    command=$sbindir/rblfilter
    state=$localstatedir/rblfilter
    units=/etc/systemd/system
    man=$prefix/share/man
    doc=$prefix/share/doc/rblfilter
}

build() {
    need_build_tools
    echo "building (cargo build --release --locked); the first time, this takes some minutes …"
    (
        cd "$top"
        # Courier's own paths, where they are not Debian's.
        differs() { [ "$2" = "$3" ] || export "$1=$2"; }
        differs COURIER_SYSCONFDIR "$sysconfdir" /etc/courier
        differs COURIER_LOCALSTATEDIR "$localstatedir" /var/lib/courier
        differs COURIER_LIBEXECDIR "$libexecdir" /usr/lib/courier
        differs COURIER_SBINDIR "$sbindir" /usr/sbin
        cargo build --release --locked --workspace
    )
    prebuilt=${CARGO_TARGET_DIR:-$top/target}/release
}

# --- installing ---------------------------------------------------------------

# put FILE PLACE MODE OWNER:GROUP [CAPABILITY]: puts FILE there unless it is there
# already. By rename, so that a running program keeps its file, and nobody starts
# one that is half there or lacks its capability.
put() {
    local file=$1 place=$2 mode=$3 owner=$4
    if cmp -s "$file" "$place" && [ "$(stat -c '%a %U:%G' "$place")" = "${mode#0} $owner" ]; then
        return 1
    fi
    mkdir -p "$(dirname "$place")"
    install -m "$mode" -o "${owner%:*}" -g "${owner#*:}" "$file" "$place.new"
    # Where it cannot be had, that is told once it is in its place.
    [ -z "${5-}" ] || setcap "$5" "$place.new" 2>/dev/null || true
    mv -f "$place.new" "$place"
    say "installed $place"
}

socket_exists() {
    [ -S "$localstatedir/allfilters/rblfilter" ] || [ -S "$localstatedir/filters/rblfilter" ]
}

# The one that runs now; a stale pid file or another process's number is none.
courierfilter_runs() {
    local pid
    pid=$(cat /run/courier/courierfilter.pid 2>/dev/null || cat /var/run/courier/courierfilter.pid 2>/dev/null) || return 1
    [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = courierfilter ]
}

# wait_until SECONDS COMMAND…
wait_until() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.05
    done
}

# pids PROGRAM…: the processes of Courier's user that run one of these, be it
# replaced since; in a container the same path is another file. (A command of an
# admin's is the same program, and no part of the filter.)
pids() {
    local exe program own uid
    own=$(readlink /proc/self/ns/mnt)
    uid=$(id -u "$mailuser")
    for exe in /proc/[0-9]*/exe; do
        [ "$(readlink "${exe%/exe}/ns/mnt" 2>/dev/null)" = "$own" ] || continue
        for program in "$@"; do
            case $(readlink "$exe" 2>/dev/null) in
            "$program" | "$program (deleted)")
                ! grep -q "^Uid:[[:space:]]*${uid}[[:space:]]" "${exe%/exe}/status" 2>/dev/null ||
                    basename "$(dirname "$exe")"
                ;;
            esac
        done
    done
}

filter_runs() { [ -n "$(pids "$filter")" ]; }
no_filter_runs() { ! filter_runs; }

# Whether a process still runs a program that was replaced.
old_program_runs() {
    local pid
    for pid in $(pids "$filter" "$warden"); do
        case $(readlink "/proc/$pid/exe" 2>/dev/null) in *" (deleted)") return 0 ;; esac
    done
    return 1
}

filterctl() { "$libexecdir/filterctl" "$@"; }

# firewall apply|remove: says each thing that the command did.
firewall() {
    local line output code=0
    # "nothing to change" goes to standard error; errors are kept.
    output=$("$command" firewall "$1" 2> >(grep -vx 'nothing to change' >&2)) || code=$?
    while IFS= read -r line; do
        [ -z "$line" ] || say "$line"
    done <<<"$output"
    return $code
}

# Stops the filter, and waits until all of it has ended; fails where it has not.
stop_filter() {
    local stopped=no
    if [ -L "$active" ]; then
        filterctl stop rblfilter
        stopped=yes
    fi
    # It answers what is open first.
    wait_until 45 no_filter_runs || return 1
    [ $stopped = no ] || say "stopped the filter (filterctl stop rblfilter)"
}

# Where the next one is to be started: it has a socket of its own.
stop_filter_if_it_ends() {
    stop_filter || echo "  a process of the filter that was stopped does not end ($(pids "$filter" | xargs)); see the mail log"
}

install_units() {
    local unit text
    text=$(mktemp)
    for unit in rblfilter-sets rblfilter-firewall; do
        sed "s|@SBINDIR@|$sbindir|" "$top/courierfilter/$unit.service" >"$text"
        if put "$text" "$units/$unit.service" 0644 root:root && [ -d /run/systemd/system ]; then
            systemctl daemon-reload
        fi
        if ! command -v systemctl >/dev/null; then
            echo "warning: no systemd here: run '$command firewall apply' at boot by other means" >&2
        elif ! systemctl --quiet is-enabled $unit.service 2>/dev/null; then
            systemctl --quiet enable $unit.service && say "enabled $unit.service, for the next boot"
        fi
    done
    rm -f "$text"
}

install_config() {
    if [ -e "$config" ]; then
        if [ "$(stat -c '%a %U:%G' "$config")" != "640 root:$mailgroup" ]; then
            chown "root:$mailgroup" "$config"
            chmod 0640 "$config"
            say "gave $config its owner root:$mailgroup and mode 0640"
        fi
        echo "  kept $config, $(grep -m 1 '^mode' "$config" || echo 'mode = "enforce"')"
        [ $observe = no ] || echo "  note: --observe changes no configuration that is there"
        return
    fi
    local text
    text=$(mktemp)
    sed "s/^mode = .*/mode = \"$([ $observe = yes ] && echo observe || echo enforce)\"/" \
        "$top/courierfilter/rblfilter.toml" >"$text"
    put "$text" "$config" 0640 "root:$mailgroup"
    rm -f "$text"
}

no_old_program_runs() { ! old_program_runs; }

has_capability() { setcap -q -v cap_net_admin=p "$warden" >/dev/null 2>&1; }

# Puts the programs that are installed now into service without a gap; where the
# ones that run cannot do that, by a stop and a start, in which mail goes on
# without the filter.
upgrade_filter() {
    local said
    if said=$("$command" reload 2>&1) && wait_until 45 no_old_program_runs; then
        say "put the new version into service without a gap (rblfilter reload)"
    else
        echo "  the new version does not take over by itself (${said##*rblfilter: }): stopping and starting"
        stop_filter_if_it_ends
    fi
}

start_filter() {
    ! old_program_runs || upgrade_filter
    if [ -L "$active" ] && courierfilter_runs && ! filter_runs; then
        echo "  the filter was started, but does not run"
        stop_filter_if_it_ends
    fi
    if [ ! -L "$active" ]; then
        filterctl start rblfilter
        say "started the filter (filterctl start rblfilter)"
    fi
    if ! courierfilter_runs; then
        echo "  courierfilter is not running: the filter starts with it (service courierfilter start)"
    elif wait_until 10 socket_exists && filter_runs; then
        echo "  the filter runs; its log: journalctl -t rblfilter, or grep rblfilter /var/log/mail.log"
    else
        fail "the filter does not run; see the mail log, then: filterctl stop rblfilter; $0"
    fi
}

do_install() {
    need_courier
    need_firewall_tools
    read_courier_paths
    [ -n "$prebuilt" ] || build
    local program page
    for program in rblfilter rblfilter-warden; do
        [ -x "$prebuilt/$program" ] || fail "$prebuilt/$program is missing"
    done
    install_config
    ! grep -q '^backend = "nftables"' "$config" || need nft nftables
    "$prebuilt/rblfilter" --config "$config" config check >/dev/null ||
        fail "the configuration is wrong; mend $config first (no program was changed)"

    # What the lists said, from one start to the next.
    # Courier's user owns the folder that it is in, so a link may stand there: as
    # root we would follow it.
    [ ! -L "$state" ] || fail "$state is a link, not a folder: look where it leads, and remove it"
    if [ ! -d "$state" ] || [ "$(stat -c '%a %U:%G' "$state")" != "750 $mailuser:$mailgroup" ]; then
        runuser -u "$mailuser" -g "$mailgroup" -- install -d -m 0750 "$state" ||
            fail "cannot make $state as user $mailuser: it must be that user's own, mode 0750"
        say "made $state"
    fi
    if put "$prebuilt/rblfilter-warden" "$warden" 0750 "root:$mailgroup" cap_net_admin=p; then
        ! has_capability || say "gave $warden the file capability cap_net_admin=p"
    fi
    if ! has_capability; then
        if setcap cap_net_admin=p "$warden"; then
            say "gave $warden the file capability cap_net_admin=p"
        else
            echo "warning: cannot give $warden its file capability: nobody will be banned" >&2
        fi
    fi
    put "$prebuilt/rblfilter" "$filter" 0755 root:root || true
    if [ "$(readlink "$command" 2>/dev/null)" != "$filter" ]; then
        ln -sfn "$filter" "$command"
        say "linked $command to it"
    fi
    put "$top/courierfilter/rblfilter.8" "$man/man8/rblfilter.8" 0644 root:root || true
    put "$top/courierfilter/rblfilter.toml.5" "$man/man5/rblfilter.toml.5" 0644 root:root || true
    for page in "$top"/README.md "$top"/CHANGELOG.md "$top"/docs/*.md; do
        put "$page" "$doc/$(basename "$page")" 0644 root:root || true
    done
    install_units
    firewall apply || echo "warning: the firewall is not as it should be; whom it lacks rules for, comes again" >&2

    grep -qw esmtp "$sysconfdir/enablefiltering" 2>/dev/null ||
        echo "warning: $sysconfdir/enablefiltering does not name esmtp: Courier asks no filter" >&2
    [ $start = no ] || start_filter
    finish
}

finish() {
    if [ $changes = 0 ]; then echo "nothing to change"; else echo "done"; fi
}

do_uninstall() {
    need_courier
    read_courier_paths
    stop_filter ||
        fail "the filter still runs (processes $(pids "$filter" | xargs)), and what it runs is not taken away: nothing was removed; see the mail log, end them (kill), then run this again"
    if [ -x "$command" ]; then
        firewall remove || fail "rules or sets are left; remove them, then run this again (nothing else was removed)"
    fi
    local path unit
    for unit in rblfilter-sets rblfilter-firewall; do
        [ ! -e "$units/$unit.service" ] || ! command -v systemctl >/dev/null ||
            systemctl --quiet disable $unit.service || true
    done
    for path in "$units/rblfilter-sets.service" "$units/rblfilter-firewall.service" "$command" "$warden" "$filter" \
        "$man/man8/rblfilter.8" "$man/man5/rblfilter.toml.5"; do
        if [ -e "$path" ] || [ -L "$path" ]; then
            rm -f "$path"
            say "removed $path"
        fi
    done
    for path in "$doc" "$state"; do
        if [ -d "$path" ]; then
            rm -rf "$path"
            say "removed $path"
        fi
    done
    [ ! -d /run/systemd/system ] || systemctl daemon-reload
    [ ! -e "$config" ] || echo "  kept $config"
    finish
}

do_demo() {
    need_lab
    read_courier_paths
    [ -n "$prebuilt" ] || build
    exec "$prebuilt/lab" demo --install "$top/install.sh" --programs "$prebuilt"
}

case $action in
install) do_install ;;
uninstall) do_uninstall ;;
demo) do_demo ;;
esac
