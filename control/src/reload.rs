//! Reading the configuration again while the director runs.
//!
//! The file rules: after a reload the director has what the file says, and what
//! was changed at run time in other ways is gone. What did not change keeps its
//! counters, connections and place in the schedule.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::api::{Answer, Client, DataPlane, Director, Request};
use crate::config::{self, Config};
use crate::health::ServicePlan;
use crate::output;
use crate::rules::{Action, Change, LoadError, Rules, ServiceName};
use crate::sync;

/// Where a running director has its settings from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The file
    pub file: PathBuf,
    /// What of it holds until the next start
    pub running: config::Director,
    /// So does this
    pub web: config::Web,
    /// And this
    pub sync: Option<sync::Settings>,
}

/// Why nothing was reloaded; then nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The director was not started with a file
    #[error("this director has no configuration file")]
    NoFile,
    /// The file cannot be read, or has mistakes
    #[error("{}", .0.report())]
    Config(#[from] config::Error),
    /// The rules refuse it
    #[error("{}: {source}", file.display())]
    Refused {
        /// The file
        file: PathBuf,
        /// Why
        source: LoadError,
    },
    /// It has another value for what is fixed at start
    #[error(
        "{}: {} cannot change while the director runs: restart it, or put back what it was started with",
        file.display(), keys.join(", ")
    )]
    Fixed {
        /// The file
        file: PathBuf,
        /// Which keys of `[director]`, or tables
        keys: Vec<&'static str>,
    },
    /// The thread that read it is gone
    #[error("the file could not be read: {0}")]
    Reader(String),
}

impl ReloadError {
    /// A name for programs, stable across versions.
    pub fn code(&self) -> &'static str {
        match self {
            ReloadError::NoFile => "no_configuration",
            ReloadError::Config(_) => "bad_configuration",
            ReloadError::Refused { .. } => "refused_configuration",
            ReloadError::Fixed { .. } => "restart_needed",
            ReloadError::Reader(_) => "internal",
        }
    }
}

impl Source {
    /// The keys of `[director]`, and the tables, that are fixed at start and
    /// differ.
    fn fixed(&self, config: &Config) -> Vec<&'static str> {
        let new = &config.director;
        // Every key is named, so that a new one is not forgotten here.
        let config::Director {
            interfaces,
            workers,
            connections_per_worker,
            idle,
            xdp_mode,
            socket,
            api_group,
            when_gone,
            offload,
            offload_flows,
            offload_flows_v6,
            offload_after,
            offload_stale,
            // That of the start: `sluice role` changes it.
            role: _,
            local_addresses: _,
            tunables: _,
            timeouts: _,
        } = &self.running;
        let keys = [
            ("interfaces", *interfaces == new.interfaces),
            ("workers", *workers == new.workers),
            ("connections_per_worker", *connections_per_worker == new.connections_per_worker),
            ("idle", *idle == new.idle),
            ("xdp_mode", *xdp_mode == new.xdp_mode),
            ("socket", *socket == new.socket),
            ("api_group", *api_group == new.api_group),
            ("when_gone", *when_gone == new.when_gone),
            ("offload", *offload == new.offload),
            ("offload_flows", *offload_flows == new.offload_flows),
            ("offload_flows_v6", *offload_flows_v6 == new.offload_flows_v6),
            ("offload_after", *offload_after == new.offload_after),
            ("offload_stale", *offload_stale == new.offload_stale),
            ("[web]", self.web == config.web),
            ("[sync]", self.sync == config.sync),
        ];
        keys.iter().filter(|(_, same)| !same).map(|(key, _)| *key).collect()
    }
}

/// Reads a file and makes its rules; takes its time with a large one.
fn read(source: &Source) -> Result<(Rules, Vec<(ServiceName, ServicePlan)>), ReloadError> {
    let config = Config::load(&source.file)?;
    let file = || source.file.clone();
    let keys = source.fixed(&config);
    if !keys.is_empty() {
        return Err(ReloadError::Fixed { file: file(), keys });
    }
    let interfaces = config.director.interfaces.clone();
    let rules = Rules::configured(config.director.workers.len(), interfaces, config.target())
        .map_err(|source| ReloadError::Refused { file: file(), source })?;
    Ok((rules, config.plans()))
}

