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
    mailgroup=$(courier mailgroup)
    filter=$libexecdir/filters/rblfilter
    warden=$libexecdir/rblfilter-warden
    config=$sysconfdir/filters/rblfilter.toml
    active=$sysconfdir/filters/active/rblfilter
    command=$sbindir/rblfilter
    unit=/etc/systemd/system/rblfilter-firewall.service
    man=$prefix/share/man
}

build() {
    need_build_tools
    echo "building (cargo build --release --locked) …"
    (
        cd "$top"
        # Courier's own paths, where they are not Debian's.
        export COURIER_SYSCONFDIR=$sysconfdir COURIER_LOCALSTATEDIR=$localstatedir COURIER_LIBEXECDIR=$libexecdir COURIER_SBINDIR=$sbindir
        cargo build --quiet --release --locked "$@"
    )
    prebuilt=${CARGO_TARGET_DIR:-$top/target}/release
}

# --- installing ---------------------------------------------------------------

# put FILE PLACE MODE OWNER:GROUP: puts FILE there unless it is there already.
# By rename, so that a running program keeps its file.
put() {
    local file=$1 place=$2 mode=$3 owner=$4
    if cmp -s "$file" "$place" && [ "$(stat -c '%a %U:%G' "$place")" = "${mode#0} $owner" ]; then
        return 1
    fi
    mkdir -p "$(dirname "$place")"
    install -m "$mode" -o "${owner%:*}" -g "${owner#*:}" "$file" "$place.new"
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

filter_pids() {
    local exe
    for exe in /proc/[0-9]*/exe; do
        case $(readlink "$exe" 2>/dev/null) in
        "$filter" | "$filter (deleted)") basename "$(dirname "$exe")" ;;
        esac
    done
}

no_filter_runs() { [ -z "$(filter_pids)" ]; }

filterctl() { "$libexecdir/filterctl" "$@"; }

# firewall apply|remove: says each thing that the command did.
firewall() {
    local line output code=0
    output=$("$command" firewall "$1") || code=$?
    while IFS= read -r line; do
        [ -z "$line" ] || say "$line"
    done <<<"$output"
    return $code
}

stop_filter() {
    [ -L "$active" ] || return 0
    filterctl stop rblfilter
    wait_until 15 no_filter_runs || fail "rblfilter does not stop; see the mail log"
    say "stopped the filter (filterctl stop rblfilter)"
}

do_install() {
    need_courier
    need_firewall_tools
    read_courier_paths
    [ -n "$prebuilt" ] || build -p rblfilter -p rblfilter-warden
    for program in rblfilter rblfilter-warden; do
        [ -x "$prebuilt/$program" ] || fail "$prebuilt/$program is missing"
    done

    local restart=no sample
    put "$prebuilt/rblfilter" "$filter" 0755 root:root && restart=yes
    put "$prebuilt/rblfilter-warden" "$warden" 0750 "root:$mailgroup" && restart=yes
    if ! setcap -q -v cap_net_admin=p "$warden" >/dev/null 2>&1; then
        if setcap cap_net_admin=p "$warden"; then
            say "gave $warden the file capability cap_net_admin=p"
        else
            echo "warning: cannot give $warden its file capability: nobody will be banned" >&2
        fi
        restart=yes
    fi
    if [ "$(readlink "$command" 2>/dev/null)" != "$filter" ]; then
        ln -sfn "$filter" "$command"
        say "linked $command to it"
    fi
    put "$top/courierfilter/rblfilter.8" "$man/man8/rblfilter.8" 0644 root:root || true
    put "$top/courierfilter/rblfilter.toml.5" "$man/man5/rblfilter.toml.5" 0644 root:root || true

    sample=$(mktemp)
    # shellcheck disable=SC2064
    trap "rm -f '$sample'" EXIT
    if [ -e "$config" ]; then
        echo "  kept $config"
        [ $observe = no ] || echo "  note: --observe changes no configuration that is there; its mode stays as it is"
    else
        sed "s/^mode = .*/mode = \"$([ $observe = yes ] && echo observe || echo enforce)\"/" \
            "$top/courierfilter/rblfilter.toml" >"$sample"
        put "$sample" "$config" 0640 "root:$mailgroup"
    fi
    "$command" config check >/dev/null || fail "the configuration is wrong; nothing was started"

    sed "s|@SBINDIR@|$sbindir|" "$top/courierfilter/rblfilter-firewall.service" >"$sample"
    if put "$sample" "$unit" 0644 root:root; then
        if command -v systemctl >/dev/null; then
            [ ! -d /run/systemd/system ] || systemctl daemon-reload
            systemctl --quiet enable rblfilter-firewall.service
            say "enabled rblfilter-firewall.service, which sets the firewall up at boot"
        else
            echo "warning: no systemd here: run '$command firewall apply' at boot by other means" >&2
        fi
    fi
    firewall apply || echo "warning: rblfilter firewall apply failed: sessions end, but nobody is banned" >&2

    grep -qw esmtp "$sysconfdir/enablefiltering" 2>/dev/null ||
        echo "warning: $sysconfdir/enablefiltering does not name esmtp: Courier asks no filter" >&2
    [ $start = yes ] || { finish; return; }
    [ $restart = no ] || stop_filter
    if [ ! -L "$active" ]; then
        filterctl start rblfilter
        say "started the filter (filterctl start rblfilter)"
    fi
    if courierfilter_runs; then
        wait_until 10 socket_exists || fail "the filter has no socket after 10 s; see the mail log"
        echo "  the filter is running; its log: journalctl -t rblfilter, or grep rblfilter /var/log/mail.log"
    else
        echo "  courierfilter is not running: the filter starts with it (service courierfilter start)"
    fi
    finish
}

finish() {
    if [ $changes = 0 ]; then echo "nothing to change"; else echo "done"; fi
}

do_uninstall() {
    need_courier
    read_courier_paths
    stop_filter
    if [ -x "$command" ] && [ -e "$config" ]; then
        firewall remove || echo "warning: rblfilter firewall remove failed" >&2
    fi
    if [ -e $unit ]; then
        ! command -v systemctl >/dev/null || systemctl --quiet disable rblfilter-firewall.service || true
    fi
    local path
    for path in "$unit" "$command" "$warden" "$filter" "$man/man8/rblfilter.8" "$man/man5/rblfilter.toml.5"; do
        if [ -e "$path" ] || [ -L "$path" ]; then
            rm -f "$path"
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
    [ -n "$prebuilt" ] || build --workspace
    exec "$prebuilt/lab" demo --install "$top/install.sh" --programs "$prebuilt"
}

case $action in
install) do_install ;;
uninstall) do_uninstall ;;
demo) do_demo ;;
esac
