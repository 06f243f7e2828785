//! Services, their servers and their local addresses.

use std::net::{IpAddr, SocketAddr};

use hyper::Method;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Route;
use super::call::{Call, Malformed};
use crate::api::message::{Answer, ConnectionListing, LocalAddressUse, Request};
use crate::api::query::{ConnectionQuery, EndpointQuery};
use crate::rules::{
    self, Family, Granularity, Protocol, Server, ServiceListing, ServiceName, ServiceSettings,
};

const SERVICES: &str = "/v1/services";
const SERVICE: &str = "/v1/services/{kind}/{name}";
const SERVERS: &str = "/v1/services/{kind}/{name}/servers";
const SERVER: &str = "/v1/services/{kind}/{name}/servers/{server}";
const LOCAL_ADDRESSES: &str = "/v1/services/{kind}/{name}/local-addresses";

/// A service to be added.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NewService {
    /// What it is known by
    service: ServiceName,
    /// Its settings
    settings: ServiceSettings,
}

/// A local address to be added.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NewLocalAddress {
    /// The LIP
    address: IpAddr,
}

/// Which connections are listed. Ends of connections are written ADDRESS, ADDRESS:PORT, [IPV6]:PORT,
/// NETWORK/LENGTH or NETWORK/LENGTH:PORT.
#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct ConnectionsQuery {
    /// Transport protocol
    protocol: Option<Protocol>,
    /// Client
    client: Option<EndpointQuery>,
    /// VIP
    service: Option<EndpointQuery>,
    /// Mark of the service
    mark: Option<u32>,
    /// Real server
    server: Option<EndpointQuery>,
    /// LIP of FULLNAT
    local: Option<EndpointQuery>,
    /// IPVS name of the state, as in ESTABLISHED
    state: Option<String>,
    /// How packets reach the server
    method: Option<rules::Method>,
    /// List so many at most
    limit: Option<u64>,
    /// Say only how many there are
    #[serde(deserialize_with = "super::configuration::flag", skip_serializing_if = "std::ops::Not::not")]
    count: bool,
}

/// How many connections there are.
#[derive(Deserialize, JsonSchema)]
struct Count {
    /// The number
    count: u64,
}

impl From<ServiceListing> for Answer {
    fn from(service: ServiceListing) -> Self {
        Answer::Service(service)
    }
}

impl From<ConnectionListing> for Answer {
    fn from(connection: ConnectionListing) -> Self {
        Answer::Connections(vec![connection])
    }
}

impl From<Count> for Answer {
    fn from(Count { count }: Count) -> Self {
        Answer::Count(count)
    }
}

impl From<Vec<LocalAddressUse>> for Answer {
    fn from(uses: Vec<LocalAddressUse>) -> Self {
        Answer::LocalAddresses(uses)
    }
}

/// Settings whose granularity, where none is given, is that of the service's family.
fn fitting(service: &ServiceName, mut settings: ServiceSettings) -> ServiceSettings {
    let host = Granularity::host(Family::Ipv4);
    if service.family() == Family::Ipv6 && settings.granularity == host {
        settings.granularity = Granularity::host(Family::Ipv6);
    }
    settings
}

fn server_at(call: &Call) -> Result<SocketAddr, Malformed> {
    call.part(2, "a real server: write ADDRESS:PORT, an IPv6 address as %5B2001:db8::1%5D")
}

fn service() -> ServiceName {
    ServiceName::Address { protocol: Protocol::Tcp, address: [192, 0, 2, 10].into(), port: 80 }
}

fn mark() -> ServiceName {
    ServiceName::Mark { mark: 7, family: Family::Ipv6 }
}

fn server() -> Server {
    Server::plain([10, 0, 2, 1].into(), 8080, rules::Method::Nat, 3)
}