impl<D: DataPlane> Director<D> {
    /// Reads the configuration again and gives the director its rules, or only
    /// says what would change.
    ///
    /// # Errors
    /// [`ReloadError`]; then nothing has changed.
    pub async fn reload(&self, dry_run: bool) -> Result<Vec<Change>, ReloadError> {
        let source = self.source().ok_or(ReloadError::NoFile)?;
        // Other clients, and questions of workers, do not wait meanwhile.
        let read = tokio::task::spawn_blocking(move || read(&source)).await;
        let (wanted, plans) = read.map_err(|error| ReloadError::Reader(error.to_string()))??;
        let mut changes = self.rules().differences(&wanted);
        changes.extend(self.health().differing(&plans).into_iter().map(|service| Change {
            action: Action::Change,
            subject: format!("service {service}"),
            detail: "health checks".into(),
        }));
        if dry_run || changes.is_empty() {
            return Ok(changes);
        }
        for change in changes.iter().take(MOST_LOGGED) {
            tracing::info!("{change}");
        }
        if let Some(more) = changes.len().checked_sub(MOST_LOGGED).filter(|more| *more > 0) {
            tracing::info!("and {more} changes more");
        }
        let done = self.change(|rules| {
            rules.become_like(wanted);
            Ok::<(), std::convert::Infallible>(())
        });
        let Ok(()) = done.await;
        self.health().set_plans(plans);
        Ok(changes)
    }
}

/// Most changes of a reload that are logged one by one.
const MOST_LOGGED: usize = 100;

/// Options of `sluice reload`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// The director's socket [default: $SLUICE_SOCKET, else
    /// /run/sluice/sluice.sock]
    #[arg(long)]
    socket: Option<PathBuf>,
    /// Only show what would change
    #[arg(long)]
    dry_run: bool,
    /// Print the changes as JSON for programs
    #[arg(long)]
    json: bool,
}

/// Has a director reload its configuration and prints the changes; exits with 1
/// where that is refused.
pub fn main(arguments: &Arguments) -> ExitCode {
    let mut changes = Vec::new();
    let request = Request::Reload { dry_run: arguments.dry_run };
    let answer = Client::new(arguments.socket.as_deref()).call_parts(&request, |part| {
        if let Answer::Changes(part) = part {
            changes.extend(part);
        }
        Ok(())
    });
    if let Err(error) = answer {
        eprintln!("sluice reload: {error}");
        return ExitCode::FAILURE;
    }
    let text = if arguments.json {
        let changes = serde_json::json!({ "applied": !arguments.dry_run, "changes": changes });
        format!("{changes}\n")
    } else {
        shown(&changes)
    };
    output::print(&text);
    ExitCode::SUCCESS
}

fn shown(changes: &[Change]) -> String {
    if changes.is_empty() {
        return "nothing differs\n".into();
    }
    let count = |action| changes.iter().filter(|change| change.action == action).count();
    let mut text: String = changes.iter().map(|change| format!("{change}\n")).collect();
    text += &format!(
        "{} added, {} removed, {} changed\n",
        count(Action::Add),
        count(Action::Remove),
        count(Action::Change)
    );
    text
}

