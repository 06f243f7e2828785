//! Metrics of workers, interfaces, other directors, and the process.

use std::fmt;
use std::fs;
use std::time::UNIX_EPOCH;

use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Unit;
use sluice_dataplane::stats::{Counter, DropReason, WorkerCounters};

use super::daemon;
use super::family::Family;
use crate::observe::{Observatory, PeerState};

pub(super) fn encode(observatory: &Observatory, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    Family::new("build_info", "Version of the program; the value is always 1.")
        .gauges(encoder, [([("version", env!("CARGO_PKG_VERSION"))], 1_u64)])?;
    let started = observatory.started().duration_since(UNIX_EPOCH).unwrap_or_default();
    Family::with_unit("start_time", "When the director started, since 1970.", Unit::Seconds)
        .gauge(encoder, started.as_secs_f64())?;
    Family::new("table_generation", "Number of the newest table of services.")
        .gauge(encoder, observatory.services().generation())?;
    encode_workers(observatory, encoder)?;
    encode_drops(observatory, encoder)?;
    encode_interfaces(observatory, encoder)?;
    encode_peers(observatory, encoder)?;
    daemon::encode(observatory.lvs(), encoder)?;
    let counts = observatory.events().counts();
    Family::new("events", "Entries of the event log, those that came too fast to be listed included.")
        .counters(
            encoder,
            counts.iter().map(|(kind, severity, count)| {
                ([("kind", kind.name()), ("severity", severity.name())], *count)
            }),
        )?;
    encode_process(encoder)
}

/// What is counted of a worker: name, help, and which counter.
type WorkerFamily = (&'static str, &'static str, fn(&WorkerCounters) -> &Counter);

/// The same of an interface, over whose number a worker counts.
type InterfaceFamily = (&'static str, &'static str, fn(&WorkerCounters, usize) -> u64);

/// The same of another director.
type PeerFamily = (&'static str, &'static str, fn(&PeerState) -> u64);

const COUNTED: [WorkerFamily; 10] = [
    ("worker_received_packets", "Frames that XDP gave to a worker.", |c| &c.received),
    (
        "worker_carried_packets",
        "Packets of its connections that the kernel carried; it received and sent none of them.",
        |c| &c.carried,
    ),
    ("worker_transmitted_packets", "Frames that a worker sent.", |c| &c.transmitted),
    ("worker_answered_packets", "ICMP errors that a worker made.", |c| &c.answered),
    ("worker_fragmented_packets", "Pieces of packets beyond the first of each.", |c| &c.fragmented),
    ("worker_punted_packets", "Frames that a worker left to the kernel.", |c| &c.punted),
    ("worker_handed_packets", "Frames that a worker passed on to another one.", |c| &c.handed),
    ("worker_handed_in_packets", "Frames that other workers passed on to it.", |c| &c.handed_in),
    ("worker_expired_connections", "Connections that timed out.", |c| &c.expired),
    ("worker_polls", "Rounds of a worker's loop.", |c| &c.polls),
];

const GAUGED: [WorkerFamily; 5] = [
    ("worker_connections", "Connections in a worker's table.", |c| &c.connections),
    ("worker_offloaded_connections", "Connections of a worker that the kernel carries.", |c| &c.offloaded),
    ("worker_held_packets", "Frames that wait for a next hop or a fragment.", |c| &c.held),
    ("worker_port_failed", "Whether an interface of a worker waits to be opened anew.", |c| &c.port_failed),
    ("worker_table_generation", "Number of the table of services that a worker goes by.", |c| &c.generation),
];

fn encode_workers(observatory: &Observatory, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let names: Vec<String> = (0..observatory.workers().len()).map(|number| number.to_string()).collect();
    let each = || names.iter().map(|name| [("worker", name.as_str())]).zip(observatory.workers());
    for (name, help, counter) in COUNTED {
        Family::new(name, help).counters(encoder, each().map(|(labels, c)| (labels, counter(c).get())))?;
    }
    for (name, help, counter) in GAUGED {
        Family::new(name, help).gauges(encoder, each().map(|(labels, c)| (labels, counter(c).get())))?;
    }
    Family::new("worker_connections_limit", "Connections that a worker has room for.")
        .gauges(encoder, each().map(|(labels, _)| (labels, observatory.capacity())))
}

