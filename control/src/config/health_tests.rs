//! Health checks in the configuration: what is taken, and what is not.

use std::path::Path;
use std::time::Duration;

use super::Config;
use crate::health::Kind;

const SMALLEST: &str = "[director]\ninterfaces = [\"eth0\"]\nworkers = [1]\n\
     [[service]]\naddress = \"192.0.2.10:80\"\nprotocol = \"tcp\"\n";

fn parse(more: &str) -> Result<Config, String> {
    Config::parse(&format!("{SMALLEST}{more}"), Path::new("x.toml")).map_err(|error| error.to_string())
}

#[test]
fn a_check_has_defaults() {
    let config = parse("[[service.check]]\nkind = \"http\"\n").unwrap();
    let plan = &config.services[0].health;
    let check = &plan.checks[0];
    assert_eq!(check.timing.interval, Duration::from_secs(2));
    assert_eq!((check.timing.rise, check.timing.fall), (1, 3));
    assert_eq!((plan.quorum, plan.hysteresis, plan.alpha), (1, 0, false));
    let Kind::Http(http) = &check.kind else { panic!("{check:?}") };
    assert_eq!((http.method.as_str(), http.path.as_str(), &http.tls), ("GET", "/", &None));
}

#[test]
fn checks_of_a_server_are_under_its_address_and_port() {
    let config = parse(
        "[[service.server]]\naddress = \"10.0.2.1\"\nmethod = \"nat\"\ncheck = []\n\
         [[service.server]]\naddress = \"10.0.2.2:81\"\nmethod = \"nat\"\n\
         [[service.server.check]]\nkind = \"icmp\"\ninterval = 0.5\n",
    )
    .unwrap();
    let own = &config.services[0].health.own_checks;
    assert!(own[&("10.0.2.1".parse().unwrap(), 80)].is_empty());
    let check = &own[&("10.0.2.2".parse().unwrap(), 81)][0];
    assert_eq!(check.kind, Kind::Icmp);
    assert_eq!(check.timing.jitter, Duration::from_millis(50));
}

#[test]
fn every_mistake_is_named_with_its_line() {
    for (line, words) in [
        ("kind = \"ftp\"", "no kind of check"),
        ("kind = \"tcp\"\npath = \"/\"", "has no path"),
        ("kind = \"icmp\"\nport = 80", "has no port"),
        ("kind = \"tcp\"\ninterval = 0", "interval cannot be 0"),
        ("kind = \"tcp\"\ntimeout = \"2s\"", "timeout cannot be"),
        ("kind = \"tcp\"\nrise = 0", "rise cannot be 0"),
        ("kind = \"tcp\"\nport = 65536", "port cannot be"),
        ("kind = \"tcp\"\nsource = \"eth0\"", "not an IP address"),
        ("kind = \"http\"\npath = \"x\"", "begins with a slash"),
        ("kind = \"http\"\npath = \"/a b\"", "cannot be a path"),
        ("kind = \"http\"\nhost = \"a\\r\\nb\"", "cannot be a host"),
        ("kind = \"http\"\nstatus = [\"200\"]", "not a status"),
        ("kind = \"http\"\nstatus = []", "no status would do"),
        ("kind = \"http\"\nmatches = \"(\"", "not a regular expression"),
        ("kind = \"http\"\ndigest = \"abc\"", "not an MD5 digest"),
        ("kind = \"https\"\ntls_ca = \"/no/such/file\"", "cannot read /no/such/file"),
        ("kind = \"grpc\"\npath = \"/\"", "has no path"),
        ("kind = \"grpc\"\ntls_name = \"a\"", "has no tls_name"),
        ("kind = \"grpcs\"\nhost = \"a b\"", "cannot be a host"),
        ("kind = \"http\"\ngrpc_service = \"a\"", "has no grpc_service"),
        ("kind = \"icmp\"\nvip = true", "has no vip"),
        ("kind = \"tcp\"\nvip = true\naddress = \"10.0.2.1\"", "not for both"),
        ("kind = \"dns\"\nname = \"a..b\"", "not a domain name"),
        ("kind = \"dns\"\nrecord = \"XX\"", "no record"),
        ("kind = \"command\"", "needs a command"),
        ("kind = \"command\"\ncommand = []", "needs a command"),
    ] {
        let error = parse(&format!("[[service.check]]\n{line}\n")).unwrap_err();
        assert!(error.contains(words), "{line}: {error}");
        let place = 8 + usize::from(line.contains('\n'));
        assert!(error.contains(&format!("x.toml:{place}:")), "{line}: {error}");
    }
    for (line, words) in [
        ("quorum = 0", "quorum cannot be 0"),
        ("hysteresis = 1", "leaves nothing of a quorum of 1"),
        ("sorry_server = { address = \"10.0.2.9\", method = \"fullnat\" }", "needs a local address"),
        ("sorry_server = { address = \"2001:db8::1\", method = \"nat\" }", "address family"),
    ] {
        let error = parse(line).unwrap_err();
        assert!(error.contains(words), "{line}: {error}");
    }
}
