use std::net::IpAddr;

use sluice_dataplane::conn::State;
use sluice_dataplane::service::{ClientMask, Defense, Engine, FtpPorts, OffloadChoice, Protocol};

use super::*;
use crate::rules::TunnelChecksum;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("s.toml")).map_err(|error| error.to_string())
}

fn ip(text: &str) -> Address {
    text.parse::<IpAddr>().unwrap().into()
}

const SMALLEST: &str = "[director]\ninterfaces = [\"eth0\"]\nworkers = [1]\n";

/// The errors of a file whose `[director]` is in order.
fn service_errors(services: &str) -> String {
    parse(&format!("{SMALLEST}local_addresses = [\"10.0.2.200\"]\n{services}")).unwrap_err()
}

#[test]
fn the_example_of_the_documentation_resolves() {
    let config = parse(
        r#"
            [director]
            interfaces = ["eth0", "eth1"]
            workers = [1]                        # the CPU of each worker
            connections_per_worker = 1_000_000
            local_addresses = ["10.0.2.200"]

            [[service]]
            address = "192.0.2.10:80"
            protocol = "tcp"
            scheduler = "rr"

            [[service.server]]
            address = "10.0.2.1:8080"
            method = "fullnat"
            weight = 3

            [[service.server]]
            address = "10.0.2.2"
            method = "dr"
        "#,
    )
    .unwrap();
    let server = |address, port, method, weight| Server {
        address: ip(address),
        port,
        method,
        tunnel: Tunnel::Ipip,
        weight,
        upper_threshold: 0,
        lower_threshold: 0,
    };
    assert_eq!(
        config,
        Config {
            director: Director {
                interfaces: vec!["eth0".into(), "eth1".into()],
                workers: vec![1],
                connections_per_worker: 1_000_000,
                local_addresses: vec![ip("10.0.2.200")],
                idle: Idle::Spin,
                xdp_mode: XdpMode::Auto,
                socket: None,
                api_group: None,
                role: Role::Active,
                when_gone: WhenGone::Kernel,
                offload: OffloadChoice::Auto,
                offload_flows: 131_072,
                offload_flows_v6: 16_384,
                offload_after: 8,
                offload_stale: 1,
                tunables: Tunables::default(),
                timeouts: TimeoutOverrides::default(),
            },
            services: vec![Service {
                key: ServiceKey::Address { protocol: Protocol::Tcp, address: ip("192.0.2.10"), port: 80 },
                scheduler: SchedulerKind::Rr,
                flags: 0,
                options: ServiceOptions::default(),
                timeouts: TimeoutOverrides::default(),
                local_addresses: vec![],
                health: Default::default(),
                servers: vec![
                    server("10.0.2.1", 8080, Method::FullNat, 3),
                    server("10.0.2.2", 80, Method::DirectRoute, 1),
                ],
            }],
            marks: vec![],
            web: Web::default(),
            sync: None,
            daemons: vec![],
        }
    );
}

#[test]
fn sync_daemons_are_checked() {
    let daemon = "[[sync_daemon]]\nrole = \"backup\"\ninterface = \"eth1\"\n";
    let config = parse(&format!("{SMALLEST}{daemon}sync_id = 7\ngroup = \"ff02::81\"\n")).unwrap();
    let [daemon_of_it] = &config.daemons[..] else { panic!("{:?}", config.daemons) };
    assert_eq!((daemon_of_it.sync_id, daemon_of_it.port), (Some(7), None));
    assert_eq!(daemon_of_it.group, Some("ff02::81".parse().unwrap()));
    let wrong = "sync_id = 256\nmax_length = 0\ngroup = \"10.0.0.1\"\nport = 0\nttl = 0\n";
    let error = parse(&format!("{SMALLEST}{daemon}{wrong}")).unwrap_err();
    for (line, key) in ["sync_id", "max_length", "group", "port", "ttl"].iter().enumerate() {
        assert!(error.contains(&format!("s.toml:{}:", line + 7)), "{error}");
        assert!(error.contains(&format!("{key} cannot be")), "{error}");
    }
    let error = parse(&format!("{SMALLEST}{daemon}{daemon}")).unwrap_err();
    assert!(error.contains("two sync daemons as backup"), "{error}");
    let error = parse(&format!("{SMALLEST}[[sync_daemon]]\nrole = \"x\"\ninterface = \"\"\n")).unwrap_err();
    assert!(error.contains("role cannot be") && error.contains("name of an interface"), "{error}");
}

