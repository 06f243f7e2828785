//! What can be asked of a director, and what it answers.
//!
//! [`routes`](super::routes) says how these are told over HTTP.

use std::net::IpAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_dataplane::conn::ConnectionRecord;

use super::query::ConnectionQuery;
use crate::capture::{CapturePart, CaptureQuery};
use crate::events::{EventRecord, Kind};
use crate::health::ServiceHealth;
use crate::marks::{MarkListing, MarkRule};
use crate::observe::{Overview, OverviewQuery};
use crate::role::Role;
use crate::rules::{
    Change, ConfiguredService, Daemon, DaemonRole, Method, Protocol, RulesError, Server, ServiceListing,
    ServiceName, ServiceSettings, Timeouts,
};
use crate::trace::{TraceQuery, TraceReport};

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// `ipvsadm -A`
    AddService {
        /// Which
        service: ServiceName,
        /// How
        settings: ServiceSettings,
    },
    /// `ipvsadm -E`
    EditService {
        /// Which
        service: ServiceName,
        /// All settings anew
        settings: ServiceSettings,
    },
    /// `ipvsadm -D`
    DeleteService {
        /// Which
        service: ServiceName,
    },
    /// `ipvsadm -C`
    Flush,
    /// `ipvsadm -a`
    AddServer {
        /// Of which service
        service: ServiceName,
        /// The server
        server: Server,
    },
    /// `ipvsadm -e`
    EditServer {
        /// Of which service
        service: ServiceName,
        /// Its address and port say which, the rest is set anew
        server: Server,
    },
    /// `ipvsadm -d`
    DeleteServer {
        /// Of which service
        service: ServiceName,
        /// The RIP
        address: IpAddr,
        /// Its port
        port: u16,
    },
    /// `ipvsadm -P`
    AddLocalAddress {
        /// For which service
        service: ServiceName,
        /// The LIP
        address: IpAddr,
    },
    /// `ipvsadm -Q`
    DeleteLocalAddress {
        /// Of which service
        service: ServiceName,
        /// The LIP
        address: IpAddr,
    },
    /// `ipvsadm -Z`
    Zero {
        /// Which service; all without one
        service: Option<ServiceName>,
    },
    /// `ipvsadm -L`: answered by a [`Answer::Service`] for each, then
    /// [`Answer::Done`]
    Services {
        /// Which service; all without one
        service: Option<ServiceName>,
    },
    /// `ipvsadm -G`
    LocalAddresses {
        /// Which service; without one, all that use LIPs
        service: Option<ServiceName>,
    },
    /// `ipvsadm -L -c` and `sluice connections`: answered by any number of
    /// [`Answer::Connections`], then [`Answer::Done`], or by [`Answer::Count`]
    FindConnections {
        /// Which
        query: ConnectionQuery,
        /// So many at most
        limit: Option<u64>,
        /// Only their number is wanted
        count: bool,
    },
    /// `ipvsadm -L --timeout`
    Timeouts,
    /// `ipvsadm --set`; 0 leaves a timeout as it is
    SetTimeouts {
        /// In seconds
        timeouts: Timeouts,
    },
    /// `ipvsadm --start-daemon`
    StartDaemon {
        /// Its parameters
        daemon: Daemon,
    },
    /// `ipvsadm --stop-daemon`
    StopDaemon {
        /// Which
        role: DaemonRole,
    },
    /// `ipvsadm -L --daemon`
    Daemons,
    /// `sluice mark add` and `insert`
    AddMark {
        /// The rule
        rule: MarkRule,
        /// Before which rule, counted from 1; behind all without it
        number: Option<usize>,
    },
    /// `sluice mark delete` with a rule
    DeleteMark {
        /// The first that is the same goes
        rule: MarkRule,
    },
    /// `sluice mark delete` with a number
    DeleteMarkNumber {
        /// Which rule, counted from 1
        number: usize,
    },
    /// `sluice mark flush`
    FlushMarks,
    /// `sluice mark restore`: all rules anew, or an error and no change
    ReplaceMarks {
        /// The rules in order, each with the line that errors name
        rules: Vec<(usize, MarkRule)>,
    },
    /// `sluice mark list`
    Marks,
    /// `sluice save`: answered by an [`Answer::Configured`] for each service,
    /// then [`Answer::Configuration`]
    Configuration,
    /// Counters and state of the data plane
    Status,
    /// `sluice capture`: answered by any number of [`Answer::Captured`], some of
    /// which are empty, so that both sides know of each other; then, if there is a
    /// limit, by [`Answer::Done`]
    Capture {
        /// Which packets
        query: Box<CaptureQuery>,
        /// So many at most
        count: Option<u64>,
        /// For so many seconds at most
        seconds: Option<u64>,
    },
    /// `sluice trace`
    Trace {
        /// Of which packet
        query: TraceQuery,
    },
    /// `sluice role`
    Role,
    /// `sluice role active` and `backup`
    SetRole {
        /// From now on
        role: Role,
    },
    /// `sluice health`: answered by a [`Answer::Health`] for each service that
    /// is checked, then [`Answer::Done`]
    Health,
    /// `sluice top`: state and rates, cut to what a screen shows
    Overview {
        /// Which part
        query: OverviewQuery,
    },
    /// `sluice events`: answered by any number of [`Answer::Events`], then,
    /// unless it is followed, [`Answer::Done`]
    Events {
        /// Those with greater numbers than this
        after: u64,
        /// The newest so many at most
        limit: Option<usize>,
        /// One kind only
        kind: Option<Kind>,
        /// Go on with new ones as they come. There is an empty part now and
        /// then, so that both sides know of each other.
        follow: bool,
    },
    /// `sluice run --takeover`: another process takes this one's place. After
    /// [`Answer::Done`] the connection is the one of
    /// [`takeover`](crate::takeover).
    TakeOver {
        /// Those that it has
        interfaces: Vec<String>,
        /// Whether it can go on with the sockets of the running process
        sockets: bool,
        /// How it talks ([`takeover::VERSION`](crate::takeover::VERSION))
        version: u32,
    },
    /// `sluice reload`: answered by any number of [`Answer::Changes`], then
    /// [`Answer::Done`]
    Reload {
        /// Only say what would change
        dry_run: bool,
    },
}

