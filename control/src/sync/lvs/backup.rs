//! The backup: takes what a master tells of its connections.
//!
//! A connection lives as long as it was told to, since its end is told by
//! nothing, and becomes this director's own with its first packet here.
//! Connections of services or servers that are not configured are kept out and
//! counted, where IPVS keeps them until somebody adds the server; the master
//! tells of them again while they have packets.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use sluice_dataplane::sync::{Importer, Report, Source};
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep, timeout};

use super::codec::decode;
use super::counters::{Heard, add};
use super::socket::{Place, lost, receiver};
use super::translate::record_of;
use crate::rules::Daemon;
use crate::sync::{PAUSE, Plane};

/// Messages that are read before workers are given what was in them.
const AT_ONCE: usize = 64;

/// How often the interface is looked for, and workers are asked what became of
/// what they were told.
const LOOK: Duration = Duration::from_millis(200);

/// Hears for as long as it can.
///
/// # Errors
/// When it has to begin anew: the interface is another one, or the socket
/// fails.
pub(super) async fn run(daemon: &Daemon, plane: &Plane, counters: &Heard) -> io::Result<()> {
    let place = Place::of(daemon)?;
    let size = plane.published.services.load().tunables().sync_sock_size;
    let socket = receiver(daemon, size)?;
    let hops = Arc::clone(&plane.published.hops.load());
    let importer = Importer::new(Arc::clone(&plane.exchanges), Source::Foreign, hops);
    let mut backup = Backup { daemon, plane, counters, importer, reported: [0; 4] };
    // A longer one is cut off, and then not as long as it says.
    let mut buffer = vec![0; usize::from(u16::MAX)];
    let (mut looked, mut lost_so_far) = (Instant::now(), 0);
    loop {
        if let Ok(received) = timeout(LOOK, socket.recv(&mut buffer)).await {
            backup.hear(&buffer[..received?]);
            backup.hear_more(&socket, &mut buffer)?;
            backup.importer.flush();
            // So long nothing more is read; what the socket has no room for then
            // is lost, as in IPVS.
            while !backup.importer.pump() {
                sleep(PAUSE).await;
            }
        }
        backup.report();
        if looked.elapsed() >= LOOK {
            looked = Instant::now();
            place.check()?;
            let lost = lost(&socket);
            add(&counters.overflowed, lost.saturating_sub(lost_so_far));
            lost_so_far = lost;
        }
    }
}

struct Backup<'a> {
    daemon: &'a Daemon,
    plane: &'a Plane,
    counters: &'a Heard,
    importer: Importer,
    /// What workers had reported when they were asked last
    reported: [u64; 4],
}

impl Backup<'_> {
    fn hear_more(&mut self, socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<()> {
        for _ in 1..AT_ONCE {
            match socket.try_recv(buffer) {
                Ok(length) => self.hear(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn hear(&mut self, datagram: &[u8]) {
        let Ok(message) = decode(datagram) else { return add(&self.counters.malformed, 1) };
        // 0 takes all (`ip_vs_process_message`); without any, IPVS's default.
        let wanted = self.daemon.sync_id.unwrap_or(255);
        if wanted != 0 && message.sync_id != wanted {
            return add(&self.counters.other_id, 1);
        }
        add(&self.counters.messages, 1);
        add(&self.counters.entries, message.entries.len() as u64);
        add(&self.counters.unknown_option, message.unknown as u64);
        add(&self.counters.malformed, message.fault.is_some().into());
        let services = Arc::clone(&self.plane.published.services.load());
        for entry in &message.entries {
            match record_of(entry, &services) {
                Ok(record) => self.importer.add(record, &services),
                Err(reason) => self.counters.keep_out(reason),
            }
        }
    }

    /// Counts what became of what workers were told.
    fn report(&mut self) {
        type Of = fn(&Report) -> &AtomicU64;
        let Heard { taken, own, full, kept_out, .. } = self.counters;
        let no_server = &kept_out[super::translate::KeptOut::NoServer as usize];
        let all: [(Of, &AtomicU64); 4] = [
            (|report| &report.taken, taken),
            (|report| &report.own, own),
            (|report| &report.full, full),
            // The rules changed meanwhile.
            (|report| &report.unknown, no_server),
        ];
        for ((of, counter), reported) in all.into_iter().zip(&mut self.reported) {
            let sum = self.importer.reports().iter().map(|report| of(report).load(Relaxed)).sum();
            add(counter, sum - std::mem::replace(reported, sum));
        }
    }
}