#[test]
fn a_director_needs_no_service_and_has_defaults() {
    let config = parse(SMALLEST).unwrap();
    assert_eq!(config.services, []);
    assert_eq!(config.director.connections_per_worker, DEFAULT_CONNECTIONS);
    let config = parse(&format!(
        "{SMALLEST}idle = \"sleep\"\nxdp_mode = \"generic\"\nsocket = \"/run/x.sock\"\napi_group = \"lb\"\n\
         [[service]]\naddress = \"192.0.2.1:53\"\nprotocol = \"udp\"\n"
    ))
    .unwrap();
    assert_eq!(config.director.idle, Idle::Sleep);
    assert_eq!(config.director.xdp_mode, XdpMode::Generic);
    assert_eq!(config.director.socket, Some("/run/x.sock".into()));
    assert_eq!(config.director.api_group.as_deref(), Some("lb"));
    assert_eq!(config.services[0].scheduler, SchedulerKind::Wlc);
    assert_eq!(config.services[0].servers, []);
}

#[test]
fn an_unknown_key_is_refused_where_it_stands() {
    assert_eq!(
        parse(&format!("{SMALLEST}interface = 5\nxdpmode = 1\n")).unwrap_err(),
        "\
s.toml:4:1: unknown key `interface`
    hint: did you mean `interfaces`? configs/all.toml explains every key
s.toml:5:1: unknown key `xdpmode`
    hint: did you mean `xdp_mode`? configs/all.toml explains every key"
    );
    let error = parse(&format!("{SMALLEST}[extra]\n")).unwrap_err();
    assert!(error.starts_with("s.toml:4:2: unknown key `extra`"), "{error}");
}

#[test]
fn syntax_and_type_errors_have_a_place() {
    let error = parse("[director]\ninterfaces = [\n").unwrap_err();
    assert!(error.starts_with("s.toml:2:"), "{error}");
    let error = parse("[director]\ninterfaces = \"eth0\"\nworkers = [1]\n").unwrap_err();
    assert_eq!(error, "s.toml:2:14: invalid type: string \"eth0\", expected a sequence");
    let error = parse(&format!("{SMALLEST}idle = 1\n[[service]]\naddress = 2\nx = \n")).unwrap_err();
    let places: Vec<_> = error.lines().filter_map(|line| line.strip_prefix("s.toml:")).collect();
    assert!(places.iter().any(|place| place.starts_with("4:8: invalid type")), "{error}");
    assert!(places.iter().any(|place| place.starts_with("6:11: invalid type")), "{error}");
    assert!(places.iter().any(|place| place.starts_with("7:")), "{error}");
    let error = parse("[director]\ninterfaces = [\"eth0\"]\n").unwrap_err();
    assert!(error.starts_with("s.toml:1:1: missing field `workers`\n    hint: add the key"), "{error}");
    let error = parse("").unwrap_err();
    assert!(error.starts_with("s.toml:1:1: missing field `director`"), "{error}");
}

#[test]
fn columns_count_characters() {
    let text = "[director]\ninterfaces = [\"é\", \"a b\"]\nworkers = [1]\n";
    assert_eq!(
        parse(text).unwrap_err(),
        "s.toml:2:20: \"a b\" cannot be the name of an interface\n    \
         hint: `ip -br link` lists the names of the interfaces of this machine"
    );
}

