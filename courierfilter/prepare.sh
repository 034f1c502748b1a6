# shellcheck shell=bash
# What a build, an installation and the tests need on a machine; install.sh,
# tests/run.sh and the continuous integration read this file. Where apt-get
# exists, missing packages are installed, and no installed one is removed (a
# machine has one mail server); where it does not, the message says what is
# missing. The caller sets $top, the checkout.
: "${top:?}"

fail() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

# apt_install PACKAGE…: those that are missing. Services do not start by
# themselves: --demo must not leave a mail server running.
apt_install() {
    local missing=() package
    for package in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || fail "there is no apt-get here to install Debian's packages: ${missing[*]}"
    echo "installing packages: ${missing[*]}"
    # In a subshell, whose end, be it by Ctrl-C, takes the policy away again.
    (
        policy=/usr/sbin/policy-rc.d
        log=$(mktemp)
        trap 'rm -f "$log"' EXIT
        if [ ! -e $policy ]; then
            trap 'rm -f "$log" $policy' EXIT
            printf '#!/bin/sh\nexit 101\n' >$policy
            chmod 0755 $policy
        fi
        trap 'exit 130' INT TERM
        if ! {
            apt-get update -qq &&
                DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends --no-remove "${missing[@]}"
        } >"$log" 2>&1; then
            tail -n 20 "$log" >&2
            fail "apt-get install ${missing[*]} failed"
        fi
    )
}

# need COMMAND PACKAGE…: has apt-get install the packages where the command is missing.
need() {
    local command=$1
    shift
    command -v "$command" >/dev/null && return 0
    command -v apt-get >/dev/null || fail "$command is missing, and there is no apt-get here to install it (in Debian's packages: $*)"
    apt_install "$@"
    command -v "$command" >/dev/null || fail "$command is still missing after apt-get install $*"
}

wanted_rust=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$top/Cargo.toml" | head -n 1)

rust_is_recent() {
    command -v cargo >/dev/null && command -v rustc >/dev/null || return 1
    local have
    have=$(rustc --version | cut -d ' ' -f 2)
    [ "$(printf '%s\n' "$wanted_rust" "$have" | sort -V | head -n 1)" = "$wanted_rust" ]
}

need_build_tools() {
    # sudo takes away the PATH that rustup set.
    local home
    for home in "$HOME" "$(getent passwd "${SUDO_USER:-root}" | cut -d : -f 6)"; do
        rust_is_recent && break
        [ -x "$home/.cargo/bin/cargo" ] && PATH=$home/.cargo/bin:$PATH
    done
    if ! rust_is_recent; then
        command -v apt-get >/dev/null || fail "Rust $wanted_rust or later is missing, and there is no apt-get here to install it"
        apt_install rustc-web cargo-web
        rust_is_recent || fail "apt-get has no Rust $wanted_rust or later; install it with rustup (https://rustup.rs)"
    fi
    need cc gcc libc6-dev
    if command -v apt-get >/dev/null; then
        apt_install libipset-dev libclang-dev
    else
        echo "note: the build needs the headers of libipset, and libclang" >&2
    fi
}

need_courier() {
    command -v courier-config >/dev/null ||
        fail "courier-config is missing: install Courier first (Debian: apt-get install courier-mta)"
}

need_firewall_tools() {
    need ipset ipset
    need iptables iptables
    need setcap libcap2-bin
}

# cargo_tool NAME: a subcommand of cargo, from crates.io.
cargo_tool() {
    command -v "cargo-$1" >/dev/null || cargo install --quiet --locked "cargo-$1"
}

# All that the tests run, beside what they test: a lab, a Debian of their own, the
# shells that complete the commands, what looks at the manual pages.
need_tests() {
    need_build_tools
    need_lab
    cargo_tool deb
    need lintian lintian
    need mmdebstrap mmdebstrap
    need zsh zsh
    need fish fish
    need mandoc mandoc
    need script bsdutils
    # What docs/logging.md has recipes for.
    need rsyslogd rsyslog
    need logrotate logrotate
    need /lib/systemd/systemd-journal-remote systemd-journal-remote
    need fail2ban-regex fail2ban
}

# A Courier that is configured and does not run, and what the lab puts around it.
need_lab() {
    if ! command -v courier-config >/dev/null; then
        need debconf-set-selections debconf
        debconf-set-selections <<'DEBCONF'
courier-base courier-base/webadmin-configmode boolean false
courier-mta courier-mta/defaultdomain string localhost
courier-mta courier-mta/dsnfrom string mailer@localhost
DEBCONF
        need courier-config courier-mta
    fi
    need_firewall_tools
    need ip iproute2
    need nft nftables
    need rbldnsd rbldnsd
    need unbound unbound
    need makeuserdb courier-authlib-userdb
    need openssl openssl
    need faketime faketime
    need prlimit util-linux
    need_promtool
}

# promtool, which says whether Prometheus can read what it is told: out of Debian's
# package, of which the server itself is not installed.
need_promtool() {
    command -v promtool >/dev/null && return 0
    command -v apt-get >/dev/null || fail "promtool is missing, and there is no apt-get here to get it (in Debian's package: prometheus)"
    echo "extracting promtool from the package prometheus"
    # In a subshell, whose end takes the folder away.
    (
        folder=$(mktemp -d)
        trap 'rm -rf "$folder"' EXIT
        # apt-get reads as a user of its own.
        chmod 0755 "$folder"
        cd "$folder"
        apt-get update -qq &&
            apt-get download -qq prometheus &&
            dpkg-deb -x prometheus_*.deb extracted &&
            install -m 0755 extracted/usr/bin/promtool /usr/local/bin/promtool
    ) >/dev/null 2>&1 || fail "promtool could not be had from the package prometheus"
}
