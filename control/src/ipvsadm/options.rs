//! The options of ipvsadm 1.31, which of them go together, and ours beside
//! them.

use super::popt::{Arg, Spec};

/// The commands, in the order of [`COMMAND_OPTIONS`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verb {
    AddService,
    EditService,
    DeleteService,
    Flush,
    List,
    AddServer,
    DeleteServer,
    EditServer,
    Set,
    StartDaemon,
    StopDaemon,
    Restore,
    Save,
    Zero,
    AddLocal,
    DeleteLocal,
    GetLocal,
    Help,
    Version,
}

impl Verb {
    /// Its name in messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Verb::AddService => "add-service",
            Verb::EditService => "edit-service",
            Verb::DeleteService => "delete-service",
            Verb::Flush => "flush",
            Verb::List => "list",
            Verb::AddServer => "add-server",
            Verb::DeleteServer => "delete-server",
            Verb::EditServer => "edit-server",
            Verb::Set => "set",
            Verb::StartDaemon => "start-daemon",
            Verb::StopDaemon => "stop-daemon",
            Verb::Restore => "restore",
            Verb::Save => "save",
            Verb::Zero => "zero",
            Verb::AddLocal => "add-laddr",
            Verb::DeleteLocal => "del-laddr",
            Verb::GetLocal => "get-laddr",
            Verb::Help => "help",
            Verb::Version => "version",
        }
    }
}

/// What options are known by in messages and in the tables below, whose
/// columns are in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Kind {
    Numeric,
    Connection,
    Service,
    Scheduler,
    Persistent,
    Netmask,
    Server,
    Forward,
    Weight,
    Upper,
    Lower,
    McastInterface,
    Timeout,
    Daemon,
    Stats,
    Rate,
    Thresholds,
    PersistentConn,
    NoSort,
    SyncId,
    Exact,
    Ops,
    Engine,
    SchedulerFlags,
    McastGroup,
    McastPort,
    McastTtl,
    SyncMaxLength,
    TunInfo,
    TunType,
    TunPort,
    TunNoCsum,
    TunCsum,
    TunRemCsum,
    LocalAddress,
    Json,
}

/// Names of [`Kind`]s, in order.
pub(super) const KIND_NAMES: [&str; 36] = [
    "numeric",
    "connection",
    "service-address",
    "scheduler",
    "persistent",
    "netmask",
    "real-server",
    "forwarding-method",
    "weight",
    "u-threshold",
    "l-threshold",
    "mcast-interface",
    "timeout",
    "daemon",
    "stats",
    "rate",
    "thresholds",
    "persistent-conn",
    "nosort",
    "syncid",
    "exact",
    "ops",
    "pe",
    "sched-flags",
    "mcast-group",
    "mcast-port",
    "mcast-ttl",
    "sync-maxlen",
    "tun-info",
    "tun-type",
    "tun-port",
    "tun-nocsum",
    "tun-csum",
    "tun-remcsum",
    "local-address",
    "json",
];

/// A set of [`Kind`]s.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Kinds(u64);

impl Kinds {
    pub(super) fn has(self, kind: Kind) -> bool {
        self.0 & (1 << kind as u8) != 0
    }

    pub(super) fn has_any(self, kinds: &[Kind]) -> bool {
        kinds.iter().any(|kind| self.has(*kind))
    }

    /// False when it was there already.
    pub(super) fn insert(&mut self, kind: Kind) -> bool {
        let fresh = !self.has(kind);
        self.0 |= 1 << kind as u8;
        fresh
    }
}

/// A column for each [`Kind`]: `x` is illegal, `+` is needed, of those with
/// `1` there may be one, and all else is free.
#[rustfmt::skip]
fn command_options(verb: Verb) -> &'static [u8; 36] {
    match verb {
        //                     nct s sched  r fwd wxy mc td st rt th pc ns si ex ops pe b  mcast tun            z j
        Verb::AddService | Verb::EditService =>
            b"xx+   xxxxxxxxxxxxxxx   xxxxxxxxxxxx",
        Verb::DeleteService =>
            b"xx+xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        Verb::List =>
            b" 11xxxxxxxxx11       xxxxxxx xxxxxx ",
        Verb::AddServer | Verb::EditServer =>
            b"xx+xxx+    xxxxxxxxxxxxxxxxxx     xx",
        Verb::DeleteServer =>
            b"xx+xxx+xxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        Verb::StartDaemon =>
            b"xxxxxxxxxxx xxxxxxx xxxx    xxxxxxxx",
        Verb::StopDaemon =>
            b"xxxxxxxxxxxxxxxxxxx xxxxxxxxxxxxxxxx",
        Verb::Save =>
            b" xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        Verb::Zero =>
            b"xx xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        Verb::AddLocal | Verb::DeleteLocal =>
            b"xx+xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx+x",
        Verb::GetLocal =>
            b" x xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx ",
        Verb::Flush | Verb::Set | Verb::Restore | Verb::Help | Verb::Version =>
            b"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    }
}