#[test]
fn every_mistake_of_the_director_is_shown() {
    let text = r#"[director]
interfaces = ["eth0", "eth0"]
workers = [1, -1, 1, 4096]
connections_per_worker = 0
local_addresses = ["10.0.2.200", "10.0.2.200", "::ffff:1.2.3.4", "10.0.2", "fe80::1"]
idle = "nap"
xdp_mode = "fast"
socket = "sluice.sock"
role = "master"
when_gone = "reset"
api_group = "two words"
"#;
    assert_eq!(
        parse(text).unwrap_err(),
        "\
s.toml:2:23: interface eth0 is named twice
    hint: remove one of the two
s.toml:3:15: -1 is not the number of a CPU
    hint: CPUs are numbered from 0, up to 1023
s.toml:3:19: CPU 1 has two workers
    hint: give each worker a CPU of its own, or let them sleep (idle = \"sleep\")
s.toml:3:22: 4096 is not the number of a CPU
    hint: CPUs are numbered from 0, up to 1023
s.toml:4:26: connections_per_worker cannot be 0
    hint: choose 16 to 64000000
s.toml:5:34: local address 10.0.2.200 is named twice
    hint: remove one of the two
s.toml:5:48: ::ffff:1.2.3.4 is an IPv4 address in the form of an IPv6 one
    hint: write 1.2.3.4
s.toml:5:66: \"10.0.2\" is not an IP address
    hint: write it without a port or prefix length, as in \"10.0.2.200\"
s.toml:5:76: fe80::1 is not an address that packets can be sent to from outside
    hint: use a unicast address that is neither of the loopback network nor link-local
s.toml:6:8: there is no idle \"nap\"
    hint: choose \"spin\" or \"sleep\"
s.toml:7:12: there is no xdp_mode \"fast\"
    hint: choose \"auto\", \"native\" or \"generic\"
s.toml:8:10: \"sluice.sock\" cannot be the path of a socket
    hint: give an absolute path of at most 107 bytes
s.toml:9:8: there is no role \"master\"
    hint: choose \"active\" or \"backup\"
s.toml:10:13: there is no when_gone \"reset\"
    hint: choose \"kernel\" or \"drop\"
s.toml:11:13: \"two words\" cannot be the name of a group
    hint: `getent group` lists those that there are; leave it out so that only root has access"
    );
}

#[test]
fn what_the_kernel_carries_is_checked() {
    let service = "[[service]]\naddress = \"192.0.2.10:80\"\nprotocol = \"tcp\"\noffload = ";
    let keys = "offload = \"auto\"\noffload_flows = 1_000\noffload_flows_v6 = 16\noffload_after = 1\noffload_stale = 60\n";
    let config = parse(&format!("{SMALLEST}{keys}{service}\"off\"\n")).unwrap();
    let Director { offload, offload_flows, offload_flows_v6, offload_after, offload_stale, .. } =
        config.director;
    assert_eq!((offload, offload_flows, offload_flows_v6), (OffloadChoice::Auto, 1000, 16));
    assert_eq!((offload_after, offload_stale), (1, 60));
    assert_eq!(config.services[0].options.offload, OffloadChoice::Off);
    let keys = "offload = \"off\"\noffload_flows = 1\noffload_after = 251\noffload_stale = 0\n";
    assert_eq!(
        parse(&format!("{SMALLEST}{keys}{service}\"on\"\n{service}\"yes\"\n")).unwrap_err(),
        "\
s.toml:5:17: offload_flows cannot be 1
    hint: choose 16 to 64000000
s.toml:6:17: offload_after cannot be 251
    hint: choose 1 to 250
s.toml:7:17: offload_stale cannot be 0
    hint: choose 1 to 60
s.toml:11:11: offload is \"off\" for the director
    hint: remove it here, or set offload = \"auto\" or \"on\" in [director]
s.toml:13:11: tcp 192.0.2.10:80 is a service already, in line 9
    hint: put all its servers into one [[service]]
s.toml:15:11: there is no offload \"yes\"
    hint: choose \"auto\", \"on\" or \"off\""
    );
}

#[test]
fn empty_lists_are_refused() {
    assert_eq!(
        parse("[director]\ninterfaces = []\nworkers = []\n").unwrap_err(),
        "\
s.toml:2:14: a director has 1 to 64 interfaces, not 0
    hint: name the interfaces that clients and real servers are reached by, as in [\"eth0\", \"eth1\"]
s.toml:3:11: a director needs at least one worker
    hint: name the CPU of each worker, as in [1]; `nproc` says how many CPUs there are"
    );
}

#[test]
fn every_mistake_of_a_service_is_shown() {
    let text = r#"
[[service]]
address = "192.0.2.10"
protocol = "dccp"
scheduler = "fastest"
[[service.server]]
address = "10.0.2.1:http"
method = "masq"
weight = 2147483648
[[service]]
address = "[::ffff:192.0.2.10]:80"
protocol = "tcp"
[[service]]
address = "192.0.2.10:0"
protocol = "tcp"
[[service]]
address = "10.0.2.200:80"
protocol = "tcp"
"#;
    assert_eq!(
        service_errors(text),
        "\
s.toml:4:20: local address 10.0.2.200 is also the address of the service in line 21
    hint: use an address that no service has
s.toml:7:11: \"192.0.2.10\" is not an address and port
    hint: write IP:PORT, as in \"192.0.2.10:80\" or \"[2001:db8::10]:80\"
s.toml:8:12: there is no protocol \"dccp\"
    hint: choose \"tcp\", \"udp\" or \"sctp\"
s.toml:9:13: there is no scheduler \"fastest\"
    hint: choose \"rr\", \"wrr\", \"lc\", \"wlc\", \"sh\", \"dh\", \"sed\", \"nq\", \"lblc\", \"lblcr\", \"mh\", \"fo\" or \"ovf\"
s.toml:11:11: \"10.0.2.1:http\" is not an address, nor an address and port
    hint: write IP or IP:PORT, as in \"10.0.2.1:80\" or \"[2001:db8::1]:80\"
s.toml:12:10: there is no method \"masq\"
    hint: choose \"nat\", \"fullnat\", \"dr\" or \"tun\"
s.toml:13:10: a weight cannot be 2147483648
    hint: choose 0 to 2147483647; 0 takes no new connections
s.toml:15:11: ::ffff:192.0.2.10 is an IPv4 address in the form of an IPv6 one
    hint: write 192.0.2.10
s.toml:18:11: a service of all ports (port 0) needs persistence
    hint: add persistent = 300, or name a port from 1 to 65535"
    );
}

#[test]
fn servers_are_checked_against_their_service() {
    let text = r#"
[[service]]
address = "192.0.2.10:80"
protocol = "tcp"
[[service.server]]
address = "10.0.2.1:8080"
method = "dr"
[[service.server]]
address = "10.0.2.2"
method = "nat"
[[service.server]]
address = "10.0.2.2:80"
method = "nat"
[[service.server]]
address = "192.0.2.10:8080"
method = "nat"
[[service.server]]
address = "10.0.2.3:0"
method = "nat"
[[service]]
address = "192.0.2.10:80"
protocol = "udp"
[[service]]
address = "192.0.2.10:80"
protocol = "tcp"
"#;
    assert_eq!(
        service_errors(text),
        "\
s.toml:10:11: dr leaves packets as they are, so the server gets them at port 80, not 8080
    hint: leave out the port, or write 80; nat and fullnat can change it
s.toml:16:11: 10.0.2.2:80 is a server of this service already, in line 13
    hint: remove one of the two
s.toml:19:11: the server has the address of its own service, 192.0.2.10
    hint: use the address of the machine that the server runs on
s.toml:28:11: tcp 192.0.2.10:80 is a service already, in line 7
    hint: put all its servers into one [[service]]"
    );
}

#[test]
fn fullnat_needs_a_local_address() {
    let service = "[[service]]\naddress = \"192.0.2.10:80\"\nprotocol = \"tcp\"\n";
    let server = "[[service.server]]\naddress = \"10.0.2.1\"\nmethod = \"fullnat\"\n";
    assert_eq!(
        parse(&format!("{SMALLEST}{service}{server}")).unwrap_err(),
        "s.toml:9:10: fullnat needs an IPv4 local address to send from, and there is none\n    \
         hint: add local_addresses = [\"...\"] to [director] or to this [[service]]"
    );
    let own = "local_addresses = [\"10.0.2.9\"]\n";
    assert_eq!(
        parse(&format!("{SMALLEST}{service}{own}{server}")).unwrap().services[0].local_addresses,
        [ip("10.0.2.9")]
    );
}

#[test]
fn ipv6_is_taken() {
    let text = r#"local_addresses = ["2001:db8:2::200", "10.0.2.200"]
[[service]]
address = "[2001:db8:f::10]:80"
protocol = "tcp"
[[service.server]]
address = "[2001:db8:2::1]:8080"
method = "nat"
[[service.server]]
address = "2001:db8:2::2"
method = "fullnat"
[[service.server]]
address = "10.0.2.1"
method = "tun"
[[service.server]]
address = "10.0.2.2"
method = "fullnat"
"#;
    let config = parse(&format!("{SMALLEST}{text}")).unwrap();
    let servers: Vec<_> = config.services[0].servers.iter().map(|s| (s.address, s.port)).collect();
    assert_eq!(
        servers,
        [(ip("2001:db8:2::1"), 8080), (ip("2001:db8:2::2"), 80), (ip("10.0.2.1"), 80), (ip("10.0.2.2"), 80)]
    );
}

#[test]
fn only_some_methods_cross_address_families() {
    let text = r#"local_addresses = ["2001:db8:2::200"]
[[service]]
address = "192.0.2.10:80"
protocol = "tcp"
[[service.server]]
address = "2001:db8:2::1"
method = "dr"
[[service.server]]
address = "10.0.2.1"
method = "fullnat"
"#;
    assert_eq!(
        parse(&format!("{SMALLEST}{text}")).unwrap_err(),
        "\
s.toml:9:11: dr cannot take IPv4 clients to an IPv6 server
    hint: use fullnat or tun, or a server of the service's address family
s.toml:13:10: fullnat needs an IPv4 local address to send from, and there is none
    hint: add local_addresses = [\"...\"] to [director] or to this [[service]]"
    );
}

#[test]
fn a_local_address_is_not_a_servers() {
    let text = "[[service]]\naddress = \"192.0.2.10:80\"\nprotocol = \"tcp\"\n\
                [[service.server]]\naddress = \"10.0.2.200:81\"\nmethod = \"nat\"\n";
    assert_eq!(
        service_errors(text),
        "s.toml:4:20: local address 10.0.2.200 is also the address of the server in line 9\n    \
         hint: use an address of the director, which no server has"
    );
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::load(Path::new("/nonexistent/s.toml")).unwrap_err().to_string();
    assert_eq!(
        error,
        "cannot read the configuration /nonexistent/s.toml: No such file or directory (os error 2)"
    );
}

#[test]
fn scheduler_flags_and_thresholds() {
    let service = |keys: &str, server: &str| {
        format!(
            "[[service]]\naddress = \"192.0.2.10:80\"\nprotocol = \"tcp\"\n{keys}\n\
             [[service.server]]\naddress = \"10.0.2.1\"\nmethod = \"nat\"\n{server}\n"
        )
    };
    let config = |keys, server| parse(&format!("{SMALLEST}{}", service(keys, server))).unwrap();
    for (keys, flags) in [
        ("scheduler = \"sh\"\nflags = [\"sh-port\", \"sh-fallback\"]", 3),
        ("scheduler = \"mh\"\nflags = [\"mh-port\"]", 2),
        ("scheduler = \"mh\"\nflags = []", 0),
        ("scheduler = \"rr\"\nflags = []", 0),
    ] {
        assert_eq!(config(keys, "").services[0].flags, flags, "{keys}");
    }
    for (keys, upper, lower) in [
        ("upper_threshold = 5", 5, 0),
        ("upper_threshold = 2147483647\nlower_threshold = 5", i32::MAX as u32, 5),
    ] {
        let server = config("", keys).services[0].servers[0].clone();
        assert_eq!((server.upper_threshold, server.lower_threshold), (upper, lower));
    }
    for (keys, server, message) in [
        (
            "scheduler = \"sh\"\nflags = [\"mh-port\"]",
            "",
            "there is no flag \"mh-port\"\n    hint: did you mean \"sh-port\"? choose \"flag-1\", ",
        ),
        ("flags = [\"sh-port\"]", "", "there is no flag \"sh-port\"\n    hint: choose \"flag-1\", "),
        ("", "upper_threshold = -1", "upper_threshold cannot be -1\n    hint: choose 0 to 2147483647"),
        (
            "",
            "lower_threshold = 3",
            "the lower threshold 3 is above the upper one, 0\n    hint: choose at most",
        ),
    ] {
        let error = service_errors(&service(keys, server));
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn persistence_and_one_packet_scheduling_are_checked() {
    let service =
        |rest: &str| format!("[[service]]\naddress = \"192.0.2.10:53\"\nprotocol = \"tcp\"\n{rest}");
    let resolved = parse(&format!("{SMALLEST}{}", service("persistent = 60\nnetmask = \"255.255.255.0\"\n")));
    let persistence = resolved.unwrap().services[0].options.persistence.unwrap();
    assert_eq!((persistence.timeout, persistence.mask.v4_mask()), (60, [255, 255, 255, 0]));
    assert_eq!(
        service_errors(&service("one_packet = true\npersistent = 0\nnetmask = \"24\"\n")),
        "\
s.toml:8:14: one_packet is for UDP services only
    hint: remove it, or make the protocol \"udp\"
s.toml:9:14: persistent cannot be 0 seconds
    hint: choose 1 to 2678400
s.toml:10:11: \"24\" is not an IPv4 netmask
    hint: write it as in \"255.255.255.0\""
    );
    assert_eq!(
        service_errors(&service("netmask = \"255.255.255.0\"\n")),
        "s.toml:8:11: a netmask is for persistent services only\n    hint: remove it, or add persistent = 300"
    );
}

#[test]
fn the_netmask_of_ipv6_is_a_prefix_length() {
    let service = |mask: &str| {
        format!(
            "[[service]]\naddress = \"[2001:db8::1]:53\"\nprotocol = \"udp\"\npersistent = 60\nnetmask = \"{mask}\"\n"
        )
    };
    for bits in [1, 64, 128] {
        let resolved = parse(&format!("{SMALLEST}{}", service(&bits.to_string()))).unwrap();
        assert_eq!(resolved.services[0].options.persistence.unwrap().mask, ClientMask::v6(bits));
    }
    for wrong in ["0", "129", "/64", "", "255.255.255.0", "ffff::"] {
        assert_eq!(
            service_errors(&service(wrong)),
            format!(
                "s.toml:9:11: {wrong:?} is not the prefix length of an IPv6 network\n    hint: write it as in \"64\", from 1 to 128"
            )
        );
    }
    let mark = |family: &str, mask: &str| {
        format!("[[service]]\nmark = 1\nfamily = \"{family}\"\npersistent = 60\nnetmask = \"{mask}\"\n")
    };
    let resolved = parse(&format!("{SMALLEST}{}", mark("ipv6", "48"))).unwrap();
    assert_eq!(resolved.services[0].options.persistence.unwrap().mask, ClientMask::v6(48));
    assert!(service_errors(&mark("ipv4", "48")).contains("\"48\" is not an IPv4 netmask"));
}

#[test]
fn a_persistence_engine_is_checked() {
    let service = |protocol: &str, rest: &str| {
        format!("[[service]]\naddress = \"192.0.2.10:5060\"\nprotocol = \"{protocol}\"\n{rest}")
    };
    let resolved =
        parse(&format!("{SMALLEST}{}", service("udp", "persistent = 60\nengine = \"sip\"\n"))).unwrap();
    assert_eq!(resolved.services[0].options.engine, Some(Engine::Sip));
    assert_eq!(
        service_errors(&service("tcp", "engine = \"sip\"\n")),
        "\
s.toml:8:10: a persistence engine is for persistent services only
    hint: remove it, or add persistent = 300
s.toml:8:10: the engine \"sip\" is for UDP services only
    hint: remove it, or make the protocol \"udp\""
    );
    assert_eq!(
        service_errors(&service("udp", "persistent = 60\nengine = \"SIP\"\n")),
        "s.toml:9:10: \"SIP\" is not a persistence engine\n    hint: choose \"sip\""
    );
}

#[test]
fn sysctls_are_settings_of_the_director() {
    let all =
        "expire_nodest_conn = true\nexpire_quiescent_template = true\nconn_reuse_mode = 3\nsloppy_tcp = true
sloppy_sctp = true
drop_entry = 1\ndrop_packet = 2\nsecure_tcp = 3\namemthresh = 2048\nam_droprate = 20\nnat_icmp_send = true
pmtu_disc = false\nlblc_expiration = 600\nlblcr_expiration = 700\n
sync_refresh_period = 10\nsync_persist_mode = true\nsync_sock_size = 1048576\n";
    let expected = Tunables {
        expire_nodest_conn: true,
        expire_quiescent_template: true,
        conn_reuse_mode: 3,
        sloppy_tcp: true,
        ftp: FtpPorts::default(),
        sloppy_sctp: true,
        drop_entry: Defense::WhenShort,
        drop_packet: Defense::WhenShort,
        secure_tcp: Defense::Always,
        amemthresh: 2048,
        am_droprate: 20,
        nat_icmp_send: true,
        pmtu_disc: false,
        lblc_expiration: 600,
        lblcr_expiration: 700,
        sync_refresh_period: 10,
        sync_persist_mode: true,
        sync_sock_size: 1 << 20,
    };
    assert_eq!(parse(&format!("{SMALLEST}{all}")).unwrap().director.tunables, expected);
    assert_eq!(
        parse(&format!("{SMALLEST}conn_reuse_mode = 4\ndrop_entry = -1\nam_droprate = 0\n")).unwrap_err(),
        "\
s.toml:4:19: conn_reuse_mode cannot be 4
    hint: choose 0 to 3
s.toml:5:14: drop_entry cannot be -1
    hint: choose 0 for never, 1 for when room is short, or 3 for always
s.toml:6:15: am_droprate cannot be 0
    hint: choose 1 to 2147483647"
    );
}

#[test]
fn a_defence_that_would_always_be_on_is_refused() {
    let with = |connections, settings| {
        parse(&format!("{SMALLEST}connections_per_worker = {connections}\namemthresh = 1000\n{settings}\n"))
    };
    assert!(with(41_001, "drop_packet = 1").is_ok());
    assert!(with(41_000, "drop_packet = 3").is_ok());
    assert_eq!(
        with(41_000, "drop_packet = 1").unwrap_err(),
        "s.toml:6:15: drop_packet would always be on: there is room for 41000 connections in all
    hint: lower amemthresh below 1000, or raise connections_per_worker"
    );
}

#[test]
fn timeouts_are_set_by_state() {
    let text = format!(
        "{SMALLEST}timeouts = {{ established = 100, time_wait = 5 }}
[[service]]\naddress = \"192.0.2.10:53\"\nprotocol = \"udp\"\ntimeouts.udp = 30\n"
    );
    let config = parse(&text).unwrap();
    let mut expected = TimeoutOverrides::default();
    expected.set(State::Established, 100);
    expected.set(State::TimeWait, 5);
    assert_eq!(config.director.timeouts, expected);
    let mut expected = TimeoutOverrides::default();
    expected.set(State::Udp, 30);
    assert_eq!(config.services[0].timeouts, expected);
    let error = parse(&format!("{SMALLEST}timeouts = {{ open = 1, close = 0 }}\n")).unwrap_err();
    assert!(
        error.contains("s.toml:4:21: there is no state \"open\"\n    hint: choose none, established, "),
        "{error}"
    );
    assert!(
        error.contains("s.toml:4:32: close cannot be 0 seconds\n    hint: choose 1 to 2678400"),
        "{error}"
    );
}

#[test]
fn tunnels_are_checked() {
    let server = |method: &str, rest: &str| {
        format!(
            "[[service]]\naddress = \"192.0.2.10:80\"\nprotocol = \"tcp\"
[[service.server]]\naddress = \"10.0.2.1\"\nmethod = \"{method}\"\n{rest}\n"
        )
    };
    for (keys, expected) in [
        ("", Tunnel::Ipip),
        ("tunnel = \"ipip\"", Tunnel::Ipip),
        ("tunnel = \"gre\"\ntunnel_checksum = true", Tunnel::Gre { checksum: TunnelChecksum::Sent }),
        (
            "tunnel = \"gue\"\ntunnel_port = 6080\ntunnel_checksum = false",
            Tunnel::Gue { port: 6080, checksum: TunnelChecksum::None },
        ),
        (
            "tunnel = \"gue\"\ntunnel_port = 6080\ntunnel_checksum = \"remote\"",
            Tunnel::Gue { port: 6080, checksum: TunnelChecksum::Remote },
        ),
    ] {
        let config = parse(&format!("{SMALLEST}{}", server("tun", keys))).unwrap();
        assert_eq!(config.services[0].servers[0].tunnel, expected);
    }
    for (method, keys, message) in [
        ("dr", "tunnel = \"gre\"", "only servers of method \"tun\" have a tunnel"),
        ("tun", "tunnel = \"vxlan\"", "there is no tunnel \"vxlan\""),
        ("tun", "tunnel = \"gue\"", "a tunnel of \"gue\" needs the UDP port"),
        (
            "tun",
            "tunnel = \"gue\"\ntunnel_port = 65536",
            "s.toml:12:15: a tunnel of \"gue\" needs the UDP port",
        ),
        ("tun", "tunnel_port = 1", "only a tunnel of \"gue\" has a port"),
        ("tun", "tunnel = \"gre\"\ntunnel_checksum = \"remote\"", "a tunnel has no checksum \"remote\""),
        ("tun", "tunnel_checksum = true", "a tunnel of \"ipip\" has no checksum"),
    ] {
        let error = service_errors(&server(method, keys));
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn ports_of_ftp_are_checked() {
    let ftp = |keys: &str| parse(&format!("{SMALLEST}{keys}")).map(|config| config.director.tunables.ftp);
    assert_eq!(ftp("").unwrap(), FtpPorts { control: [21, 0, 0, 0, 0, 0, 0, 0], passive: (1024, 65535) });
    assert_eq!(ftp("ftp_ports = []\n").unwrap().control, [0; 8]);
    let set = ftp("ftp_ports = [21, 2121]\nftp_passive_ports = \"50000 - 50999\"\n").unwrap();
    assert_eq!(set, FtpPorts { control: [21, 2121, 0, 0, 0, 0, 0, 0], passive: (50000, 50999) });
    assert_eq!(
        ftp("ftp_ports = [1, 70000]\nftp_passive_ports = \"80-90\"\n").unwrap_err(),
        "\
s.toml:4:14: 1 is no port of FTP
    hint: choose 2 to 65535; the port below it is for data
s.toml:4:17: 70000 is no port of FTP
    hint: choose 2 to 65535; the port below it is for data
s.toml:5:21: \"80-90\" is no range of passive ports
    hint: write FIRST-LAST with ports from 1024 on, as in \"50000-50999\""
    );
    assert_eq!(
        ftp("ftp_ports = [2, 3, 4, 5, 6, 7, 8, 9, 10]\n").unwrap_err(),
        "s.toml:4:13: 9 ftp_ports are too many\n    hint: name 8 at most"
    );
    for range in ["5000", "6000-5000", "1024-65536", "", "-"] {
        let error = ftp(&format!("ftp_passive_ports = \"{range}\"\n")).unwrap_err();
        assert!(error.contains("is no range of passive ports"), "{range}: {error}");
    }
}

#[test]
fn workers_that_sleep_may_share_a_cpu() {
    let director = |idle| format!("[director]\ninterfaces = [\"eth0\"]\nworkers = [1, 0, 1, 0]\n{idle}");
    assert_eq!(parse(&director("idle = \"sleep\"")).unwrap().director.workers, [1, 0, 1, 0]);
    assert!(parse(&director("")).unwrap_err().contains("CPU 1 has two workers"));
}

#[test]
fn a_report_quotes_the_line_with_a_caret() {
    let text = "[director]\ninterfaces = [\"eth0\"]\nworkers = [1]\nidle = \"spim\" # é\n";
    let error = Config::parse(text, Path::new("s.toml")).unwrap_err();
    assert_eq!(
        error.report(),
        "\
s.toml:4:8: there is no idle \"spim\"
4 | idle = \"spim\" # é
  |        ^^^^^^
    hint: did you mean \"spin\"? choose \"spin\" or \"sleep\""
    );
}

#[test]
fn a_table_with_a_mistake_does_not_hide_the_others() {
    let text = r#"
[[service]]
protocol = "tcp"
[[service.server]]
adress = "10.0.2.1"
method = "nat"
weight = "3"
[[service]]
address = "192.0.2.1:80"
protocol = 6
"#;
    assert_eq!(
        service_errors(text),
        "\
s.toml:6:1: missing field `address`
    hint: give the service an address and a protocol, as in configs/minimal.toml, or a mark
s.toml:8:1: missing field `address`
    hint: add the key to this table; configs/minimal.toml is the smallest configuration
s.toml:9:1: unknown key `adress`
    hint: did you mean `address`? configs/all.toml explains every key
s.toml:11:10: invalid type: string \"3\", expected i64
s.toml:14:12: invalid type: integer `6`, expected a string"
    );
}
