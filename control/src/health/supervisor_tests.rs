//! Servers come and go, while the file that they are from is reloaded.

use std::fs;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep};

use super::supervise;
use crate::api::Director;
use crate::api::fake::FakePlane;
use crate::config::Config;
use crate::observe::ServerState;
use crate::reload::Source;
use crate::rules::Rules;

const FIRST: &str = "10.0.2.1";
const SECOND: &str = "10.0.2.2";

struct Site {
    director: Rc<Director<FakePlane>>,
    file: PathBuf,
    ports: [u16; 2],
}

impl Site {
    /// Weights of the servers, and more keys of the service; without checks
    /// where `checked` is not.
    fn write(&self, weights: [u32; 2], more: &str, checked: bool) {
        let mut text = format!(
            "[director]\ninterfaces = [\"eth0\"]\nworkers = [1]\n\
             [[service]]\naddress = \"192.0.2.10:80\"\nprotocol = \"tcp\"\n{more}\n"
        );
        for ((address, port), weight) in [FIRST, SECOND].into_iter().zip(self.ports).zip(weights) {
            text += &format!(
                "[[service.server]]\naddress = \"{address}\"\nmethod = \"nat\"\nweight = {weight}\n"
            );
            if checked {
                text += &format!(
                    "[[service.server.check]]\nkind = \"tcp\"\naddress = \"127.0.0.1\"\nport = {port}\n\
                     interval = 0.1\ntimeout = 5\njitter = 0\nfall = 2\n"
                );
            }
        }
        fs::write(&self.file, text).unwrap();
    }

    async fn reload(&self, dry_run: bool) -> Vec<String> {
        self.director.reload(dry_run).await.unwrap().iter().map(ToString::to_string).collect()
    }

    /// Address and weight of each server in use, as `ipvsadm -Ln` has them.
    fn in_use(&self) -> Vec<(String, u32)> {
        let listed = self.director.rules().list(None).unwrap();
        let servers = listed[0].servers.iter();
        let mut servers: Vec<_> =
            servers.map(|server| (server.server.address.to_string(), server.server.weight)).collect();
        servers.sort();
        servers
    }

    async fn until(&self, expected: &[(&str, u32)]) {
        let expected: Vec<_> =
            expected.iter().map(|(address, weight)| ((*address).into(), *weight)).collect();
        until(&format!("{expected:?}"), || self.in_use() == expected).await;
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what} does not come");
        sleep(Duration::from_millis(5)).await;
    }
}

async fn listen(port: u16) -> TcpListener {
    TcpListener::bind(("127.0.0.1", port)).await.unwrap()
}

/// Runs `work` beside the checks of two servers of weight 4, which are up
/// while their listeners live.
fn with_checks(work: impl AsyncFnOnce(&Site, [TcpListener; 2])) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let directory = tempfile::tempdir().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let listeners = [listen(0).await, listen(0).await];
        let ports = [0, 1].map(|i: usize| listeners[i].local_addr().unwrap().port());
        let director = Director::new(Rules::new(1), FakePlane::default());
        let site = Site { director, file: directory.path().join("s.toml"), ports };
        site.write([4, 4], "", true);
        let config = Config::load(&site.file).unwrap();
        let Config { director: running, web, sync, .. } = config;
        let source = Source { file: site.file.clone(), running, web, sync };
        site.director.configured_by(source);
        site.reload(false).await;
        let director = Rc::clone(&site.director);
        let supervisor = spawn_local(async move { supervise(&director).await });
        work(&site, listeners).await;
        assert!(!supervisor.is_finished());
    });
}

#[test]
fn a_reload_knows_who_is_out() {
    with_checks(async |site, [first, _second]| {
        drop(first);
        site.until(&[(SECOND, 4)]).await;
        assert!(site.reload(false).await.is_empty());
        assert_eq!(site.in_use(), [(SECOND.into(), 4)]);

        // What is out is edited, and comes back as it was edited.
        site.write([7, 4], "", true);
        let change = "~ service tcp 192.0.2.10:80, server 10.0.2.1:80: nat weight 4 -> nat weight 7";
        assert_eq!(site.reload(true).await, [change]);
        assert_eq!(site.reload(false).await, [change]);
        assert!(site.reload(false).await.is_empty());
        assert_eq!(site.in_use(), [(SECOND.into(), 4)]);
        let _again = listen(site.ports[0]).await;
        site.until(&[(FIRST, 7), (SECOND, 4)]).await;
        // It is the newest now; a reload puts it where the file has it.
        assert_eq!(site.reload(false).await, ["~ service tcp 192.0.2.10:80: another order of servers"]);
        assert!(site.reload(false).await.is_empty());
    });
}

#[test]
fn a_reload_compares_weights_as_configured() {
    with_checks(async |site, [first, _second]| {
        site.write([4, 4], "inhibit_on_failure = true", true);
        assert_eq!(site.reload(false).await, ["~ service tcp 192.0.2.10:80: health checks"]);
        drop(first);
        site.until(&[(FIRST, 0), (SECOND, 4)]).await;
        assert!(site.reload(false).await.is_empty());
        site.write([9, 4], "inhibit_on_failure = true", true);
        assert_eq!(site.reload(false).await.len(), 1);
        assert_eq!(site.in_use(), [(FIRST.into(), 0), (SECOND.into(), 4)]);
        let _again = listen(site.ports[0]).await;
        site.until(&[(FIRST, 9), (SECOND, 4)]).await;
    });
}

#[test]
fn a_server_that_is_no_longer_checked_is_in_use() {
    with_checks(async |site, [first, second]| {
        drop((first, second));
        site.until(&[]).await;
        site.write([4, 4], "", false);
        assert_eq!(site.reload(false).await, ["~ service tcp 192.0.2.10:80: health checks"]);
        site.until(&[(FIRST, 4), (SECOND, 4)]).await;
        until("the end of the checks", || site.director.health().overview(&site.director.rules()).is_empty())
            .await;
    });
}

#[test]
fn a_sorry_server_stays_over_a_reload() {
    with_checks(async |site, [first, second]| {
        let sorry = |last| format!("sorry_server = {{ address = \"10.0.2.{last}\", method = \"nat\" }}");
        site.write([4, 4], &sorry(8), true);
        site.reload(false).await;
        drop((first, second));
        site.until(&[("10.0.2.8", 1)]).await;
        assert!(site.reload(false).await.is_empty());
        assert_eq!(site.in_use(), [("10.0.2.8".into(), 1)]);
        site.write([4, 4], &sorry(9), true);
        site.reload(false).await;
        site.until(&[("10.0.2.9", 1)]).await;
    });
}

#[test]
fn others_see_what_the_checks_say() {
    with_checks(async |site, [first, _second]| {
        let state = |of: usize| {
            let health = site.director.plane().observatory.health();
            let servers = health.services.values().next()?;
            servers.values().nth(of).map(|server| (server.state, server.reason.clone(), server.latency))
        };
        let is = |of, wanted| move || state(of).is_some_and(|(state, ..)| state == wanted);
        until("the first is up", is(0, ServerState::Up)).await;
        drop(first);
        until("the first is down", is(0, ServerState::Down)).await;
        let (_, reason, latency) = state(0).unwrap();
        assert_eq!(reason, "cannot connect: Connection refused");
        assert!(latency.is_some_and(|seconds| (0.0..1.0).contains(&seconds)), "{latency:?}");
        assert_eq!(state(1).map(|(state, ..)| state), Some(ServerState::Up));
    });
}
