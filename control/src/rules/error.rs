//! Why a change is refused, in the words of ipvsadm.

use std::net::IpAddr;

/// A refused change. The texts are those of `libipvs`, so that the command
/// line prints what scripts expect.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RulesError {
    /// `-A` of a service that is there
    #[error("Service already exists")]
    ServiceExists,
    /// `-E`, `-D`, `-Z` or `-L` of a service that is not there
    #[error("No such service")]
    NoSuchService,
    /// A server or LIP command for a service that is not there
    #[error("Service not defined")]
    ServiceNotDefined,
    /// `-a` of a server that is there
    #[error("Destination already exists")]
    ServerExists,
    /// `-e` or `-d` of a server that is not there
    #[error("No such destination")]
    NoSuchServer,
    /// Nobody knows the scheduler or the persistence engine
    #[error("Scheduler or persistence engine not found")]
    SchedulerNotFound,
    /// A weight or threshold out of range
    #[error("Numerical result out of range")]
    OutOfRange,
    /// What IPVS answers with EINVAL
    #[error("Invalid operation.  Possibly wrong module version, address not unicast, ...")]
    Invalid,
    /// `-P` of a LIP that is there
    #[error("Local address already exists")]
    LocalAddressExists,
    /// `-Q` of a LIP that is not there
    #[error("No such local address")]
    NoSuchLocalAddress,
    /// `--start-daemon` in a role that is taken
    #[error("Daemon has already run")]
    DaemonRuns,
    /// `--stop-daemon` in a role that is free
    #[error("No daemon is running")]
    NoDaemon,
    /// A mark rule that cannot be, and why
    #[error("{0}")]
    Mark(String),
    /// One of several mark rules, with the line that it is from
    #[error("line {line}: {source}")]
    MarkLine {
        /// The line, from 1
        line: usize,
        /// Why
        source: Box<RulesError>,
    },
    /// More mark rules than packets can be taken through
    #[error("{0}")]
    TooManyMarks(String),
    /// A mark rule is named by a number that it does not have
    #[error("there is no mark rule {number}; {}", match most {
        0 => "there are none".to_owned(),
        most => format!("choose 1 to {most}, as `sluice mark list' numbers them"),
    })]
    MarkNumber {
        /// The number, from 1
        number: usize,
        /// The highest that would do
        most: usize,
    },
    /// A mark rule is to be deleted that is not there
    #[error("there is no such mark rule; `sluice mark list' shows those that there are")]
    NoSuchMark,
    /// What this version does not do
    #[error("{0} is not supported by this version of Sluice")]
    Unsupported(String),
}

impl RulesError {
    /// A name for programs, stable across versions.
    pub fn code(&self) -> &'static str {
        match self {
            RulesError::ServiceExists => "service_exists",
            RulesError::NoSuchService => "no_such_service",
            RulesError::ServiceNotDefined => "service_not_defined",
            RulesError::ServerExists => "server_exists",
            RulesError::NoSuchServer => "no_such_server",
            RulesError::SchedulerNotFound => "scheduler_not_found",
            RulesError::OutOfRange => "out_of_range",
            RulesError::Invalid => "invalid",
            RulesError::LocalAddressExists => "local_address_exists",
            RulesError::NoSuchLocalAddress => "no_such_local_address",
            RulesError::DaemonRuns => "daemon_runs",
            RulesError::NoDaemon => "no_daemon",
            RulesError::Mark(_) => "mark",
            RulesError::MarkLine { source, .. } => source.code(),
            RulesError::TooManyMarks(_) => "too_many_marks",
            RulesError::MarkNumber { .. } => "mark_number",
            RulesError::NoSuchMark => "no_such_mark",
            RulesError::Unsupported(_) => "unsupported",
        }
    }
}

/// A configuration that cannot be loaded, with the place.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LoadError {
    /// What concerns all services
    #[error("{what}: {source}")]
    Director {
        /// Which setting
        what: &'static str,
        /// Why
        source: RulesError,
    },
    /// The service itself
    #[error("service {service}: {source}")]
    Service {
        /// Which
        service: String,
        /// Why
        source: RulesError,
    },
    /// One of its servers
    #[error("service {service}, server {address} port {port}: {source}")]
    Server {
        /// Which service
        service: String,
        /// Which server
        address: IpAddr,
        /// Its port
        port: u16,
        /// Why
        source: RulesError,
    },
    /// One of its local addresses
    #[error("service {service}, local address {address}: {source}")]
    LocalAddress {
        /// Which service
        service: String,
        /// Which address
        address: IpAddr,
        /// Why
        source: RulesError,
    },
}