/// Tunnel types, and the same for the five options from [`Kind::TunType`] on.
pub(super) const TUNNEL_OPTIONS: [(&str, &[u8; 5]); 3] =
    [("ipip", b" xxxx"), ("gue", b" +111"), ("gre", b" x11x")];

/// The message for options that do not go with a command.
pub(super) fn check_command(verb: Verb, given: Kinds) -> Result<(), String> {
    check(command_options(verb), 0, given, verb.name(), "command")
}

/// The message for options that do not go with a tunnel type.
pub(super) fn check_tunnel(name: &str, columns: &[u8; 5], given: Kinds) -> Result<(), String> {
    check(columns, Kind::TunType as u8, given, name, "tunnel type")
}

fn check(columns: &[u8], first: u8, given: Kinds, owner: &str, what: &str) -> Result<(), String> {
    let mut only = None;
    for (index, column) in (first..).zip(columns) {
        let name = KIND_NAMES[usize::from(index)];
        let is_given = given.0 & (1 << index) != 0;
        match (column, is_given, only) {
            (b'+', false, _) => {
                return Err(format!("You need to supply the '{name}' option for the '{owner}' {what}"));
            }
            (b'x', true, _) => return Err(format!("Illegal '{name}' option with the '{owner}' {what}")),
            (b'1', true, None) => only = Some(name),
            (b'1', true, Some(other)) => {
                return Err(format!(
                    "The option '{name}' conflicts with the '{other}' option in the '{owner}' {what}"
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// What an option on the command line is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Id {
    Verb(Verb),
    Tcp,
    Udp,
    Sctp,
    Mark,
    Nat,
    FullNat,
    Dr,
    Tun,
    Ipv6,
    Sort,
    Socket,
    /// All others
    Kind(Kind),
}

const fn spec(long: &'static str, short: Option<char>, arg: Arg, id: Id) -> Spec<Id> {
    Spec { long, short, arg, id }
}

/// All options. `-b` is the one whose meaning depends on the command.
pub(super) fn specs(verb: Option<Verb>) -> Vec<Spec<Id>> {
    use Arg::{Flag, Optional, Required};
    use Id::{Kind as K, Verb as V};
    let server_command = matches!(verb, Some(Verb::AddServer | Verb::EditServer));
    let (flags_b, fullnat_b) = if server_command { (None, Some('b')) } else { (Some('b'), None) };
    vec![
        spec("add-service", Some('A'), Flag, V(Verb::AddService)),
        spec("edit-service", Some('E'), Flag, V(Verb::EditService)),
        spec("delete-service", Some('D'), Flag, V(Verb::DeleteService)),
        spec("clear", Some('C'), Flag, V(Verb::Flush)),
        spec("list", Some('L'), Flag, V(Verb::List)),
        spec("list", Some('l'), Flag, V(Verb::List)),
        spec("zero", Some('Z'), Flag, V(Verb::Zero)),
        spec("add-server", Some('a'), Flag, V(Verb::AddServer)),
        spec("edit-server", Some('e'), Flag, V(Verb::EditServer)),
        spec("delete-server", Some('d'), Flag, V(Verb::DeleteServer)),
        spec("set", None, Flag, V(Verb::Set)),
        spec("help", Some('h'), Flag, V(Verb::Help)),
        spec("version", Some('v'), Flag, V(Verb::Version)),
        spec("restore", Some('R'), Flag, V(Verb::Restore)),
        spec("save", Some('S'), Flag, V(Verb::Save)),
        spec("start-daemon", None, Required, V(Verb::StartDaemon)),
        spec("stop-daemon", None, Required, V(Verb::StopDaemon)),
        spec("add-laddr", Some('P'), Flag, V(Verb::AddLocal)),
        spec("del-laddr", Some('Q'), Flag, V(Verb::DeleteLocal)),
        spec("get-laddr", Some('G'), Flag, V(Verb::GetLocal)),
        spec("tcp-service", Some('t'), Required, Id::Tcp),
        spec("udp-service", Some('u'), Required, Id::Udp),
        spec("sctp-service", None, Required, Id::Sctp),
        spec("fwmark-service", Some('f'), Required, Id::Mark),
        spec("scheduler", Some('s'), Required, K(Kind::Scheduler)),
        spec("persistent", Some('p'), Optional, K(Kind::Persistent)),
        spec("netmask", Some('M'), Required, K(Kind::Netmask)),
        spec("real-server", Some('r'), Required, K(Kind::Server)),
        spec("masquerading", Some('m'), Flag, Id::Nat),
        spec("ipip", Some('i'), Flag, Id::Tun),
        spec("gatewaying", Some('g'), Flag, Id::Dr),
        spec("fullnat", fullnat_b, Flag, Id::FullNat),
        spec("weight", Some('w'), Required, K(Kind::Weight)),
        spec("u-threshold", Some('x'), Required, K(Kind::Upper)),
        spec("l-threshold", Some('y'), Required, K(Kind::Lower)),
        spec("numeric", Some('n'), Flag, K(Kind::Numeric)),
        spec("connection", Some('c'), Flag, K(Kind::Connection)),
        spec("mcast-interface", None, Required, K(Kind::McastInterface)),
        spec("syncid", None, Required, K(Kind::SyncId)),
        spec("timeout", None, Flag, K(Kind::Timeout)),
        spec("daemon", None, Flag, K(Kind::Daemon)),
        spec("stats", None, Flag, K(Kind::Stats)),
        spec("rate", None, Flag, K(Kind::Rate)),
        spec("thresholds", None, Flag, K(Kind::Thresholds)),
        spec("persistent-conn", None, Flag, K(Kind::PersistentConn)),
        spec("nosort", None, Flag, K(Kind::NoSort)),
        spec("sort", None, Flag, Id::Sort),
        spec("exact", Some('X'), Flag, K(Kind::Exact)),
        spec("ipv6", Some('6'), Flag, Id::Ipv6),
        spec("ops", Some('o'), Flag, K(Kind::Ops)),
        spec("pe", None, Required, K(Kind::Engine)),
        spec("sched-flags", flags_b, Required, K(Kind::SchedulerFlags)),
        spec("mcast-group", None, Required, K(Kind::McastGroup)),
        spec("mcast-port", None, Required, K(Kind::McastPort)),
        spec("mcast-ttl", None, Required, K(Kind::McastTtl)),
        spec("sync-maxlen", None, Required, K(Kind::SyncMaxLength)),
        spec("tun-info", None, Flag, K(Kind::TunInfo)),
        spec("tun-type", None, Required, K(Kind::TunType)),
        spec("tun-port", None, Required, K(Kind::TunPort)),
        spec("tun-nocsum", None, Flag, K(Kind::TunNoCsum)),
        spec("tun-csum", None, Flag, K(Kind::TunCsum)),
        spec("tun-remcsum", None, Flag, K(Kind::TunRemCsum)),
        spec("local-address", Some('z'), Required, K(Kind::LocalAddress)),
        spec("json", None, Flag, K(Kind::Json)),
        spec("socket", None, Required, Id::Socket),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_kinds_are_in_the_same_order() {
        assert_eq!(KIND_NAMES[Kind::Service as usize], "service-address");
        assert_eq!(KIND_NAMES[Kind::NoSort as usize], "nosort");
        assert_eq!(KIND_NAMES[Kind::TunType as usize], "tun-type");
        assert_eq!(KIND_NAMES[Kind::Json as usize], "json");
    }

    #[test]
    fn short_names_are_unambiguous() {
        for verb in [None, Some(Verb::AddServer), Some(Verb::List)] {
            let mut shorts: Vec<_> = specs(verb).iter().filter_map(|spec| spec.short).collect();
            let count = shorts.len();
            shorts.sort_unstable();
            shorts.dedup();
            assert_eq!(shorts.len(), count);
        }
    }
}
