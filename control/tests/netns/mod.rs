//! Network namespaces that live as long as a thread, and vanish with it.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};
use std::process::Command;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::CloneFlags;

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace with a thread in it.
///
/// It has no name and so needs no cleaning up: the kernel removes it, with all
/// its interfaces, when its thread ends, however that happens.
pub struct Netns {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    tid: i32,
}

/// Whether tests can make namespaces. Says so where they cannot.
pub fn possible(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED {test}: it makes network namespaces, which only root may");
    }
    root
}

impl Netns {
    pub fn new() -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, tid) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            nix::sched::unshare(CloneFlags::CLONE_NEWNET).expect("unshare");
            ready.send(nix::unistd::gettid().as_raw()).expect("the creator waits");
            for job in queue {
                job();
            }
        });
        let tid = tid.recv().expect("the thread could not make a namespace");
        let netns = Netns { jobs: Some(jobs), thread: Some(thread), tid };
        netns.ip("link set lo up");
        netns
    }

    /// Runs something in the namespace.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (answer, result) = mpsc::channel::<Result<T, Box<dyn Any + Send>>>();
        let job: Job = Box::new(move || {
            _ = answer.send(panic::catch_unwind(AssertUnwindSafe(job)));
        });
        self.jobs.as_ref().expect("alive").send(job).expect("alive");
        match result.recv().expect("alive") {
            Ok(value) => value,
            Err(panic) => panic::resume_unwind(panic),
        }
    }

    /// Runs `ip` with arguments that are separated by spaces.
    pub fn ip(&self, arguments: &str) {
        let words: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
        let shown = arguments.to_owned();
        self.run(move || {
            let output = Command::new("ip").args(words).output().expect("ip of iproute2");
            assert!(output.status.success(), "ip {shown}: {}", String::from_utf8_lossy(&output.stderr));
        });
    }

    /// Waits until an interface sends what it is given. It drops that for up to
    /// a second after its carrier came.
    pub fn wait_up(&self, device: &'static str) {
        eventually(&format!("{device} is up"), || {
            self.run(move || {
                let output = Command::new("ip").args(["-o", "link", "show", device]).output().expect("ip");
                String::from_utf8_lossy(&output.stdout).contains("state UP")
            })
        });
    }

    /// What `ip link ... netns` takes to move an interface here.
    pub fn id(&self) -> i32 {
        self.tid
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        self.jobs.take();
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}

/// Waits until a condition holds, for ten seconds at most.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