pub(super) const ROUTES: &[Route] = &[
    Route::new(
        Method::GET,
        SERVICES,
        ("listServices", "All services, the newest first, with their servers, counters and rates"),
        |_| Ok(Request::Services { service: None }),
        |request| matches!(request, Request::Services { service: None }).then(Call::plain),
        || vec![Request::Services { service: None }],
    )
    .lines::<ServiceListing>(),
    Route::new(
        Method::POST,
        SERVICES,
        ("addService", "Adds a service (ipvsadm -A)"),
        |call| {
            let NewService { service, settings } = call.body()?;
            Ok(Request::AddService { service, settings: fitting(&service, settings) })
        },
        |request| match request {
            Request::AddService { service, settings } => {
                let body = NewService { service: *service, settings: settings.clone() };
                Some(Call::plain().with_body(&body))
            }
            _ => None,
        },
        || {
            let persistent =
                ServiceSettings { persistence: Some(300), ..ServiceSettings::plain("wlc", Family::Ipv6) };
            vec![
                Request::AddService {
                    service: service(),
                    settings: ServiceSettings::plain("wrr", Family::Ipv4),
                },
                Request::AddService { service: mark(), settings: persistent },
            ]
        },
    )
    .body::<NewService>()
    .refusals(&[
        "service_exists",
        "scheduler_not_found",
        "out_of_range",
        "invalid",
        "unsupported",
        "taking_over",
    ]),
    Route::new(
        Method::DELETE,
        SERVICES,
        ("flush", "Removes all services (ipvsadm -C)"),
        |_| Ok(Request::Flush),
        |request| matches!(request, Request::Flush).then(Call::plain),
        || vec![Request::Flush],
    )
    .refusals(&["taking_over"]),
    Route::new(
        Method::POST,
        "/v1/services/zero",
        ("zeroAll", "Sets the counters of all services to 0 (ipvsadm -Z)"),
        |_| Ok(Request::Zero { service: None }),
        |request| matches!(request, Request::Zero { service: None }).then(Call::plain),
        || vec![Request::Zero { service: None }],
    )
    .refusals(&["taking_over"]),
    Route::new(
        Method::GET,
        SERVICE,
        ("getService", "One service, with its servers, counters and rates"),
        |call| Ok(Request::Services { service: Some(call.service()?) }),
        |request| match request {
            Request::Services { service: Some(service) } => Some(Call::to(service)),
            _ => None,
        },
        || [service(), mark()].map(|service| Request::Services { service: Some(service) }).into(),
    )
    .one::<ServiceListing>()
    .refusals(&["no_such_service"]),
    Route::new(
        Method::PUT,
        SERVICE,
        ("editService", "Sets all settings of a service anew (ipvsadm -E)"),
        |call| {
            let service = call.service()?;
            Ok(Request::EditService { service, settings: fitting(&service, call.body()?) })
        },
        |request| match request {
            Request::EditService { service, settings } => Some(Call::to(service).with_body(settings)),
            _ => None,
        },
        || {
            let settings = ServiceSettings::plain("sh", Family::Ipv4);
            vec![Request::EditService { service: service(), settings }]
        },
    )
    .body::<ServiceSettings>()
    .refusals(&[
        "no_such_service",
        "scheduler_not_found",
        "out_of_range",
        "invalid",
        "unsupported",
        "taking_over",
    ]),
    Route::new(
        Method::DELETE,
        SERVICE,
        ("deleteService", "Removes a service (ipvsadm -D)"),
        |call| Ok(Request::DeleteService { service: call.service()? }),
        |request| match request {
            Request::DeleteService { service } => Some(Call::to(service)),
            _ => None,
        },
        || vec![Request::DeleteService { service: service() }],
    )
    .refusals(&["no_such_service", "taking_over"]),
    Route::new(
        Method::POST,
        "/v1/services/{kind}/{name}/zero",
        ("zeroService", "Sets the counters of a service to 0 (ipvsadm -Z)"),
        |call| Ok(Request::Zero { service: Some(call.service()?) }),
        |request| match request {
            Request::Zero { service: Some(service) } => Some(Call::to(service)),
            _ => None,
        },
        || vec![Request::Zero { service: Some(service()) }],
    )
    .refusals(&["no_such_service", "taking_over"]),
    Route::new(
        Method::POST,
        SERVERS,
        ("addServer", "Adds a real server (ipvsadm -a)"),
        |call| Ok(Request::AddServer { service: call.service()?, server: call.body()? }),
        |request| match request {
            Request::AddServer { service, server } => Some(Call::to(service).with_body(server)),
            _ => None,
        },
        || vec![Request::AddServer { service: service(), server: server() }],
    )
    .body::<Server>()
    .refusals(&[
        "service_not_defined",
        "server_exists",
        "out_of_range",
        "invalid",
        "unsupported",
        "taking_over",
    ]),
    Route::new(
        Method::PUT,
        SERVER,
        ("editServer", "Sets all of a real server anew but its address and port (ipvsadm -e)"),
        |call| {
            let (service, at, server) = (call.service()?, server_at(call)?, call.body::<Server>()?);
            if (server.address, server.port) != (at.ip(), at.port()) {
                let other = SocketAddr::new(server.address, server.port);
                return Err(Malformed(format!("the path names server {at}, and the body {other}")));
            }
            Ok(Request::EditServer { service, server })
        },
        |request| match request {
            Request::EditServer { service, server } => {
                let at = SocketAddr::new(server.address, server.port);
                Some(Call::to(service).value(at).with_body(server))
            }
            _ => None,
        },
        || vec![Request::EditServer { service: service(), server: Server { weight: 0, ..server() } }],
    )
    .body::<Server>()
    .refusals(&[
        "service_not_defined",
        "no_such_server",
        "out_of_range",
        "invalid",
        "unsupported",
        "taking_over",
    ]),
    Route::new(
        Method::DELETE,
        SERVER,
        ("deleteServer", "Removes a real server (ipvsadm -d)"),
        |call| {
            let (service, at) = (call.service()?, server_at(call)?);
            Ok(Request::DeleteServer { service, address: at.ip(), port: at.port() })
        },
        |request| match request {
            Request::DeleteServer { service, address, port } => {
                Some(Call::to(service).value(SocketAddr::new(*address, *port)))
            }
            _ => None,
        },
        || vec![Request::DeleteServer { service: service(), address: [10, 0, 2, 1].into(), port: 8080 }],
    )
    .refusals(&["service_not_defined", "no_such_server", "taking_over"]),
    Route::new(
        Method::GET,
        "/v1/local-addresses",
        ("listLocalAddresses", "The local addresses of FULLNAT of all services that use some (ipvsadm -G)"),
        |_| Ok(Request::LocalAddresses { service: None }),
        |request| matches!(request, Request::LocalAddresses { service: None }).then(Call::plain),
        || vec![Request::LocalAddresses { service: None }],
    )
    .one::<Vec<LocalAddressUse>>(),
    Route::new(
        Method::GET,
        LOCAL_ADDRESSES,
        ("getLocalAddresses", "The local addresses of FULLNAT of a service (ipvsadm -G)"),
        |call| Ok(Request::LocalAddresses { service: Some(call.service()?) }),
        |request| match request {
            Request::LocalAddresses { service: Some(service) } => Some(Call::to(service)),
            _ => None,
        },
        || vec![Request::LocalAddresses { service: Some(service()) }],
    )
    .one::<Vec<LocalAddressUse>>()
    .refusals(&["no_such_service"]),
    Route::new(
        Method::POST,
        LOCAL_ADDRESSES,
        ("addLocalAddress", "Adds a local address to a service (ipvsadm -P)"),
        |call| {
            let NewLocalAddress { address } = call.body()?;
            Ok(Request::AddLocalAddress { service: call.service()?, address })
        },
        |request| match request {
            Request::AddLocalAddress { service, address } => {
                Some(Call::to(service).with_body(&NewLocalAddress { address: *address }))
            }
            _ => None,
        },
        || vec![Request::AddLocalAddress { service: service(), address: [10, 0, 2, 200].into() }],
    )
    .body::<NewLocalAddress>()
    .refusals(&["service_not_defined", "local_address_exists", "invalid", "taking_over"]),
    Route::new(
        Method::DELETE,
        "/v1/services/{kind}/{name}/local-addresses/{address}",
        ("deleteLocalAddress", "Removes a local address from a service (ipvsadm -Q)"),
        |call| {
            let address = call.part(2, "an address")?;
            Ok(Request::DeleteLocalAddress { service: call.service()?, address })
        },
        |request| match request {
            Request::DeleteLocalAddress { service, address } => Some(Call::to(service).value(address)),
            _ => None,
        },
        || vec![Request::DeleteLocalAddress { service: service(), address: [10, 0, 2, 200].into() }],
    )
    .refusals(&["service_not_defined", "no_such_local_address", "taking_over"]),
    Route::new(
        Method::GET,
        "/v1/connections",
        ("listConnections", "Connections, all or those that are looked for, or only how many there are"),
        |call| {
            let query: ConnectionsQuery = call.query()?;
            let ConnectionsQuery { protocol, client, service, mark, server, local, .. } = query;
            let ConnectionsQuery { state, method, limit, count, .. } = query;
            let query = ConnectionQuery { protocol, client, service, mark, server, local, state, method };
            Ok(Request::FindConnections { query, limit, count })
        },
        |request| match request {
            Request::FindConnections { query, limit, count } => {
                let ConnectionQuery { protocol, client, service, mark, server, local, state, method } =
                    query.clone();
                Some(Call::plain().with_query(&ConnectionsQuery {
                    protocol,
                    client,
                    service,
                    mark,
                    server,
                    local,
                    state,
                    method,
                    limit: *limit,
                    count: *count,
                }))
            }
            _ => None,
        },
        || {
            let query = ConnectionQuery {
                protocol: Some(Protocol::Tcp),
                client: "198.51.100.0/24".parse().ok(),
                service: "192.0.2.10:80".parse().ok(),
                state: Some("ESTABLISHED".into()),
                ..ConnectionQuery::default()
            };
            vec![
                Request::connections(),
                Request::FindConnections { query: query.clone(), limit: Some(100), count: false },
                Request::FindConnections { query, limit: None, count: true },
            ]
        },
    )
    .query::<ConnectionsQuery>()
    .one::<Count>()
    .lines::<ConnectionListing>(),
];
