//! Whether the director is fit to forward: what `sluice status --healthy` and
//! systemd's watchdog go by.

use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use crate::role::Role;
use crate::sync::SyncStatus;
use crate::workers::Workers;

/// How long a peer that is there may take to connect: it tries again every two
/// seconds at least.
const PEER_COMES: Duration = Duration::from_secs(5);

/// What was seen of the workers' progress.
#[derive(Debug, Default)]
pub(super) struct Progress {
    polls: Vec<u64>,
    stuck: Vec<usize>,
}

impl Progress {
    /// Looks whether each worker went round since this was called last. To be
    /// called every second or so.
    pub(super) fn look(&mut self, polls: impl Iterator<Item = u64>) {
        let polls: Vec<_> = polls.collect();
        let stuck = |(worker, now): (usize, &u64)| (self.polls.get(worker) == Some(now)).then_some(worker);
        self.stuck = polls.iter().enumerate().filter_map(stuck).collect();
        self.polls = polls;
    }

    /// Workers that did not.
    pub(super) fn stuck(&self) -> &[usize] {
        &self.stuck
    }
}

/// What keeps the workers from forwarding; nothing where all is well.
pub(super) fn problems(workers: &Workers, progress: &Progress, interfaces: &[String]) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some(worker) = workers.dead() {
        problems.push(format!("worker {worker} ended"));
    }
    problems.extend(progress.stuck().iter().map(|worker| format!("worker {worker} does not move")));
    if workers.port_failed() {
        problems.push("an AF_XDP socket does not work".to_owned());
    }
    match running() {
        Ok(running) => {
            let down = interfaces.iter().filter(|interface| !running.contains(interface));
            problems.extend(down.map(|interface| format!("interface {interface} is down or gone")));
        }
        Err(error) => problems.push(format!("interfaces cannot be looked at: {error}")),
    }
    problems
}

/// Whether a director that is not the active one has yet to get the sessions of
/// the one that may be: it is not to take over from that so soon. `age` is how
/// long it runs.
///
/// One that has lost its peer waits for nothing, as the peer may be dead.
pub(super) fn lacks_sessions(role: Role, sync: Option<&SyncStatus>, age: Duration) -> bool {
    let Some(SyncStatus { incoming, .. }) = sync else { return false };
    let may_come = incoming.connected || (incoming.received == 0 && age < PEER_COMES);
    role == Role::Backup && may_come && !incoming.caught_up
}

/// Names of interfaces that are up and have a carrier.
fn running() -> nix::Result<Vec<String>> {
    let wanted = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
    Ok(getifaddrs()?.filter(|entry| entry.flags.contains(wanted)).map(|entry| entry.interface_name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_does_not_poll_is_stuck() {
        let mut progress = Progress::default();
        progress.look([0, 5].into_iter());
        assert!(progress.stuck().is_empty());
        progress.look([1, 5].into_iter());
        assert_eq!(progress.stuck(), [1]);
        progress.look([2, 6].into_iter());
        assert!(progress.stuck().is_empty());
    }

    #[test]
    fn a_backup_waits_for_the_sessions_of_a_peer_that_is_there() {
        let sync = |connected, caught_up| {
            let mut status = SyncStatus::default();
            (status.incoming.connected, status.incoming.caught_up) = (connected, caught_up);
            status
        };
        let lacks =
            |role, sync: SyncStatus, seconds| lacks_sessions(role, Some(&sync), Duration::from_secs(seconds));
        assert!(lacks(Role::Backup, sync(false, false), 1), "the peer has had no time to connect");
        assert!(!lacks(Role::Backup, sync(false, false), 5), "there is no peer");
        assert!(lacks(Role::Backup, sync(true, false), 60), "a long transfer");
        assert!(!lacks(Role::Backup, sync(true, true), 1));
        assert!(!lacks(Role::Active, sync(true, false), 1), "it has the addresses already");
        assert!(!lacks_sessions(Role::Backup, None, Duration::ZERO));
    }

    #[test]
    fn the_loopback_runs() {
        assert!(running().unwrap().contains(&"lo".to_owned()));
    }
}
