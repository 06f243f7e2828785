use std::path::Path;

use sluice_dataplane::service::{Family, Method, ServiceKey};

use super::Config;

fn parse(text: &str) -> Result<Config, String> {
    let smallest = "[director]\ninterfaces = [\"eth0\", \"eth1\"]\nworkers = [1]\n";
    Config::parse(&format!("{smallest}{text}"), Path::new("s.toml")).map_err(|error| error.to_string())
}

#[test]
fn rules_and_services_of_marks_are_resolved_in_order() {
    let config = parse(
        r#"
[[mark]]
vip = "192.0.2.10"
protocol = "tcp"
ports = [443, 80, "8000-8100"]
set = 10

[[mark]]
vip = "2001:db8::/32"
from = "2001:db8:9::/48"
in = "eth+"
set = "0x10/0xff"

[[service]]
mark = 10
persistent = 300

[[service.server]]
address = "10.0.2.1"
method = "dr"

[[service]]
mark = 10
family = "ipv6"

[[service.server]]
address = "[2001:db8:2::1]:8080"
method = "nat"
"#,
    )
    .unwrap();
    let rules: Vec<_> = config.marks.iter().map(|(line, rule)| format!("{line}: {rule}")).collect();
    assert_eq!(
        rules,
        [
            "5: --vip 192.0.2.10 --proto tcp --port 80,443,8000-8100 --set 10",
            "11: --vip 2001:db8::/32 --from 2001:db8:9::/48 --in eth+ --set 0x10/0xff",
        ]
    );
    let services: Vec<_> = config.services.iter().map(|service| service.key).collect();
    let mark = |family| ServiceKey::Mark { mark: 10, family };
    assert_eq!(services, [mark(Family::V4), mark(Family::V6)]);
    let servers = config.services.iter().map(|service| &service.servers[0]);
    let servers: Vec<_> = servers.map(|server| (server.method, server.port)).collect();
    assert_eq!(servers, [(Method::DirectRoute, 0), (Method::Nat, 8080)]);
}

#[test]
fn mistakes_in_rules_are_shown_with_their_place() {
    let text = r#"[[mark]]
vip = "192.0.2.300"
ports = [80]
set = -1
[[mark]]
vip = "192.0.2.10/33"
protocol = "icmp"
ports = [70000, "90-80", true]
set = "0x1g"
[[mark]]
vip = "::ffff:192.0.2.10"
set = 1
[[mark]]
vip = "192.0.2.10"
from = "2001:db8::/32"
in = "eth7"
set = 1
"#;
    assert_eq!(
        parse(text).unwrap_err(),
        "\
s.toml:5:7: \"192.0.2.300\": expected an address or a prefix, as in 192.0.2.10, 192.0.2.0/24 or 2001:db8::/32
s.toml:6:10: ports are those of a protocol, and this is for any
    hint: add protocol = \"tcp\" or protocol = \"udp\"
s.toml:7:7: -1 cannot be set as a mark
    hint: write a number up to 4294967295, or \"MARK/MASK\" as in \"0x10/0xff\"
s.toml:9:7: \"192.0.2.10/33\": a prefix of 192.0.2.10 has a length of 0 to 32, not 33
s.toml:10:12: there is no protocol \"icmp\"
    hint: choose \"any\", \"tcp\", \"udp\" or \"sctp\"
s.toml:11:10: \"70000\" is not a port; ports are numbers from 0 to 65535
    hint: write ports as in [80, 443, \"8000-8100\"]
s.toml:11:17: the range 90-80 ends before it begins; write 80-90
    hint: write ports as in [80, 443, \"8000-8100\"]
s.toml:11:26: \"true\" is not a port; ports are numbers from 0 to 65535
    hint: write ports as in [80, 443, \"8000-8100\"]
s.toml:12:7: \"0x1g\" cannot be set as a mark
    hint: write a number up to 4294967295, or \"MARK/MASK\" as in \"0x10/0xff\"
s.toml:14:7: \"::ffff:192.0.2.10\": ::ffff:192.0.2.10 is an IPv4 address in the form of an IPv6 one; write 192.0.2.10
s.toml:18:8: 2001:db8::/32 and 192.0.2.10 are not of the same address family
    hint: name a source of the family of the vip
s.toml:19:6: interface eth7 is none of the director's
    hint: choose one of eth0, eth1; packets that come in by others are the kernel's"
    );
}

#[test]
fn mistakes_in_services_of_marks_are_shown() {
    let text = r#"[[service]]
mark = 0
[[service]]
mark = 1
address = "192.0.2.10:80"
[[service]]
mark = 2
protocol = "tcp"
family = "ipx"
[[service]]
protocol = "tcp"
[[service]]
address = "192.0.2.10:80"
protocol = "tcp"
family = "ipv4"
[[service]]
mark = 3
persistent = 300
[[service.server]]
address = "10.0.2.1:80"
method = "nat"
[[service.server]]
address = "10.0.2.2:80"
method = "dr"
[[service.server]]
address = "2001:db8::1"
method = "dr"
[[service]]
mark = 3
"#;
    assert_eq!(
        parse(text).unwrap_err(),
        "\
s.toml:5:8: 0 cannot be the mark of a service
    hint: choose 1 to 4294967295; packets without a mark have 0
s.toml:7:8: a service has either a mark or an address
    hint: remove one of the two; a [[mark]] says which addresses and ports have the mark
s.toml:11:12: a service of a mark has no protocol of its own
    hint: remove it; the protocol of a [[mark]] says which packets have the mark
s.toml:12:10: there is no family \"ipx\"
    hint: choose \"ipv4\" or \"ipv6\"
s.toml:13:1: missing field `address`
    hint: give the service an address and a protocol, as in configs/minimal.toml, or a mark
s.toml:18:10: the family of a service with an address is that of the address
    hint: remove it
s.toml:29:11: dr cannot take IPv4 clients to an IPv6 server
    hint: use fullnat or tun, or a server of the service's address family
s.toml:32:8: mark 3 is a service already, in line 20
    hint: put all its servers into one [[service]]"
    );
}