/// Options of `sluice check`.
#[derive(clap::Args, Debug)]
pub struct CheckArguments {
    /// The configuration file
    file: PathBuf,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// Says all that is wrong with a configuration file; exits with 1 if that is
/// anything.
pub fn check(arguments: &CheckArguments) -> ExitCode {
    let (text, valid) = checked(&arguments.file, arguments.json);
    output::print(&text);
    if valid { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What `sluice check` prints of a file, and whether it is valid.
fn checked(file: &Path, json: bool) -> (String, bool) {
    let result = Config::load(file).map_err(CheckError::from).and_then(|config| {
        // What a director would refuse at start.
        let workers = config.director.workers.len();
        Rules::configured(workers, config.director.interfaces.clone(), config.target())?;
        Ok(config)
    });
    let text = match (&result, json) {
        (Ok(config), false) => {
            let servers: usize = config.services.iter().map(|service| service.servers.len()).sum();
            let services = config.services.len();
            format!("{}: valid; services: {services}, servers: {servers}\n", file.display())
        }
        (Err(CheckError::Config(error)), false) => {
            let text = error.report();
            match error {
                config::Error::Invalid { problems, .. } => {
                    let count = problems.0.len();
                    format!("{text}\n{count} mistake{}\n", if count == 1 { "" } else { "s" })
                }
                config::Error::Unreadable { .. } => format!("{text}\n"),
            }
        }
        (Err(CheckError::Rules(error)), false) => format!("{}: {error}\n", file.display()),
        (_, true) => {
            let problems = match &result {
                Err(CheckError::Config(config::Error::Invalid { problems, .. })) => problems.0.as_slice(),
                _ => &[],
            };
            let error = match &result {
                Ok(_) | Err(CheckError::Config(config::Error::Invalid { .. })) => None,
                Err(error) => Some(error.to_string()),
            };
            let valid = result.is_ok();
            let report =
                serde_json::json!({ "file": file, "valid": valid, "problems": problems, "error": error });
            format!("{report}\n")
        }
    };
    (text, result.is_ok())
}

#[derive(Debug, thiserror::Error)]
enum CheckError {
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error(transparent)]
    Rules(#[from] LoadError),
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::fs;

    use super::*;
    use crate::api::fake::FakePlane;

    const DIRECTOR: &str = "[director]\ninterfaces = [\"eth0\"]\nworkers = [1]\n";

    fn services(count: usize, servers: usize) -> String {
        let mut text = DIRECTOR.to_owned();
        for service in 0..count {
            let (high, low) = (service / 250, service % 250 + 1);
            let _ = write!(text, "[[service]]\naddress = \"192.0.{high}.{low}:80\"\nprotocol = \"tcp\"\n");
            for server in 1..=servers {
                let _ = write!(
                    text,
                    "[[service.server]]\naddress = \"10.{server}.{high}.{low}\"\nmethod = \"nat\"\n"
                );
            }
        }
        text
    }

    /// Starts with one file and reloads others: what is said of each, and how
    /// many services there are then.
    fn reloaded(first: &str, others: &[(&str, bool)]) -> Vec<(Result<Vec<String>, String>, usize)> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("s.toml");
        fs::write(&file, first).unwrap();
        let config = Config::load(&file).unwrap();
        let rules = Rules::configured(1, vec!["eth0".into()], config.target()).unwrap();
        let director = Director::new(rules, FakePlane::default());
        let Config { director: running, web, sync, .. } = config;
        director.configured_by(Source { file: file.clone(), running, web, sync });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let reload = |(text, dry_run): &(&str, bool)| {
            fs::write(&file, text).unwrap();
            let result = runtime.block_on(director.reload(*dry_run));
            let result = result.map(|changes| changes.iter().map(ToString::to_string).collect());
            let services = director.rules().list(None).unwrap().len();
            (result.map_err(|error| format!("{}: {error}", error.code())), services)
        };
        others.iter().map(reload).collect()
    }

    #[test]
    fn a_file_is_taken_whole_or_not_at_all() {
        let (two, three) = (services(2, 1), services(3, 1));
        let broken = three.replace("[1]", "[1]\nidle = \"nap\"");
        let fixed = three.replace("[1]", "[1]\nidle = \"sleep\"\nconnections_per_worker = 5000");
        let seen = reloaded(
            &two,
            &[
                (&two, false),
                (&three, true),
                (&broken, false),
                (&fixed, false),
                (&three, false),
                (&two, false),
            ],
        );
        let added = "+ service tcp 192.0.0.3:80: wlc, 1 server".to_owned();
        assert_eq!(seen[0], (Ok(vec![]), 2));
        assert_eq!(seen[1], (Ok(vec![added.clone()]), 2));
        let (error, services) = &seen[2];
        let error = error.as_ref().unwrap_err();
        assert!(
            error.starts_with("bad_configuration: ") && error.contains("\n4 | idle = \"nap\"\n"),
            "{error}"
        );
        assert_eq!(*services, 2);
        let (error, services) = &seen[3];
        let error = error.as_ref().unwrap_err();
        assert!(error.starts_with("restart_needed: "), "{error}");
        assert!(error.contains("connections_per_worker, idle cannot change"), "{error}");
        assert_eq!(*services, 2);
        assert_eq!(seen[4], (Ok(vec![added]), 3));
        assert_eq!(seen[5], (Ok(vec!["- service tcp 192.0.0.3:80".into()]), 2));
    }

    #[test]
    fn a_check_says_all_in_json() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("s.toml");
        fs::write(&file, services(2, 3)).unwrap();
        let (text, valid) = checked(&file, false);
        assert!(valid && text.ends_with("s.toml: valid; services: 2, servers: 6\n"), "{text}");
        fs::write(&file, DIRECTOR.replace("[1]", "[-1, 5000]")).unwrap();
        let (text, valid) = checked(&file, false);
        assert!(!valid && text.ends_with("\n2 mistakes\n"), "{text}");
        let (text, _) = checked(&file, true);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let places: Vec<_> = (0..2).map(|i| json["problems"][i]["column"].as_u64().unwrap()).collect();
        assert_eq!((json["valid"].as_bool(), places), (Some(false), vec![12, 16]));
        let (text, _) = checked(&directory.path().join("none"), true);
        assert!(text.contains("cannot read the configuration"), "{text}");
    }
}