impl Request {
    /// All connections.
    pub fn connections() -> Self {
        Request::FindConnections { query: ConnectionQuery::default(), limit: None, count: false }
    }

    /// Whether it leaves the rules as they are.
    pub fn only_asks(&self) -> bool {
        matches!(
            self,
            Request::Services { .. }
                | Request::LocalAddresses { .. }
                | Request::FindConnections { .. }
                | Request::Timeouts
                | Request::Daemons
                | Request::Marks
                | Request::Status
                | Request::Health
                | Request::Overview { .. }
                | Request::Events { .. }
                | Request::Capture { .. }
                | Request::Trace { .. }
                | Request::Role
                // keepalived says it once only.
                | Request::SetRole { .. }
        )
    }
}

/// An answer, or a part of one.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It is done, or all parts have been sent
    Done,
    /// It is refused, and nothing has changed
    Error {
        /// For programs
        code: String,
        /// For people
        message: String,
    },
    /// Part of the answer to [`Request::Services`]
    Service(ServiceListing),
    /// Part of the answer to [`Request::Health`]
    Health(ServiceHealth),
    /// Part of the answer to [`Request::FindConnections`]
    Connections(Vec<ConnectionListing>),
    /// To [`Request::FindConnections`]: how many there are
    Count(u64),
    /// Part of the answer to [`Request::Events`], oldest first
    Events(Vec<EventRecord>),
    /// Part of the answer to [`Request::Capture`]
    Captured(CapturePart),
    /// To [`Request::Trace`]
    Trace(Box<TraceReport>),
    /// To [`Request::Overview`]
    Overview(Box<Overview>),
    /// To [`Request::LocalAddresses`]
    LocalAddresses(Vec<LocalAddressUse>),
    /// To [`Request::Timeouts`]
    Timeouts(Timeouts),
    /// To [`Request::Daemons`]
    Daemons(Vec<Daemon>),
    /// To [`Request::Marks`], in order
    Marks(Vec<MarkListing>),
    /// Part of the answer to [`Request::Reload`]
    Changes(Vec<Change>),
    /// Part of the answer to [`Request::Configuration`], in the order in which
    /// services were added
    Configured(Box<ConfiguredService>),
    /// The rest of the answer to [`Request::Configuration`]
    Configuration {
        /// The file that the director was started with
        file: Option<PathBuf>,
        /// The rules that mark packets, in order
        marks: Vec<MarkRule>,
        /// In seconds
        timeouts: Timeouts,
    },
    /// To [`Request::Status`]
    Status(serde_json::Value),
    /// To [`Request::Role`]
    Role(Role),
}

