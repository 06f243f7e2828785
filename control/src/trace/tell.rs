//! Putting together what is told.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use sluice_dataplane::conn::{Side, Tuple};
use sluice_dataplane::neigh::{NextHops, Resolution};
use sluice_dataplane::service::{self, ServerId, ServiceId, ServiceKey, ServiceTable};
use sluice_dataplane::stats::DropReason;
use sluice_dataplane::steer::Wanted;
use sluice_dataplane::trace::{Answer, Outcome, Question, Unclaimed};
use sluice_dataplane::wire::Address;
use tokio::time::{Instant, sleep};

use super::remedy::remedy;
use super::report::{Server, Service, TraceQuery, TraceReport, Verdict, Way, WayState, WorkerReport};
use crate::health::ServiceHealth;
use crate::rules::ServiceName;

/// How long workers are waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Between two looks whether they answered.
const PAUSE: Duration = Duration::from_millis(1);

/// Why nothing can be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// IPv4 to IPv6 or the reverse
    #[error("{0} and {1} are not of one address family")]
    Families(IpAddr, IpAddr),
    /// Not the director's
    #[error("the director has no interface {0:?}: it has {1}")]
    NoInterface(String, String),
}

impl TraceQuery {
    /// The packet.
    ///
    /// # Errors
    /// [`TraceError::Families`].
    pub fn tuple(&self) -> Result<Tuple, TraceError> {
        let (source, destination) = (self.source, self.destination);
        if source.is_ipv4() != destination.is_ipv4() {
            return Err(TraceError::Families(source.ip(), destination.ip()));
        }
        Ok(Tuple {
            source: source.ip().into(),
            destination: destination.ip().into(),
            source_port: source.port(),
            destination_port: destination.port(),
            protocol: self.protocol.into(),
        })
    }
}

/// What workers were asked, and what is known without them.
pub struct Asked {
    /// The director's interfaces
    pub interfaces: Vec<String>,
    /// The number of that which the packet comes by
    pub interface: usize,
    /// Why the XDP program brings it to the workers, if it does
    pub wanted: Option<Wanted>,
    /// The queue that it lands on, where that can be told
    pub queue: Option<usize>,
    /// For each worker the question; `None` for one that cannot be asked
    pub questions: Vec<Option<Arc<Question>>>,
}

impl Asked {
    /// Waits for the answers of all workers, for a second at most.
    pub async fn answers(&self) -> Vec<Option<Answer>> {
        let deadline = Instant::now() + PATIENCE;
        let mut answers = Vec::with_capacity(self.questions.len());
        for question in &self.questions {
            let mut answer = None;
            if let Some(question) = question {
                loop {
                    answer = question.take();
                    if answer.is_some() || Instant::now() >= deadline {
                        break;
                    }
                    sleep(PAUSE).await;
                }
            }
            answers.push(answer);
        }
        answers
    }

    /// All that is told of the packet `tuple`. `mark` is the one that it is taken
    /// to have, `health` what is known of the servers of a service.
    pub fn report(
        &self,
        tuple: &Tuple,
        mark: Option<u32>,
        answers: Vec<Option<Answer>>,
        health: impl Fn(ServiceName) -> Option<ServiceHealth>,
    ) -> TraceReport {
        let services = answers.iter().flatten().map(|answer| &answer.services).next();
        let mark = mark.or_else(|| Some(services?.marks().mark(tuple, self.interface))).unwrap_or(0);
        let service = services.and_then(|services| {
            let asked = self.questions.iter().flatten().next()?;
            let id = asked.service(services)?;
            let name = ServiceName::from(services.service(id)?.key);
            told_service(services, id, tuple, health(name).as_ref())
        });
        let steering = match self.wanted {
            Some(wanted) => why(wanted),
            None if service.is_some() => {
                "the XDP program does not know of it, so the kernel has it: the rules are being taken up, or \
                 the mark was given for this trace only"
                    .into()
            }
            None => "no service, local address or NAT server has it, so the kernel has it".into(),
        };
        let workers = answers.into_iter().enumerate();
        TraceReport {
            interface: self.interfaces.get(self.interface).cloned().unwrap_or_default(),
            steered: self.wanted.is_some(),
            steering,
            queue: self.queue,
            mark,
            service,
            workers: workers.map(|(worker, answer)| self.told_worker(worker, tuple, answer)).collect(),
        }
    }

