//! Giving the interfaces' queues to another process, and having them.

use std::time::Duration;

use crossbeam::channel::Receiver;
use sluice_dataplane::port::afxdp::{Left, Offered};
use sluice_dataplane::steer::Loaded;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use super::Forwarding;
use crate::takeover::TakeoverError;

/// Between two looks for workers' answers, which mostly come within the first of these.
const SPIN: Duration = Duration::from_millis(3);
const PAUSE: Duration = Duration::from_millis(1);

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
        let (results, begun) = (self.workers.reopen(), Instant::now());
        for _ in 0..self.workers.counters().len() {
            answer(&results, "does not open its sockets").await?.map_err(TakeoverError::Workers)?;
        }
        tracing::info!(milliseconds = begun.elapsed().as_millis() as u64, "sockets are open");
        self.attach(programs)
    }

    /// Gets workers ready to go on with another process's sockets.
    pub(in crate::run) async fn prepare(&self, mut offered: Vec<Offered>) -> Result<(), TakeoverError> {
        if offered.is_empty() {
            return Err(TakeoverError::Workers("the running process does not give its own".to_owned()));
        }
        offered.sort_by_key(|offered| offered.layout.queue);
        let queues = offered.iter().map(|offered| offered.layout.queue);
        if !queues.eq(0..self.workers.counters().len()) {
            return Err(TakeoverError::Workers("it does not have as many workers".to_owned()));
        }
        for result in self.workers.prepare(offered) {
            answer(&result, "does not map the sockets").await?.map_err(TakeoverError::Workers)?;
        }
        Ok(())
    }

    /// Goes on with another process's sockets, as far as it was, and then attaches
    /// programs.
    pub(in crate::run) async fn assume(
        &self,
        left: Vec<Left>,
        programs: Vec<Loaded>,
    ) -> Result<(), TakeoverError> {
        for result in self.workers.assume(left) {
            answer(&result, "does not go on with the sockets").await?.map_err(TakeoverError::Workers)?;
        }
        tracing::info!("this process goes on with the sockets of the former one");
        self.attach(programs)
    }

    fn attach(&self, programs: Vec<Loaded>) -> Result<(), TakeoverError> {
        let mut steering = Vec::new();
        for (mut loaded, interface) in programs.into_iter().zip(&self.interfaces) {
            let attached = loaded.admit_sockets().and_then(|()| {
                // Before its first packet, which may be one to be carried.
                self.join(steering.len(), &mut loaded);
                loaded.attach(self.mode)
            });
            steering.push(attached.map_err(|error| TakeoverError::Workers(error.to_string()))?);
            super::super::renew_rss(interface);
        }
        *self.steering.borrow_mut() = steering;
        self.left.borrow_mut().clear();
        self.released.set(false);
        Ok(())
    }

    /// Closes the sockets for another process, which opens its own.
    pub(in crate::run) async fn release(&self) -> Result<(), TakeoverError> {
        self.leave_programs()?;
        let begun = Instant::now();
        for closed in self.workers.close() {
            answer(&closed, "does not close its sockets").await?;
        }
        tracing::info!(milliseconds = begun.elapsed().as_millis() as u64, "sockets are closed");
        Ok(())
    }

    /// What another process needs to go on with the sockets; nothing if they can
    /// only be closed.
    pub(in crate::run) async fn offer(&self) -> Result<Option<Vec<Offered>>, TakeoverError> {
        let mut all = Some(Vec::new());
        for offered in self.workers.offer() {
            let offered = answer(&offered, "does not offer its sockets").await?;
            all = all.zip(offered).map(|(mut all, offered)| {
                all.push(offered);
                all
            });
        }
        Ok(all)
    }

    /// Leaves the sockets to the process that has what was offered; how far each
    /// worker was.
    pub(in crate::run) async fn lend(&self) -> Result<Vec<Left>, TakeoverError> {
        self.leave_programs()?;
        let mut all = Vec::new();
        for left in self.workers.lend() {
            let left = answer(&left, "does not leave its sockets alone").await?;
            let refused = || TakeoverError::Workers("a worker cannot leave its sockets".to_owned());
            all.push(left.ok_or_else(refused)?);
        }
        Ok(all)
    }

    /// Programs stay, go on carrying connections, and drop what comes for workers while
    /// there is no socket.
    fn leave_programs(&self) -> Result<(), TakeoverError> {
        self.released.set(true);
        self.filters.borrow_mut().leave();
        for steering in self.steering.borrow_mut().drain(..) {
            let left = steering.hand_over().map_err(|error| TakeoverError::Workers(error.to_string()))?;
            self.left.borrow_mut().push(left);
        }
        Ok(())
    }

    /// Has back what was released, if it was.
    pub(in crate::run) async fn take_back(&self) -> Result<(), TakeoverError> {
        if self.released.get() { self.open(self.load()?).await } else { Ok(()) }
    }
}

/// Waits for a worker's answer.
async fn answer<T>(from: &Receiver<T>, what: &str) -> Result<T, TakeoverError> {
    let begun = Instant::now();
    loop {
        match from.try_recv() {
            Ok(answer) => return Ok(answer),
            // Nothing is forwarded meanwhile, and a sleep is a millisecond at least.
            Err(_) if begun.elapsed() < SPIN => yield_now().await,
            Err(_) if begun.elapsed() < LIMIT => sleep(PAUSE).await,
            Err(_) => return Err(TakeoverError::Workers(format!("a worker {what}"))),
        }
    }
}
