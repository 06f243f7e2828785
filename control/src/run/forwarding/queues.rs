//! Giving the interfaces' queues to another process, and having them.

use std::time::Duration;

use sluice_dataplane::steer::Loaded;
use tokio::time::{Instant, sleep};

use super::Forwarding;
use crate::takeover::TakeoverError;

/// Between two looks for workers' answers.
const PAUSE: Duration = Duration::from_micros(500);

/// How long workers may take to open or close their sockets.
const LIMIT: Duration = Duration::from_secs(3);

impl Forwarding {
    /// The interfaces, in order.
    pub(in crate::run) fn interfaces(&self) -> &[String] {
        &self.interfaces
    }

    /// Whether these are its interfaces, in any order.
    pub(in crate::run) fn has_interfaces(&self, names: &[String]) -> bool {
        let sorted = |names: &[String]| {
            let mut names = names.to_vec();
            names.sort();
            names
        };
        sorted(names) == sorted(&self.interfaces)
    }

    /// Programs for all interfaces, with the rules of now, yet to be attached.
    pub(in crate::run) fn load(&self) -> Result<Vec<Loaded>, TakeoverError> {
        let load = |(number, interface): (usize, &String)| {
            let mut loaded = Loaded::load(interface)?.numbered(number);
            loaded.update(&self.in_force.borrow())?;
            loaded.set_without_socket(self.without_socket)?;
            Ok(loaded)
        };
        let all: Result<_, sluice_dataplane::steer::SteerError> =
            self.interfaces.iter().enumerate().map(load).collect();
        all.map_err(|error| TakeoverError::Workers(error.to_string()))
    }

    /// Opens sockets, and then attaches programs. Until then packets come by the
    /// ones that another process left, which has the same rules.
    pub(in crate::run) async fn open(&self, programs: Vec<Loaded>) -> Result<(), TakeoverError> {
        let begun = Instant::now();
        let results = self.workers.reopen();
        for _ in 0..self.workers.counters().len() {
            let result = loop {
                match results.try_recv() {
                    Ok(result) => break result,
                    Err(_) if begun.elapsed() < LIMIT => sleep(PAUSE).await,
                    Err(_) => break Err("a worker does not open its sockets".to_owned()),
                }
            };
            result.map_err(TakeoverError::Workers)?;
        }
        tracing::info!(milliseconds = begun.elapsed().as_millis() as u64, "sockets are open");
        let mut steering = Vec::new();
        for (mut loaded, interface) in programs.into_iter().zip(&self.interfaces) {
            let attached = loaded.admit_sockets().and_then(|()| loaded.attach(self.mode));
            let mut attached = attached.map_err(|error| TakeoverError::Workers(error.to_string()))?;
            self.join(steering.len(), &mut attached);
            steering.push(attached);
            super::super::renew_rss(interface);
        }
        *self.steering.borrow_mut() = steering;
        self.released.set(false);
        Ok(())
    }

    /// Leaves the queues to another process: programs stay, and drop what comes
    /// while there is no socket.
    pub(in crate::run) async fn release(&self) -> Result<(), TakeoverError> {
        self.released.set(true);
        for mut steering in self.steering.borrow_mut().drain(..) {
            steering.hand_over().map_err(|error| TakeoverError::Workers(error.to_string()))?;
        }
        let (results, begun) = (self.workers.close(), Instant::now());
        for _ in 0..self.workers.counters().len() {
            while results.try_recv().is_err() {
                if begun.elapsed() >= LIMIT {
                    return Err(TakeoverError::Workers("a worker does not close its sockets".into()));
                }
                sleep(PAUSE).await;
            }
        }
        tracing::info!(milliseconds = begun.elapsed().as_millis() as u64, "sockets are closed");
        Ok(())
    }

    /// Has back what was released, if it was.
    pub(in crate::run) async fn take_back(&self) -> Result<(), TakeoverError> {
        if self.released.get() { self.open(self.load()?).await } else { Ok(()) }
    }
}