impl Answer {
    /// Whether nothing follows.
    pub fn is_final(&self) -> bool {
        !matches!(
            self,
            Answer::Service(_)
                | Answer::Health(_)
                | Answer::Connections(_)
                | Answer::Events(_)
                | Answer::Captured(_)
                | Answer::Changes(_)
                | Answer::Configured(_)
        )
    }

    /// An error that is not one of the rules.
    pub fn error(code: &str, message: impl Into<String>) -> Self {
        Answer::Error { code: code.into(), message: message.into() }
    }
}

impl From<Result<(), RulesError>> for Answer {
    fn from(result: Result<(), RulesError>) -> Self {
        result.map_or_else(Answer::from, |()| Answer::Done)
    }
}

impl From<RulesError> for Answer {
    fn from(error: RulesError) -> Self {
        Answer::error(error.code(), error.to_string())
    }
}

/// A connection in a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConnectionListing {
    /// Transport protocol
    pub protocol: Protocol,
    /// Seconds until the entry expires
    pub expires: u32,
    /// IPVS name of the state
    pub state: String,
    /// Client
    pub client: (IpAddr, u16),
    /// VIP
    pub service: (IpAddr, u16),
    /// LIP of a FULLNAT connection
    pub local: Option<(IpAddr, u16)>,
    /// Real server
    pub server: (IpAddr, u16),
    /// How packets reach the server
    pub method: Method,
    /// A persistence template of a mark service: it is of every protocol
    #[serde(default)]
    pub any_protocol: bool,
    /// Mark of the service, where it is a mark service
    #[serde(default)]
    pub mark: Option<u32>,
    /// A template of a persistence engine
    #[serde(default)]
    pub engine: Option<EngineData>,
}

/// What a persistence engine tells a template by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EngineData {
    /// Name of the engine (`PEName`)
    pub name: String,
    /// What it goes by (`PEData`), its bytes taken for Latin-1
    pub data: String,
}

impl From<ConnectionRecord> for ConnectionListing {
    fn from(record: ConnectionRecord) -> Self {
        let ip = |(address, port): (sluice_dataplane::wire::Address, u16)| (IpAddr::from(address), port);
        ConnectionListing {
            protocol: record.protocol.into(),
            expires: record.expires,
            state: record.state.into(),
            client: ip(record.client),
            service: ip(record.service),
            local: record.local.map(ip),
            server: ip(record.server),
            method: record.method.into(),
            any_protocol: record.any_protocol,
            engine: record.engine.map(|(name, data)| EngineData {
                name: name.into(),
                data: data.iter().copied().map(char::from).collect(),
            }),
            mark: record.mark,
        }
    }
}

/// The LIPs that a service's FULLNAT servers are reached from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LocalAddressUse {
    /// The service
    pub service: ServiceName,
    /// Whether these are the director's default ones
    pub default: bool,
    /// Each LIP with the connections that it has for this service
    pub addresses: Vec<(IpAddr, u64)>,
}