    fn told_worker(&self, worker: usize, tuple: &Tuple, answer: Option<Answer>) -> WorkerReport {
        let mut told = WorkerReport {
            worker,
            verdict: Verdict::Silent,
            text: "did not answer in time".into(),
            reason: None,
            remedy: None,
            connection: None,
            template: None,
            server: None,
            method: None,
            rewriting: None,
            way: None,
            reply_way: None,
        };
        let Some(answer) = answer else { return told };
        let (services, hops) = (&answer.services, &answer.hops);
        match answer.outcome {
            Outcome::Connection { record, server: _, side, refused } => {
                let forth = side == Side::Client;
                told.verdict = Verdict::Connection;
                told.text = format!(
                    "belongs to a connection in {}, which expires in {} s{}",
                    record.state,
                    record.expires,
                    if forth { "" } else { ": it is the server's" }
                );
                told.server = Some(socket(record.server));
                told.method = Some(record.method.into());
                let (to, back) = match side {
                    Side::Client => (record.server.0, record.client.0),
                    Side::Server => (record.client.0, record.server.0),
                };
                if forth {
                    told.rewriting = Some(rewriting(tuple, record.method, record.server, record.local, hops));
                } else {
                    let (vip, client) = (socket(record.service), socket(record.client));
                    told.rewriting = Some(format!("becomes {vip} -> {client}"));
                }
                self.add_ways(&mut told, hops, to, record.method.has_replies().then_some(back));
                told.connection = Some(record.into());
                if let Some(reason) = refused {
                    told.refuse(reason);
                }
            }
            Outcome::New { service, server, destination, template, makes_template } => {
                self.tell_new(&mut told, &answer.services, hops, tuple, (service, server), destination);
                if let Some(template) = template {
                    told.text += ", by the client's persistence template";
                    told.template = Some(template.into());
                } else {
                    let scheduler = services.service(service).map_or("", |service| service.scheduler.name());
                    told.text += &format!(", chosen by {scheduler}");
                    if makes_template {
                        told.text += "; the client gets a persistence template";
                    }
                }
                if answer.drop_rate > 0 {
                    told.text += &format!(
                        "; the table is nearly full, and one in {} such packets is dropped (overload)",
                        answer.drop_rate
                    );
                }
            }
            Outcome::Expected => {
                told.verdict = Verdict::Connection;
                told.text = "is the data connection of an FTP session, which is expected".into();
            }
            Outcome::Kernel(unclaimed) => {
                told.verdict = Verdict::Kernel;
                told.text = match unclaimed {
                    Unclaimed::NoService => "no connection and no service has it: left to the kernel".into(),
                    Unclaimed::Standby => {
                        "is the backup: new connections are the active director's (sluice role)".into()
                    }
                    Unclaimed::SctpByFullNat => "FULLNAT does not forward SCTP: left to the kernel".into(),
                };
            }
            Outcome::Handed { keeper, .. } => {
                told.verdict = Verdict::Handed;
                told.text = format!("hands it to worker {keeper}, which keeps the client's template");
            }
            Outcome::Dropped { reason, .. } => told.refuse(reason),
        }
        if let (Some(other), Verdict::New | Verdict::Kernel) = (answer.elsewhere, told.verdict) {
            told.verdict = Verdict::Handed;
            told.text = format!("hands it to worker {other}, which most likely has its connection");
        }
        told
    }

