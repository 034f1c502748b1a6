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
# shellcheck source=courierfilter/service.sh
. "$top/courierfilter/service.sh"

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

# SOURCE PLACE MODE of each file that goes with the programs: those of the Debian
# package (Cargo.toml), save what is dpkg's alone, in the places where this Courier
# has them.
files() {
    sed -n '/^assets = \[/,/^\]/s|^ *\["\([^"]*\)", "\([^"]*\)", "\([0-7]*\)"\],.*|\1 \2 \3|p' "$top/Cargo.toml" |
        while read -r source place mode; do
            case $source in target/* | courierfilter/debian/*) continue ;; esac
            case $place in
            usr/share/zsh/vendor-completions/*)
                # Where zsh looks on other systems.
                [ -e /etc/debian_version ] || place=usr/share/zsh/site-functions/_rblfilter
                ;;
            esac
            for file in "$top"/$source; do
                case $place in */) echo "$file $prefix/${place#usr/}$(basename "$file") $mode" ;;
                *) echo "$file $prefix/${place#usr/} $mode" ;; esac
            done
        done
}

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

enable_units() {
    local unit
    for unit in rblfilter-sets rblfilter-firewall; do
        if ! command -v systemctl >/dev/null; then
            echo "warning: no systemd here: run '$command firewall apply' at boot by other means" >&2
        elif ! systemctl --quiet is-enabled $unit.service 2>/dev/null; then
            systemctl --quiet enable $unit.service && say "enabled $unit.service, for the next boot"
        fi
    done
}

install_files() {
    local file place mode text
    text=$(mktemp)
    while read -r file place mode; do
        case $place in
        *.service)
            sed "s|/usr/sbin/|$sbindir/|" "$file" >"$text"
            file=$text
            ;;
        esac
        put "$file" "$place" "0$mode" root:root || continue
        case $place in *.service) [ ! -d /run/systemd/system ] || systemctl daemon-reload ;; esac
    done < <(files)
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

# Its files are dpkg's.
no_package() {
    ! dpkg-query --search "$filter" >/dev/null 2>&1 ||
        fail "rblfilter is installed as a Debian package here: see to that with apt-get, or apt-get remove rblfilter first"
}

do_install() {
    need_courier
    need_firewall_tools
    read_courier_paths
    no_package
    [ -n "$prebuilt" ] || build
    local program
    for program in rblfilter rblfilter-warden; do
        [ -x "$prebuilt/$program" ] || fail "$prebuilt/$program is missing"
    done
    install_config
    ! grep -q '^backend = "nftables"' "$config" || need nft nftables
    "$prebuilt/rblfilter" --config "$config" config check >/dev/null ||
        fail "the configuration is wrong; mend $config first (no program was changed)"

    make_state || fail "without it, nothing is kept from one start to the next"
    if put "$prebuilt/rblfilter-warden" "$warden" 0750 "root:$mailgroup" cap_net_admin=p; then
        ! has_capability || say "gave $warden the file capability cap_net_admin=p"
    fi
    give_capability
    put "$prebuilt/rblfilter" "$filter" 0755 root:root || true
    if [ "$(readlink "$command" 2>/dev/null)" != "$filter" ]; then
        ln -sfn "$filter" "$command"
        say "linked $command to it"
    fi
    install_files
    enable_units
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
    no_package
    stop_filter ||
        fail "the filter still runs (processes $(pids "$filter" | xargs)), and what it runs is not taken away: nothing was removed; see the mail log, end them (kill), then run this again"
    if [ -x "$command" ]; then
        firewall remove || fail "rules or sets are left; remove them, then run this again (nothing else was removed)"
    fi
    remove_dead_sockets
    local path unit
    for unit in rblfilter-sets rblfilter-firewall; do
        [ ! -e "$prefix/lib/systemd/system/$unit.service" ] || ! command -v systemctl >/dev/null ||
            systemctl --quiet disable $unit.service || true
    done
    while read -r path; do
        if [ -e "$path" ] || [ -L "$path" ]; then
            rm -f "$path"
            say "removed $path"
        fi
    done < <(printf '%s\n' "$command" "$warden" "$filter"; files | cut -d ' ' -f 2)
    for path in "$prefix/share/doc/rblfilter" "$prefix/share/rblfilter" "$state"; do
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