fn encode_drops(observatory: &Observatory, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let names: Vec<String> = (0..observatory.workers().len()).map(|number| number.to_string()).collect();
    let all = names.iter().zip(observatory.workers()).flat_map(|(name, counters)| {
        DropReason::ALL.iter().map(move |reason| {
            ([("worker", name.as_str()), ("reason", reason.name())], counters.dropped(*reason))
        })
    });
    Family::new("dropped_packets", "Packets that were not forwarded, by reason.").counters(encoder, all)
}

fn encode_interfaces(observatory: &Observatory, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let interfaces = observatory.interfaces();
    let each = || interfaces.iter().map(|state| ([("interface", state.name.as_str())], state));
    Family::new("interface_info", "How an interface is used; the value is always 1.").gauges(
        encoder,
        interfaces.iter().map(|state| {
            let labels = [
                ("interface", state.name.as_str()),
                ("xdp", &state.xdp),
                ("socket", &state.socket),
                ("answers", &state.answers),
            ];
            (labels, 1_u64)
        }),
    )?;
    Family::new("interface_up", "Whether an interface is there and its link is up.")
        .gauges(encoder, each().map(|(labels, state)| (labels, u64::from(state.up))))?;
    Family::new(
        "interface_missed_packets",
        "Frames that the kernel dropped as workers did not come in time.",
    )
    .counters(encoder, each().map(|(labels, state)| (labels, state.missed)))?;
    let sums: [InterfaceFamily; 3] = [
        ("interface_received_packets", "Frames that workers received.", WorkerCounters::received_on),
        ("interface_transmitted_packets", "Frames that workers sent.", WorkerCounters::transmitted_on),
        (
            "interface_handed_off_packets",
            "Frames that landed on another worker's queue than its connection's.",
            WorkerCounters::handed_off,
        ),
    ];
    for (name, help, of) in sums {
        let sum = |number| observatory.workers().iter().map(|counters| of(counters, number)).sum::<u64>();
        Family::new(name, help)
            .counters(encoder, each().enumerate().map(|(number, (labels, _))| (labels, sum(number))))?;
    }
    Ok(())
}

fn encode_peers(observatory: &Observatory, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let sync = observatory.sync();
    if let Some(role) = &sync.role {
        Family::new("active", "Whether the director is the one that takes packets.")
            .gauge(encoder, u64::from(role == "active"))?;
    }
    let each = || sync.peers.iter().map(|peer| ([("peer", peer.name.as_str())], peer));
    Family::new("sync_connected", "Whether sessions flow between this director and another.")
        .gauges(encoder, each().map(|(labels, peer)| (labels, u64::from(peer.connected))))?;
    Family::with_unit("sync_lag", "Age of the newest session that the other has confirmed.", Unit::Seconds)
        .gauges(encoder, each().filter_map(|(labels, peer)| Some((labels, peer.lag?))))?;
    let counted: [PeerFamily; 3] = [
        ("sync_sent_records", "Sessions that were sent.", |peer| peer.sent),
        ("sync_received_records", "Sessions that were received.", |peer| peer.received),
        ("sync_lost_records", "Sessions that the other was too slow for.", |peer| peer.lost),
    ];
    for (name, help, of) in counted {
        Family::new(name, help).counters(encoder, each().map(|(labels, peer)| (labels, of(peer))))?;
    }
    Ok(())
}

/// What the kernel says of this process; nothing where /proc is not there.
fn encode_process(encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let Some(process) = Process::read() else { return Ok(()) };
    Family::with_unit("process_cpu", "CPU time of the process, workers included.", Unit::Seconds)
        .counter(encoder, process.cpu_seconds)?;
    Family::with_unit("process_resident_memory", "Memory of the process.", Unit::Bytes)
        .gauge(encoder, process.resident)?;
    Family::new("process_open_fds", "File descriptors of the process.").gauge(encoder, process.descriptors)
}

struct Process {
    cpu_seconds: f64,
    resident: u64,
    descriptors: u64,
}

impl Process {
    fn read() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // The name in parentheses may hold anything; the state follows it (proc(5)).
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        let ticks = number(14)? + number(15)?;
        let pages = number(24)?;
        let setting = |variable| nix::unistd::sysconf(variable).ok().flatten();
        let per_second = setting(nix::unistd::SysconfVar::CLK_TCK)?;
        let page = setting(nix::unistd::SysconfVar::PAGE_SIZE)?;
        Some(Process {
            cpu_seconds: ticks as f64 / per_second as f64,
            resident: pages * page as u64,
            descriptors: fs::read_dir("/proc/self/fd").ok()?.count() as u64,
        })
    }
}