    fn tell_new(
        &self,
        told: &mut WorkerReport,
        services: &ServiceTable,
        hops: &NextHops,
        tuple: &Tuple,
        (service, server): (ServiceId, ServerId),
        destination: (Address, u16),
    ) {
        told.verdict = Verdict::New;
        let Some(server) = services.server(server) else { return };
        let method = crate::rules::Method::from(server.method);
        told.text = format!("begins a connection to {} ({})", socket(destination), method.name());
        told.server = Some(socket(destination));
        told.method = Some(method);
        let lips = services.service(service).map_or(&[][..], |service| &service.local_addresses);
        let fits = |lip: &&Address| lip.is_v4() == server.address.is_v4();
        // The next one in turn is the worker's business; each does as well to say where it is from.
        let local = lips.iter().find(fits).map(|lip| (*lip, 0));
        told.rewriting = Some(rewriting(tuple, server.method, destination, local, hops));
        let back = server.method.has_replies().then_some(tuple.source);
        self.add_ways(told, hops, server.address, back);
    }

    /// Adds the ways, and what comes of a packet that cannot go its own.
    fn add_ways(&self, told: &mut WorkerReport, hops: &NextHops, to: Address, back: Option<Address>) {
        let way = self.way(hops, to);
        let state = way.state;
        told.way = Some(way);
        told.reply_way = back.map(|back| self.way(hops, back));
        match state {
            WayState::Known | WayState::Unresolved => {}
            WayState::Foreign => told.refuse(DropReason::ForeignInterface),
            WayState::NoRoute => told.refuse(DropReason::NoRoute),
        }
    }

    fn way(&self, hops: &NextHops, to: Address) -> Way {
        let mut way = Way {
            to: to.into(),
            state: WayState::NoRoute,
            route: hops.route(to).map(|prefix| prefix.to_string()),
            gateway: None,
            interface: hops.leaves_by(to).and_then(|place| self.interfaces.get(place)).cloned(),
            vlan: None,
            mac: None,
            mtu: None,
        };
        match hops.resolve(to) {
            Resolution::Hop(id) => {
                way.state = WayState::Unresolved;
                way.gateway = hops.neighbour(id).filter(|near| *near != to).map(IpAddr::from);
                if let Some(hop) = hops.hop(id) {
                    (way.vlan, way.mtu) = (hop.vlan, Some(hop.mtu));
                    if let Some(mac) = hop.mac {
                        way.state = WayState::Known;
                        way.mac = Some(mac.map(|byte| format!("{byte:02x}")).join(":"));
                    }
                }
            }
            Resolution::Ask => way.state = WayState::Unresolved,
            Resolution::Foreign => way.state = WayState::Foreign,
            Resolution::NoRoute => {}
        }
        way
    }
}

impl WorkerReport {
    fn refuse(&mut self, reason: DropReason) {
        let dropped = format!("is dropped ({})", reason.name());
        self.text = match self.verdict {
            Verdict::Silent => dropped,
            _ => format!("{}, and {dropped}", self.text),
        };
        self.verdict = Verdict::Dropped;
        self.reason = Some(reason.name().into());
        self.remedy = remedy(reason).map(str::to_owned);
    }
}

fn socket((address, port): (Address, u16)) -> SocketAddr {
    SocketAddr::new(IpAddr::from(address), port)
}

fn why(wanted: Wanted) -> String {
    match wanted {
        Wanted::Service => "it is for a service".into(),
        Wanted::Ftp => "it may be a data connection of FTP".into(),
        Wanted::LocalAddress => "it is for a local address of FULLNAT".into(),
        Wanted::NatServer => "it is from a server that is reached by NAT".into(),
        Wanted::Marked(mark) => format!("a service has its mark, {mark}"),
    }
}

