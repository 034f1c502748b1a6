# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_rblfilter_global_optspecs
    string join \n c/config= h/help V/version
end

function __fish_rblfilter_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_rblfilter_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_rblfilter_using_subcommand
    set -l cmd (__fish_rblfilter_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c rblfilter -n "__fish_rblfilter_needs_command" -s c -l config -d 'The configuration file [default: filters/rblfilter.toml in Courier\'s configuration folder]' -r -F
complete -c rblfilter -n "__fish_rblfilter_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c rblfilter -n "__fish_rblfilter_needs_command" -s V -l version -d 'Print version'
complete -c rblfilter -n "__fish_rblfilter_needs_command" -f -a "config" -d 'Check the configuration file'
complete -c rblfilter -n "__fish_rblfilter_needs_command" -f -a "lookup" -d 'What the DNS lists say of an address, and what would follow'
complete -c rblfilter -n "__fish_rblfilter_needs_command" -f -a "report" -d 'What a mail log tells of connections, slots, refusals, bans and waves'
complete -c rblfilter -n "__fish_rblfilter_needs_command" -f -a "firewall" -d 'Show, set up, check or remove the kernel\'s sets of banned addresses and the rules that use them'
complete -c rblfilter -n "__fish_rblfilter_needs_command" -f -a "why" -d 'What became of a client or a message, why, and what to do if that is wrong'
complete -c rblfilter -n "__fish_rblfilter_needs_command" -f -a "status" -d 'How the running filter is'
complete -c rblfilter -n "__fish_rblfilter_needs_command" -f -a "top" -d 'The running filter, live, on the whole screen'
complete -c rblfilter -n "__fish_rblfilter_needs_command" -f -a "doctor" -d 'Check everything that makes the filter useless or dangerous'
complete -c rblfilter -n "__fish_rblfilter_needs_command" -f -a "list" -d 'Who is banned, and who is let in by hand'
complete -c rblfilter -n "__fish_rblfilter_needs_command" -f -a "ban" -d 'Shut an address or a network out'
complete -c rblfilter -n "__fish_rblfilter_needs_command" -f -a "unban" -d 'End bans, and let the addresses in for a while'
complete -c rblfilter -n "__fish_rblfilter_needs_command" -f -a "allow" -d 'Let an address or a network in for a while'
complete -c rblfilter -n "__fish_rblfilter_needs_command" -f -a "forget" -d 'Delete all that is kept of an address or a network'
complete -c rblfilter -n "__fish_rblfilter_needs_command" -f -a "reload" -d 'Put the configuration into service as it is now'
complete -c rblfilter -n "__fish_rblfilter_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand config; and not __fish_seen_subcommand_from check help" -s c -l config -d 'The configuration file [default: filters/rblfilter.toml in Courier\'s configuration folder]' -r -F
complete -c rblfilter -n "__fish_rblfilter_using_subcommand config; and not __fish_seen_subcommand_from check help" -s h -l help -d 'Print help'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand config; and not __fish_seen_subcommand_from check help" -f -a "check" -d 'Check the file; say what is wrong, with its line, or what it does'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand config; and not __fish_seen_subcommand_from check help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand config; and __fish_seen_subcommand_from check" -s c -l config -d 'The configuration file [default: filters/rblfilter.toml in Courier\'s configuration folder]' -r -F
complete -c rblfilter -n "__fish_rblfilter_using_subcommand config; and __fish_seen_subcommand_from check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand config; and __fish_seen_subcommand_from help" -f -a "check" -d 'Check the file; say what is wrong, with its line, or what it does'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand config; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand lookup" -s f -l file -d 'Read addresses from this file, one a line' -r -F
complete -c rblfilter -n "__fish_rblfilter_using_subcommand lookup" -s c -l config -d 'The configuration file [default: filters/rblfilter.toml in Courier\'s configuration folder]' -r -F
complete -c rblfilter -n "__fish_rblfilter_using_subcommand lookup" -l json -d 'Print one JSON object a line'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand lookup" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand report" -l journal-directory -d 'Read the journal in this folder' -r -F
complete -c rblfilter -n "__fish_rblfilter_using_subcommand report" -l since -d 'From then on: a time (2026-11-24T09:00:00Z, "2026-11-24 09:00", 2026-11-24), local where it names no zone, or so long ago (2h, "1day 6h")' -r
complete -c rblfilter -n "__fish_rblfilter_using_subcommand report" -l until -d 'Before then' -r
complete -c rblfilter -n "__fish_rblfilter_using_subcommand report" -l hold -d 'How long a session counts after its last line, as Courier logs no end of most; 10m at most' -r
complete -c rblfilter -n "__fish_rblfilter_using_subcommand report" -l html -d 'Write a page with charts to this file, too, that needs no script and no network; "-" is standard output' -r -F
complete -c rblfilter -n "__fish_rblfilter_using_subcommand report" -l csv -d 'Print one table as CSV; without a name, the first of these' -r -f -a "time\t'The counts over time'
refusals\t'Refusals by list or reply'
networks\t'The networks with the most connections'
waves\t'Waves'
candidates\t'Refused clients that may be legitimate'"
complete -c rblfilter -n "__fish_rblfilter_using_subcommand report" -s c -l config -d 'The configuration file [default: filters/rblfilter.toml in Courier\'s configuration folder]' -r -F
complete -c rblfilter -n "__fish_rblfilter_using_subcommand report" -l journal -d 'Read the journal'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand report" -l anonymise -d 'Cut addresses down to networks (/24, /48) and domains to their last part'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand report" -l json -d 'Print all numbers as JSON'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand report" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand firewall; and not __fish_seen_subcommand_from show apply remove check help" -s c -l config -d 'The configuration file [default: filters/rblfilter.toml in Courier\'s configuration folder]' -r -F
complete -c rblfilter -n "__fish_rblfilter_using_subcommand firewall; and not __fish_seen_subcommand_from show apply remove check help" -s h -l help -d 'Print help'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand firewall; and not __fish_seen_subcommand_from show apply remove check help" -f -a "show" -d 'Print the commands that set up the sets and rules, and run none'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand firewall; and not __fish_seen_subcommand_from show apply remove check help" -f -a "apply" -d 'Create the sets and the rules where they are missing'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand firewall; and not __fish_seen_subcommand_from show apply remove check help" -f -a "remove" -d 'Remove the rules and the sets; their bans are forgotten'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand firewall; and not __fish_seen_subcommand_from show apply remove check help" -f -a "check" -d 'Say whether the sets and the rules are as the configuration wants them'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand firewall; and not __fish_seen_subcommand_from show apply remove check help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand firewall; and __fish_seen_subcommand_from show" -s c -l config -d 'The configuration file [default: filters/rblfilter.toml in Courier\'s configuration folder]' -r -F
complete -c rblfilter -n "__fish_rblfilter_using_subcommand firewall; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand firewall; and __fish_seen_subcommand_from apply" -s c -l config -d 'The configuration file [default: filters/rblfilter.toml in Courier\'s configuration folder]' -r -F
complete -c rblfilter -n "__fish_rblfilter_using_subcommand firewall; and __fish_seen_subcommand_from apply" -l sets -d 'The sets alone, as a firewall that is restored at boot needs them'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand firewall; and __fish_seen_subcommand_from apply" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand firewall; and __fish_seen_subcommand_from remove" -s c -l config -d 'The configuration file [default: filters/rblfilter.toml in Courier\'s configuration folder]' -r -F
complete -c rblfilter -n "__fish_rblfilter_using_subcommand firewall; and __fish_seen_subcommand_from remove" -s h -l help -d 'Print help'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand firewall; and __fish_seen_subcommand_from check" -s c -l config -d 'The configuration file [default: filters/rblfilter.toml in Courier\'s configuration folder]' -r -F
complete -c rblfilter -n "__fish_rblfilter_using_subcommand firewall; and __fish_seen_subcommand_from check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand firewall; and __fish_seen_subcommand_from help" -f -a "show" -d 'Print the commands that set up the sets and rules, and run none'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand firewall; and __fish_seen_subcommand_from help" -f -a "apply" -d 'Create the sets and the rules where they are missing'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand firewall; and __fish_seen_subcommand_from help" -f -a "remove" -d 'Remove the rules and the sets; their bans are forgotten'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand firewall; and __fish_seen_subcommand_from help" -f -a "check" -d 'Say whether the sets and the rules are as the configuration wants them'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand firewall; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand why" -l log -d 'Logs to read [default: the last 30 days of the usual one]' -r -F
complete -c rblfilter -n "__fish_rblfilter_using_subcommand why" -l since -d 'Read the log from then on: "2026-11-24 09:00", or so long ago: 2h' -r
complete -c rblfilter -n "__fish_rblfilter_using_subcommand why" -s c -l config -d 'The configuration file [default: filters/rblfilter.toml in Courier\'s configuration folder]' -r -F
complete -c rblfilter -n "__fish_rblfilter_using_subcommand why" -l journal -d 'Read the journal'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand why" -l no-lookup -d 'Do not ask the lists what they say now'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand why" -l all -d 'Tell every line that is kept of the log, not the last 40 alone'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand why" -l json -d 'Print one JSON object'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand why" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand status" -s w -l watch -d 'Tell it again every so many seconds: in place on a terminal, else one after the other [default: 2]' -r
complete -c rblfilter -n "__fish_rblfilter_using_subcommand status" -s c -l config -d 'The configuration file [default: filters/rblfilter.toml in Courier\'s configuration folder]' -r -F
complete -c rblfilter -n "__fish_rblfilter_using_subcommand status" -l json -d 'Print one JSON object (its names: docs/status.md)'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand status" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand top" -s c -l config -d 'The configuration file [default: filters/rblfilter.toml in Courier\'s configuration folder]' -r -F
complete -c rblfilter -n "__fish_rblfilter_using_subcommand top" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand doctor" -l only -d 'Make these checks alone' -r -f -a "courier-missing\t''
filter-missing\t''
filter-not-active\t''
courierfilter-stopped\t''
filter-ended\t''
old-program-runs\t''
program-writable\t''
warden-missing\t''
warden-incapable\t''
warden-nosuid\t''
no-new-privileges\t''
capability-bounded\t''
state-folder\t''
filter-socket\t''
boot-rules\t''
esmtp-not-filtered\t''
port-not-served\t''
esmtpd-not-restarted\t''
logins-on-judged-port\t''
courier-drops\t''
courier-looks-up\t''
zone-asked-twice\t''
verdict-unread\t''
block-refuses-postmaster\t''
reverse-lookups\t''
one-client-fills-slots\t''
few-slots\t''
behind-proxy\t''
mx-not-exempt\t''
other-filters\t''
config-wrong\t''
config-note\t''
key-readable\t''
submission-judged\t''
observing\t''
dry-run\t''
watch-off\t''
guard-off\t''
no-verdict\t''
no-resolver\t''
nameserver-silent\t''
public-resolver\t''
zone-down\t''
ipv6-unjudged\t''
firewall-wrong\t''
filter-silent\t''
degraded\t''
watch-polls\t''
sandbox-thin\t''
proc-hidden\t''
kernel-old\t''
clock-unsynchronised\t''
clock-jumped\t''
log-missing\t''
memory-limit\t''
open-files\t''
disk-full\t''"
complete -c rblfilter -n "__fish_rblfilter_using_subcommand doctor" -l ignore -d 'Leave these checks out, as known and accepted' -r -f -a "courier-missing\t''
filter-missing\t''
filter-not-active\t''
courierfilter-stopped\t''
filter-ended\t''
old-program-runs\t''
program-writable\t''
warden-missing\t''
warden-incapable\t''
warden-nosuid\t''
no-new-privileges\t''
capability-bounded\t''
state-folder\t''
filter-socket\t''
boot-rules\t''
esmtp-not-filtered\t''
port-not-served\t''
esmtpd-not-restarted\t''
logins-on-judged-port\t''
courier-drops\t''
courier-looks-up\t''
zone-asked-twice\t''
verdict-unread\t''
block-refuses-postmaster\t''
reverse-lookups\t''
one-client-fills-slots\t''
few-slots\t''
behind-proxy\t''
mx-not-exempt\t''
other-filters\t''
config-wrong\t''
config-note\t''
key-readable\t''
submission-judged\t''
observing\t''
dry-run\t''
watch-off\t''
guard-off\t''
no-verdict\t''
no-resolver\t''
nameserver-silent\t''
public-resolver\t''
zone-down\t''
ipv6-unjudged\t''
firewall-wrong\t''
filter-silent\t''
degraded\t''
watch-polls\t''
sandbox-thin\t''
proc-hidden\t''
kernel-old\t''
clock-unsynchronised\t''
clock-jumped\t''
log-missing\t''
memory-limit\t''
open-files\t''
disk-full\t''"
complete -c rblfilter -n "__fish_rblfilter_using_subcommand doctor" -s c -l config -d 'The configuration file [default: filters/rblfilter.toml in Courier\'s configuration folder]' -r -F
complete -c rblfilter -n "__fish_rblfilter_using_subcommand doctor" -l json -d 'Print one JSON object; the checks\' ids stay the same from version to version'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand doctor" -s q -l quiet -d 'Tell only what is wrong, and nothing where nothing is'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand doctor" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand list" -s c -l config -d 'The configuration file [default: filters/rblfilter.toml in Courier\'s configuration folder]' -r -F
complete -c rblfilter -n "__fish_rblfilter_using_subcommand list" -l json -d 'Print one JSON object a line'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand list" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand ban" -l for -d 'For how long [default: the configuration\'s ban.max-time]' -r
complete -c rblfilter -n "__fish_rblfilter_using_subcommand ban" -l reason -d 'Why, for whoever reads the list or the log' -r
complete -c rblfilter -n "__fish_rblfilter_using_subcommand ban" -s c -l config -d 'The configuration file [default: filters/rblfilter.toml in Courier\'s configuration folder]' -r -F
complete -c rblfilter -n "__fish_rblfilter_using_subcommand ban" -l force -d 'Ban it although it is allowlisted, or let in by hand; this is remembered over a restart'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand ban" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand unban" -l for -d 'For how long they are let in; "0s": not at all' -r
complete -c rblfilter -n "__fish_rblfilter_using_subcommand unban" -s c -l config -d 'The configuration file [default: filters/rblfilter.toml in Courier\'s configuration folder]' -r -F
complete -c rblfilter -n "__fish_rblfilter_using_subcommand unban" -l all -d 'End all bans; nobody is let in whatever the lists say'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand unban" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand allow" -l for -d 'For how long; "0s" ends it' -r
complete -c rblfilter -n "__fish_rblfilter_using_subcommand allow" -s c -l config -d 'The configuration file [default: filters/rblfilter.toml in Courier\'s configuration folder]' -r -F
complete -c rblfilter -n "__fish_rblfilter_using_subcommand allow" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand forget" -s c -l config -d 'The configuration file [default: filters/rblfilter.toml in Courier\'s configuration folder]' -r -F
complete -c rblfilter -n "__fish_rblfilter_using_subcommand forget" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand reload" -s c -l config -d 'The configuration file [default: filters/rblfilter.toml in Courier\'s configuration folder]' -r -F
complete -c rblfilter -n "__fish_rblfilter_using_subcommand reload" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand help; and not __fish_seen_subcommand_from config lookup report firewall why status top doctor list ban unban allow forget reload help" -f -a "config" -d 'Check the configuration file'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand help; and not __fish_seen_subcommand_from config lookup report firewall why status top doctor list ban unban allow forget reload help" -f -a "lookup" -d 'What the DNS lists say of an address, and what would follow'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand help; and not __fish_seen_subcommand_from config lookup report firewall why status top doctor list ban unban allow forget reload help" -f -a "report" -d 'What a mail log tells of connections, slots, refusals, bans and waves'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand help; and not __fish_seen_subcommand_from config lookup report firewall why status top doctor list ban unban allow forget reload help" -f -a "firewall" -d 'Show, set up, check or remove the kernel\'s sets of banned addresses and the rules that use them'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand help; and not __fish_seen_subcommand_from config lookup report firewall why status top doctor list ban unban allow forget reload help" -f -a "why" -d 'What became of a client or a message, why, and what to do if that is wrong'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand help; and not __fish_seen_subcommand_from config lookup report firewall why status top doctor list ban unban allow forget reload help" -f -a "status" -d 'How the running filter is'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand help; and not __fish_seen_subcommand_from config lookup report firewall why status top doctor list ban unban allow forget reload help" -f -a "top" -d 'The running filter, live, on the whole screen'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand help; and not __fish_seen_subcommand_from config lookup report firewall why status top doctor list ban unban allow forget reload help" -f -a "doctor" -d 'Check everything that makes the filter useless or dangerous'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand help; and not __fish_seen_subcommand_from config lookup report firewall why status top doctor list ban unban allow forget reload help" -f -a "list" -d 'Who is banned, and who is let in by hand'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand help; and not __fish_seen_subcommand_from config lookup report firewall why status top doctor list ban unban allow forget reload help" -f -a "ban" -d 'Shut an address or a network out'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand help; and not __fish_seen_subcommand_from config lookup report firewall why status top doctor list ban unban allow forget reload help" -f -a "unban" -d 'End bans, and let the addresses in for a while'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand help; and not __fish_seen_subcommand_from config lookup report firewall why status top doctor list ban unban allow forget reload help" -f -a "allow" -d 'Let an address or a network in for a while'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand help; and not __fish_seen_subcommand_from config lookup report firewall why status top doctor list ban unban allow forget reload help" -f -a "forget" -d 'Delete all that is kept of an address or a network'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand help; and not __fish_seen_subcommand_from config lookup report firewall why status top doctor list ban unban allow forget reload help" -f -a "reload" -d 'Put the configuration into service as it is now'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand help; and not __fish_seen_subcommand_from config lookup report firewall why status top doctor list ban unban allow forget reload help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand help; and __fish_seen_subcommand_from config" -f -a "check" -d 'Check the file; say what is wrong, with its line, or what it does'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand help; and __fish_seen_subcommand_from firewall" -f -a "show" -d 'Print the commands that set up the sets and rules, and run none'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand help; and __fish_seen_subcommand_from firewall" -f -a "apply" -d 'Create the sets and the rules where they are missing'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand help; and __fish_seen_subcommand_from firewall" -f -a "remove" -d 'Remove the rules and the sets; their bans are forgotten'
complete -c rblfilter -n "__fish_rblfilter_using_subcommand help; and __fish_seen_subcommand_from firewall" -f -a "check" -d 'Say whether the sets and the rules are as the configuration wants them'
