//! Reading what workers copied.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sluice_dataplane::capture::{CaptureFilter, CaptureReader};
use tokio::sync::mpsc;

use super::part::{CapturePart, CapturedPacket};
use crate::workers::Workers;

/// Packets of one part.
const PART: usize = 128;

/// Between two looks when there is nothing to be read: workers do not wake the
/// reader, as that takes a system call.
const PAUSE: Duration = Duration::from_millis(1);

/// Between two parts: a bound on what a capture costs the processor that control
/// runs on.
const REST: Duration = Duration::from_micros(500);

/// What workers are given to take a capture up. One that is stuck does not keep
/// what others copy.
const TO_BEGIN: Duration = Duration::from_secs(1);

/// A part comes after so long even if there is nothing in it, so that both sides
/// know of each other.
const SIGN_OF_LIFE: Duration = Duration::from_millis(200);

/// A capture that workers were told of.
pub struct Capturing {
    readers: Vec<CaptureReader>,
    interfaces: Vec<String>,
    epoch: u64,
}

impl Capturing {
    /// Has every worker copy the first `snap` bytes of packets that match. `None`
    /// while there are too many captures already.
    pub fn start(
        workers: &Workers,
        interfaces: Vec<String>,
        filter: CaptureFilter,
        snap: usize,
    ) -> Option<Self> {
        let filter = Arc::new(filter);
        let readers = workers.capture(&filter, snap, interfaces.len())?;
        // Workers count from the start of the clock.
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let epoch = wall.saturating_sub(workers.clock().elapsed()).as_nanos() as u64;
        Some(Capturing { readers, interfaces, epoch })
    }

    /// Parts as they come, read on a thread of their own; who drops the receiver
    /// ends the capture.
    pub fn parts(self) -> mpsc::Receiver<CapturePart> {
        let (sender, receiver) = mpsc::channel(1);
        tokio::task::spawn_blocking(move || self.send(&sender));
        receiver
    }

    fn send(mut self, to: &mpsc::Sender<CapturePart>) {
        let mut part = CapturePart { interfaces: self.interfaces.clone(), ..CapturePart::default() };
        let mut last: Option<Instant> = None;
        // From the first part on nothing is missed.
        let begun = Instant::now();
        let all_begun = |readers: &[CaptureReader]| readers.iter().all(CaptureReader::has_begun);
        while !all_begun(&self.readers) && begun.elapsed() < TO_BEGIN {
            thread::sleep(PAUSE);
        }
        while !to.is_closed() {
            self.read(&mut part.packets);
            if part.packets.is_empty() && last.is_some_and(|last| last.elapsed() < SIGN_OF_LIFE) {
                thread::sleep(PAUSE);
                continue;
            }
            part.lost = self.lost();
            if to.blocking_send(std::mem::take(&mut part)).is_err() {
                return;
            }
            last = Some(Instant::now());
            thread::sleep(REST);
        }
    }

    fn read(&mut self, packets: &mut Vec<CapturedPacket>) {
        let Capturing { readers, interfaces, epoch } = self;
        let share = PART.div_ceil(readers.len().max(1));
        for reader in readers {
            let next =
                || reader.read(|sighting, bytes| CapturedPacket::new(sighting, bytes, interfaces, *epoch));
            packets.extend(std::iter::from_fn(next).take(share));
        }
        packets.sort_by_key(|packet| packet.time_ns);
    }

    fn lost(&self) -> Vec<u64> {
        let mut sum = vec![0; self.interfaces.len()];
        for reader in &self.readers {
            sum.iter_mut().zip(reader.lost()).for_each(|(sum, lost)| *sum += lost);
        }
        sum
    }
}
