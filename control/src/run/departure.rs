//! The end of a director that another one is to follow.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::forwarding::Forwarding;
use crate::api::{DataPlane, Director};
use crate::role::Role;

/// How long the other director may take to have the addresses. keepalived asks
/// once a second whether this one is healthy.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long packets that are still on their way here are waited for, once the
/// addresses are the other director's.
const STRAGGLERS: Duration = Duration::from_millis(300);

/// Forwards on, and says that it is not healthy, until it is the backup.
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
    sleep(STRAGGLERS).await;
}
