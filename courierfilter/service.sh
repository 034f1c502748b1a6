# shellcheck shell=bash disable=SC2317
# Where a Courier host has what belongs to rblfilter, and how a filter that runs is
# looked at, stopped, and replaced without a gap. install.sh and the Debian
# package's scripts read this file. The caller defines say, by which it tells of
# what it changes.

read_courier_paths() {
    courier() { courier-config | sed -n "s/^$1=//p" | sed "s|\${prefix}|$prefix|"; }
    prefix=$(courier-config | sed -n 's/^prefix=//p')
    sysconfdir=$(courier sysconfdir) localstatedir=$(courier localstatedir)
    libexecdir=$(courier libexecdir) sbindir=$(courier sbindir)
    mailuser=$(courier mailuser) mailgroup=$(courier mailgroup)
    filter=$libexecdir/filters/rblfilter
    warden=$libexecdir/rblfilter-warden
    # shellcheck disable=SC2034 # the caller reads it
    config=$sysconfdir/filters/rblfilter.toml
    active=$sysconfdir/filters/active/rblfilter
    command=$sbindir/rblfilter
    state=$localstatedir/rblfilter
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
        [ "$SECONDS" -lt "$end" ] || return 1
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
no_old_program_runs() { ! old_program_runs; }

filterctl() { "$libexecdir/filterctl" "$@"; }

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

# A socket that nobody listens at holds up all mail.
remove_dead_sockets() {
    local socket
    ! filter_runs || return 0
    for socket in "$localstatedir"/{allfilters,filters}/{,.}rblfilter; do
        [ ! -S "$socket" ] || rm -f "$socket"
    done
}

# Puts the programs that are installed now into service without a gap; where the
# ones that run cannot do that, by a stop, in which mail goes on without the
# filter. To start it again is the caller's.
upgrade_filter() {
    local said
    if said=$("$command" reload 2>&1) && wait_until 45 no_old_program_runs; then
        say "put the new version into service without a gap (rblfilter reload)"
    else
        echo "  the new version does not take over by itself (${said##*rblfilter: }): stopping and starting"
        stop_filter_if_it_ends
    fi
}

has_capability() { setcap -q -v cap_net_admin=p "$warden" >/dev/null 2>&1; }

give_capability() {
    ! has_capability || return 0
    if setcap cap_net_admin=p "$warden"; then
        say "gave $warden the file capability cap_net_admin=p"
    else
        echo "warning: cannot give $warden its file capability: nobody will be banned" >&2
    fi
}

# What the lists said, from one start to the next. Courier's user owns the folder
# that it is in, so a link may stand there: as root we would follow it.
make_state() {
    if [ -L "$state" ]; then
        echo "$state is a link, not a folder: look where it leads, and remove it" >&2
        return 1
    fi
    if [ ! -d "$state" ] || [ "$(stat -c '%a %U:%G' "$state")" != "750 $mailuser:$mailgroup" ]; then
        if ! runuser -u "$mailuser" -g "$mailgroup" -- install -d -m 0750 "$state"; then
            echo "cannot make $state as user $mailuser: it must be that user's own, mode 0750" >&2
            return 1
        fi
        say "made $state"
    fi
}
