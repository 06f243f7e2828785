//! The end of a director that another one is to follow.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::forwarding::Forwarding;
use crate::api::{DataPlane, Director};
use crate::role::Role;

/// How long the other director may take to have the addresses. keepalived asks
/// once a second whether this one is healthy.
const PATIENCE: Duration = Duration::from_secs(10);

/// For how long no packet may have come, once it is the backup, until all
/// neighbours seem to know where the addresses are now.
const QUIET: Duration = Duration::from_secs(1);

/// Forwards on, and says that it is not healthy, until it is the backup and no
/// packet comes any more: the kernel would answer it with a reset.
pub(super) async fn hand_over(director: &Director<Forwarding>) {
    if director.plane().role() == Role::Backup {
        return;
    }
    tracing::info!("stopping once the other director is active");
    director.plane().leave();
    let deadline = Instant::now() + PATIENCE;
    while director.plane().role() == Role::Active {
        if Instant::now() >= deadline {
            tracing::warn!("no other director took over within {PATIENCE:?}; stopping nevertheless");
            return;
        }
        sleep(Duration::from_millis(5)).await;
    }
    let received = || director.plane().workers().counters().iter().map(|c| c.received.get()).sum::<u64>();
    let (mut last, mut since) = (received(), Instant::now());
    while since.elapsed() < QUIET && Instant::now() < deadline {
        sleep(Duration::from_millis(20)).await;
        let now = received();
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
}
