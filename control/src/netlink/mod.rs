//! Links, routes and neighbours from the kernel, published as [`NextHops`].
//!
//! [`start`] reads the kernel's tables, publishes a first snapshot and leaves
//! a task behind that follows every change. It works in the network namespace
//! of the thread that calls it.
//!
//! What is read: the `main` and `local` routing tables of both families.
//! Policy routing (`ip rule`), VRFs, type-of-service and source-specific
//! routes are not. Of a multipath route the first hop that can be used carries
//! all traffic. A route that leaves by a VLAN device on top of one of the
//! director's interfaces becomes that interface and a tag; one by a bridge or
//! bond leaves by an interface that is not the director's.
//!
//! The kernel resolves neighbours: it is asked by a neighbour-use request
//! (`NTF_USE` of `include/uapi/linux/neighbour.h`). As it does not see the
//! director's traffic, it is asked again for every neighbour that goes stale.
//!
//! With several workers, the snapshots also say how each interface spreads what
//! it receives over its queues (RSS): it is looked at every second.

mod events;
mod message;
mod model;
mod slots;
mod spread;
mod task;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use sluice_dataplane::neigh::{NextHops, Resolution};
use sluice_dataplane::wire::Address;
use tokio::sync::{mpsc, watch};

/// Requests of workers that wait for the task; those beyond are dropped, and
/// workers ask again.
const PENDING_ASKS: usize = 4096;

/// How long [`Handle::resolved`] waits. The kernel asks a second time after one
/// second (`retrans_time_ms`), so one lost packet is survived.
const RESOLVE_TIMEOUT: Duration = Duration::from_millis(1500);

/// Why next hops could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The machine has no such interface
    #[error("there is no network interface {0:?}; `ip link` lists those that exist")]
    NoInterface(String),
    /// A netlink socket could not be opened
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[source] io::Error),
    /// The kernel refused a request
    #[error("cannot read the {table} from the kernel: {source}")]
    Dump {
        /// Which table was being read
        table: &'static str,
        /// The kernel's answer
        source: rtnetlink::Error,
    },
}

/// What workers' and start-up's questions go to; cheap to clone. The task ends
/// when the last one is dropped.
#[derive(Clone, Debug)]
pub struct Handle {
    asks: mpsc::Sender<Address>,
    hops: watch::Receiver<Arc<NextHops>>,
}

/// Reads the kernel's tables, calls `publish` with the first snapshot, and
/// goes on to call it with every later one.
///
/// `interfaces` are the director's, in the order of the configuration, of which
/// `workers` workers have a queue each.
///
/// # Errors
/// When one of them does not exist, or the kernel's tables cannot be read.
pub async fn start(
    interfaces: &[String],
    workers: usize,
    publish: impl Fn(Arc<NextHops>) + Send + 'static,
) -> Result<Handle, Error> {
    let (asks, questions) = mpsc::channel(PENDING_ASKS);
    let (published, hops) = watch::channel(Arc::default());
    let publish = move |hops: Arc<NextHops>| {
        publish(hops.clone());
        published.send_replace(hops);
    };
    let task = task::Task::open(interfaces, workers, publish).await?;
    tokio::spawn(task.run(questions));
    Ok(Handle { asks, hops })
}

impl Handle {
    /// Says that a worker, or a real server in the configuration, needs the
    /// next hop of an address: its neighbour gets a slot if the address is
    /// on-link, and the kernel is asked to resolve it. Never blocks; asking
    /// often costs little.
    pub fn ask(&self, address: Address) {
        // A full queue means a flood of new addresses; workers ask again.
        _ = self.asks.try_send(address);
    }

    /// The newest snapshot.
    pub fn current(&self) -> Arc<NextHops> {
        self.hops.borrow().clone()
    }

    /// Asks for an address and waits, for 1.5 seconds at most, until the MAC of
    /// its next hop is known. Answers whether it is; and `false` at once if the
    /// address is the machine's own or leaves by a foreign interface.
    pub async fn resolved(&self, address: Address) -> bool {
        let mut hops = self.hops.clone();
        self.ask(address);
        let known = hops.wait_for(|hops| match hops.resolve(address) {
            Resolution::Hop(id) => hops.hop(id).is_some_and(|hop| hop.mac.is_some()),
            Resolution::Foreign => true,
            Resolution::Ask | Resolution::NoRoute => false,
        });
        match tokio::time::timeout(RESOLVE_TIMEOUT, known).await {
            Ok(Ok(hops)) => matches!(hops.resolve(address), Resolution::Hop(_)),
            _ => false,
        }
    }
}
