//! Spawning and pinning workers, publishing snapshots to them.