/// What a client's packet becomes. The port of a LIP is 0 where it is still to be
/// chosen.
fn rewriting(
    tuple: &Tuple,
    method: service::Method,
    server: (Address, u16),
    local: Option<(Address, u16)>,
    hops: &NextHops,
) -> String {
    let client = socket((tuple.source, tuple.source_port));
    let vip = socket((tuple.destination, tuple.destination_port));
    let outer = || {
        let hop = match hops.resolve(server.0) {
            Resolution::Hop(id) => hops.hop(id),
            _ => None,
        };
        hop.and_then(|hop| hop.source).unwrap_or(tuple.destination)
    };
    match method {
        service::Method::Nat => format!("becomes {client} -> {}", socket(server)),
        service::Method::FullNat => {
            let from = match local {
                Some((lip, 0)) => format!("{lip} and a free port"),
                Some(local) => socket(local).to_string(),
                None => "a local address".into(),
            };
            format!("becomes {from} -> {}", socket(server))
        }
        service::Method::DirectRoute => format!("stays {client} -> {vip}, sent to the server's MAC"),
        service::Method::Tunnel => {
            format!(
                "stays {client} -> {vip}, in a tunnel {} -> {}",
                IpAddr::from(outer()),
                IpAddr::from(server.0)
            )
        }
    }
}

fn told_service(
    services: &ServiceTable,
    id: ServiceId,
    tuple: &Tuple,
    health: Option<&ServiceHealth>,
) -> Option<Service> {
    let service = services.service(id)?;
    let found_by = match service.key {
        ServiceKey::Mark { mark, .. } => format!("its mark {mark}, which comes before addresses"),
        ServiceKey::Address { port, .. } if port == tuple.destination_port && port != 0 => {
            "its address and port".into()
        }
        ServiceKey::Address { port: 0, .. } => "its address, of which the service has all ports".into(),
        ServiceKey::Address { .. } => "its address, as a data connection of persistent FTP".into(),
    };
    let checked = |address: IpAddr, port: u16| {
        let found = health?.servers.iter().find(|server| (server.address, server.port) == (address, port))?;
        let reason = if found.reason.is_empty() { String::new() } else { format!(": {}", found.reason) };
        Some(format!("{}{reason}", found.state.name()))
    };
    let mut servers: Vec<Server> = service
        .servers
        .iter()
        .filter_map(|id| services.server(*id))
        .map(|server| {
            let at = socket((server.address, server.port));
            let overloaded = server.thresholds.upper != 0 && server.counters.overload().is_on();
            let passed_over = if server.weight == 0 {
                Some("its weight is 0".to_owned())
            } else if overloaded {
                let upper = server.thresholds.upper;
                Some(format!("it has as many connections as it may have (upper threshold {upper})"))
            } else {
                None
            };
            Server {
                server: at,
                method: server.method.into(),
                weight: server.weight,
                active: server.counters.active(),
                inactive: server.counters.inactive(),
                passed_over,
                health: checked(at.ip(), at.port()),
            }
        })
        .collect();
    // Those that health checks have taken out are not in the workers' table.
    let mentioned: Vec<_> = servers.iter().map(|server| server.server).collect();
    let out = health.iter().flat_map(|health| &health.servers);
    let out = out.filter(|server| !mentioned.contains(&SocketAddr::new(server.address, server.port)));
    let method = service.servers.first().and_then(|id| services.server(*id));
    let method = method.map_or(crate::rules::Method::Nat, |server| server.method.into());
    servers.extend(out.map(|server| Server {
        server: SocketAddr::new(server.address, server.port),
        method,
        weight: 0,
        active: 0,
        inactive: 0,
        passed_over: Some("health checks have taken it out of service".into()),
        health: checked(server.address, server.port),
    }));
    Some(Service {
        name: ServiceName::from(service.key).to_string(),
        found_by,
        scheduler: service.scheduler.name().into(),
        persistence: service.options.persistence.map(|persistence| persistence.timeout),
        local_addresses: service.local_addresses.iter().map(|lip| IpAddr::from(*lip)).collect(),
        servers,
    })
}
