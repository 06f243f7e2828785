use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::ipvsadm::NoNames;
use crate::rules::{Rules, Target};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import").join(name)
}

fn reading(path: Option<&Path>) -> Reading<'_> {
    Reading { name: "lvs.conf", path, config_id: "main", names: &NoNames }
}

fn imported(format: Format, text: &str, path: Option<&Path>) -> Import {
    import(format, text, &reading(path)).unwrap()
}

fn file(name: &str) -> Import {
    let path = data(name);
    let text = fs::read_to_string(&path).unwrap();
    imported(Format::of(&text), &text, Some(&path))
}

fn keepalived(text: &str) -> Import {
    imported(Format::Keepalived, text, None)
}

fn error(text: &str) -> String {
    import(Format::Keepalived, text, &reading(None)).unwrap_err().to_string()
}

fn config(import: &Import) -> Config {
    Config::parse(&import.text, Path::new("out.toml"))
        .unwrap_or_else(|error| panic!("{}\n{}", error.report(), import.text))
}

/// A director's rules, as `ipvsadm -Ln` would show them in short.
fn rules(import: &Import) -> Vec<String> {
    let Target { services, .. } = config(import).target();
    let mut lines = Vec::new();
    for service in services {
        lines.push(format!("{}: {}", service.name, service.settings));
        let address = |server: &crate::rules::Server| std::net::SocketAddr::new(server.address, server.port);
        lines.extend(service.servers.iter().map(|server| format!("  {} {server}", address(server))));
        lines.extend(service.local_addresses.iter().map(|lip| format!("  from {lip}")));
    }
    lines
}

fn notes(import: &Import) -> Vec<String> {
    import.notes.iter().map(ToString::to_string).collect()
}

/// The text behind the table of the director.
fn body(import: &Import) -> &str {
    import.text.split_once("workers = [1]\n").unwrap().1
}

#[test]
fn a_web_site_of_keepalived_becomes_a_service_with_its_checks() {
    let import = file("web.conf");
    assert_eq!(
        body(&import),
        r#"timeouts = { established = 7200, fin_wait = 30, udp = 60 }

# The shop: two web servers, and a page
# that says sorry.
[[service]]
address = "192.0.2.10:80"
protocol = "tcp"
scheduler = "wrr"
persistent = 50
netmask = "255.255.255.0"
quorum = 2
hysteresis = 1
quorum_up = ["/usr/local/bin/announce", "192.0.2.10", "with spaces"]
quorum_down = ["/usr/local/bin/withdraw", "192.0.2.10"]
inhibit_on_failure = true
sorry_server = { address = "10.0.2.9:8080", method = "nat" }

# rack 1
[[service.server]]
address = "10.0.2.1"
method = "nat"
weight = 3

[[service.server.check]]
kind = "http"
path = "/.health.html"
digest = "9b3a0c85a887a256d6939da88aabd8cd"
host = "www.example.com"
interval = 6
timeout = 3
fall = 4

[[service.server.check]]
kind = "http"
path = "/mrtg2/"
status = ["200-299", 301]
host = "www.example.com"
matches = '(?i)^OK\.$'
interval = 6
timeout = 3
fall = 4

[[service.server]]
address = "10.0.2.2:8080"
method = "nat"
weight = 1
upper_threshold = 1000
lower_threshold = 800

[[service.server.check]]
kind = "https"
port = 8443
path = "/"
host = "inner.example.com"
interval = 6
timeout = 3
fall = 3
"#
    );
    let plan = &config(&import).services[0].health;
    assert_eq!((plan.own_checks.len(), plan.quorum, plan.inhibit_on_failure), (2, 2, true));
    let expected = [
        "lvs.conf:4: notification_email has no counterpart",
        "lvs.conf:7: smtp_server has no counterpart",
        "lvs.conf:8: router_id has no counterpart",
        "lvs.conf:12: vrrp_instance VI_1 has no counterpart: let keepalived go on with it",
        "lvs.conf:33: nat_mask is not known",
        "lvs.conf:40: quorum_up runs as the director does",
        "lvs.conf:61: delay_before_retry has no counterpart",
        "lvs.conf:69: notify_down has no counterpart",
    ];
    let notes = notes(&import);
    assert_eq!(notes.len(), expected.len(), "{notes:#?}");
    for (note, expected) in notes.iter().zip(expected) {
        assert!(note.starts_with(expected), "{note}");
    }
}

#[test]
fn services_of_every_kind_are_taken_over() {
    let import = file("services.conf");
    assert_eq!(
        rules(&import),
        [
            "tcp 192.0.2.20:25: sh flags 0b011",
            "  10.0.2.1:25 dr weight 1",
            "  10.0.2.2:25 dr weight 1",
            "tcp 192.0.2.21:25: sh flags 0b011",
            "  10.0.2.1:25 dr weight 1",
            "  10.0.2.2:25 dr weight 1",
            "tcp 192.0.2.22:25: sh flags 0b011",
            "  10.0.2.1:25 dr weight 1",
            "  10.0.2.2:25 dr weight 1",
            "tcp 192.0.2.30:25: sh flags 0b011",
            "  10.0.2.1:25 dr weight 1",
            "  10.0.2.2:25 dr weight 1",
            "tcp 192.0.2.32:587: sh flags 0b011",
            "  10.0.2.1:587 dr weight 1",
            "  10.0.2.2:587 dr weight 1",
            "tcp 192.0.2.33:587: sh flags 0b011",
            "  10.0.2.1:587 dr weight 1",
            "  10.0.2.2:587 dr weight 1",
            "udp 192.0.2.40:5060: rr persistent 60 engine sip one_packet",
            "  10.0.3.1:5060 nat weight 10",
            "  10.0.3.2:5060 nat weight 10",
            "udp 192.0.2.53:53: mh flags 0b010",
            "  10.0.2.1:53 tun weight 1 gue port 6080 with remote checksum",
            "  [2001:db8:3::1]:53 tun weight 1 gre with checksum",
            "mark 7 (IPv6): lc persistent 360 netmask 64",
            "  [2001:db8:2::1]:0 dr weight 1",
            "  [2001:db8:2::2]:0 dr weight 1",
            "sctp [2001:db8::10]:443: fo",
            "  [2001:db8:2::1]:443 tun weight 70000",
            "  [2001:db8:2::2]:443 tun weight 1",
            "tcp 192.0.2.50:0: wlc persistent 300",
            "  10.0.2.1:0 dr weight 1",
        ]
    );
    for part in [
        "[[service.check]]\nkind = \"tcp\"\ninterval = 10\ntimeout = 4\nfall = 2\n",
        "kind = \"tcp\"\nport = 25\n",
        "command = [\"/etc/keepalived/check.sh\", \"2\", \"#\"]\ndynamic_weight = true\n\
         interval = 5\ntimeout = 4\nfall = 1\n",
        "kind = \"dns\"\nrecord = \"TXT\"\nname = \"www.example.com\"\ninterval = 2.5\ntimeout = 5\nfall = 2\n",
        "kind = \"udp\"\nsend = \"ping\"\nreply = true\n",
        "kind = \"icmp\"\n",
        "address = \"2001:db8:3::2\"\nport = 5353\nsource = \"2001:db8:3::fe\"\ninterface = \"eth1\"\n\
         fwmark = 7\ninterval = 1\n",
        "alpha = true\n",
    ] {
        assert!(import.text.contains(part), "{part}\nis not in\n{}", import.text);
    }
    let text = notes(&import).join("\n");
    for part in [
        "lvs.conf:19: virtual_server group MAIL becomes 6 services with the same servers",
        "SMTP_CHECK has no counterpart; the server's port is checked by TCP instead",
        "fwmark 7: write [[mark]] rules",
        "conf.d/one.conf:6: FILE_CHECK has no counterpart",
    ] {
        assert!(text.contains(part), "{part}\nis not in\n{text}");
    }
    assert!(!text.contains("omega"), "{text}");
}

#[test]
fn a_saved_table_loads_as_the_same_rules() {
    let import = file("table.save");
    let text = fs::read_to_string(data("table.save")).unwrap();
    let mut expected = Rules::new(1);
    for line in text.lines() {
        let words: Vec<String> =
            line.split_whitespace().skip_while(|w| *w == "ipvsadm").map(str::to_owned).collect();
        use crate::api::Request;
        match crate::ipvsadm::request_of(&words, &NoNames) {
            Ok(Some(Request::AddService { service, settings })) => {
                let _ = expected.add_service(service, settings);
            }
            Ok(Some(Request::AddServer { service, server })) => {
                expected.add_server(&service, server).unwrap()
            }
            Ok(Some(Request::AddLocalAddress { service, address })) => {
                expected.add_local_address(&service, address).unwrap();
            }
            Ok(Some(Request::SetTimeouts { timeouts })) => expected.set_timeouts(timeouts).unwrap(),
            _ => {}
        }
    }
    let config = config(&import);
    let loaded = Rules::configured(1, config.director.interfaces.clone(), config.target()).unwrap();
    assert_eq!(expected.differences(&loaded), []);
    assert_eq!(loaded.configuration().len(), 8);
    let notes = notes(&import);
    for (note, part) in notes.iter().zip([
        "lvs.conf:12: mark 7: write [[mark]] rules",
        "lvs.conf:14: mark 7 (IPv6): write [[mark]] rules",
        "lvs.conf:22: this does not add anything",
        "lvs.conf:24: Service already exists; it is left out",
    ]) {
        assert!(note.starts_with(part), "{note}");
    }
    assert_eq!(notes.len(), 4, "{notes:#?}");
}

#[test]
fn the_format_is_told_by_the_content() {
    for (text, format) in [
        ("-A -t 192.0.2.1:80 -s rr\n", Format::Ipvsadm),
        ("# saved\n\n-A -t 192.0.2.1:80\n", Format::Ipvsadm),
        ("ipvsadm -A -t 192.0.2.1:80\n", Format::Ipvsadm),
        ("! keepalived\nvirtual_server 192.0.2.1 80 {\n}\n", Format::Keepalived),
        ("", Format::Keepalived),
    ] {
        assert_eq!(Format::of(text), format, "{text}");
    }
}

#[test]
fn what_cannot_be_read_has_a_place() {
    for (text, expected) in [
        ("a {\nb {\n}\n", "lvs.conf:1: the block of a is not closed"),
        ("a\n}\n", "lvs.conf:2: this } closes nothing"),
        ("{\n", "lvs.conf:1: nothing is before this {"),
        ("a\n\"b\n", "lvs.conf:2: the quote \" is not closed"),
        ("\n~SEQ(A, 1, 2) x $A\n", "lvs.conf:2: ~SEQ and ~LST blocks are not imported"),
        ("x ${_RANDOM 1 2}\n", "lvs.conf:1: ${_RANDOM} is not imported"),
        ("$A=${B}\n$B=${A}\nx ${A}\n", "lvs.conf:3: a definition leads to itself"),
        ("$A= \\\nx\\\n", "lvs.conf:1: the last line of this definition is missing"),
        ("include {a,b}.conf\n", "lvs.conf:1: include {a,b}.conf: braces"),
    ] {
        assert!(error(text).starts_with(expected), "{}", error(text));
    }
    let deep = "a {\n".repeat(100);
    assert!(error(&deep).contains("more than 32 blocks are within each other"));
    // Each doubles what the one before it makes.
    let doubling: String = (0..60).map(|n| format!("$A{}= \\\n${{A{n}}} \\\n${{A{n}}}\n", n + 1)).collect();
    let text = format!("$A0=xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n{doubling}${{A60}}\n");
    assert!(error(&text).contains("more than 33554432 bytes"), "{}", error(&text));
    let ipvsadm = |text| import(Format::Ipvsadm, text, &reading(None)).unwrap_err().to_string();
    assert_eq!(
        ipvsadm("-A -t 192.0.2.1:80 -s rr\n-a -t 192.0.2.1:80 -r x\n"),
        "lvs.conf:2: illegal real server address[:port] specified; is it what `ipvsadm -S' printed?"
    );
}

#[test]
fn files_that_include_themselves_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a.conf"), dir.path().join("b.conf"));
    fs::write(&a, "include b.conf\n").unwrap();
    fs::write(&b, "x\ninclude *.conf\n").unwrap();
    let text = fs::read_to_string(&a).unwrap();
    let error = import(Format::Keepalived, &text, &reading(Some(&a))).unwrap_err().to_string();
    assert!(error.ends_with("a.conf includes itself") && error.contains("b.conf:2: "), "{error}");
    let missing = keepalived("include /nonexistent/*.conf\n");
    assert_eq!(notes(&missing), ["lvs.conf:1: include /nonexistent/*.conf: there is no such file"]);
}

#[test]
fn what_does_not_go_together_is_left_out_and_said() {
    let import = keepalived(
        "virtual_server 192.0.2.1 80 {
            lb_algo twos
            lb_kind FNAT
            ops
            hysteresis 3
            persistence_engine sip
            sorry_server 10.0.2.1 80
            real_server 10.0.2.1 80 {
                weight heavy
                HTTP_GET {
                    url {
                        path health
                        regex (?<!a)b
                        status_code 999
                    }
                    virtualhost \"a b\"
                }
                MISC_CHECK {
                }
            }
            real_server 10.0.2.1 80
            real_server 2001:db8::1 80
            real_server nowhere 80
        }
        virtual_server 192.0.2.1 80 {
        }
        virtual_server 192.0.2.2 {
        }
        virtual_server group NONE {
        }
        virtual_server somewhere 80 {
        }
        ",
    );
    assert_eq!(rules(&import), ["tcp 192.0.2.1:80: wlc", "  10.0.2.1:80 nat weight 1"]);
    let notes = notes(&import);
    let lines: Vec<&str> =
        notes.iter().filter_map(|note| note.strip_prefix("lvs.conf:")?.split(':').next()).collect();
    assert_eq!(
        lines,
        [
            "1", "2", "3", "4", "6", "7", "9", "11", "12", "13", "14", "18", "21", "22", "23", "25", "27",
            "29", "31"
        ],
        "{notes:#?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_ends_well(text in "[ -~\n]{0,400}") {
        let _ = import(Format::Keepalived, &text, &reading(None));
        let _ = import(Format::Ipvsadm, &text, &reading(None));
    }

    /// Words of the language, so that most of what is made is nearly right.
    #[test]
    fn any_words_end_well_and_errors_have_a_place(words in proptest::collection::vec(word(), 0..120)) {
        let text = words.join(" ");
        match import(Format::Keepalived, &text, &reading(None)) {
            Ok(import) => {
                // What does not load is said to be wrong, by the checks of the configuration.
                let _ = Config::parse(&import.text, Path::new("out.toml"));
                prop_assert!(import.notes.iter().all(|note| note.place.line >= 1));
            }
            Err(error) => prop_assert!(error.place.line >= 1 && error.place.line <= text.lines().count().max(1)),
        }
    }

    #[test]
    fn any_command_lines_end_well(lines in proptest::collection::vec(option(), 0..60)) {
        let text = lines.join(" ");
        let _ = import(Format::Ipvsadm, &text, &reading(None));
    }
}

fn word() -> impl Strategy<Value = String> {
    const WORDS: &str = "virtual_server real_server virtual_server_group group G fwmark 7 0 192.0.2.1 10.0.2.1 \
        2001:db8::1 80 443 65536 -1 lb_algo rr sh-port flag-3 lb_kind NAT DR TUN type gue port gre csum \
        protocol UDP TCP delay_loop 6 1e9 nan persistence_timeout persistence_granularity 255.255.255.0 64 quorum 2 hysteresis \
        quorum_up weight 3 HTTP_GET SSL_GET TCP_CHECK MISC_CHECK DNS_CHECK UDP_CHECK SMTP_CHECK url path / regex \
        ( digest status_code 200-299 misc_path misc_dynamic payload ff require_reply x0 min_reply_length sorry_server \
        inhibit_on_failure alpha include x $A=1 $A ${A} @main @^main global_defs lvs_timeouts tcp 192.0.2.1-9 \
        10.0.0.0/30 ~LST connect_port connect_ip retry ops \\";
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    prop_oneof![
        6 => proptest::sample::select(words).prop_map(str::to_owned),
        2 => Just("{\n".to_owned()),
        2 => Just("\n}\n".to_owned()),
        4 => Just("\n".to_owned()),
        1 => "[\"'#!\\\\a$]{1,4}",
    ]
}

fn option() -> impl Strategy<Value = String> {
    const WORDS: &str = "-A -a -E -e -D -C -P -t -u -f -6 -s rr -r -m -g -i -b -w 1 -x 5 -y 6 -p 300 -M 64 \
        255.255.255.0 --pe sip -o --tun-type gue --tun-port 6080 -z 10.0.2.200 192.0.2.1:80 10.0.2.1:80 \
        [2001:db8::1]:80 7 --set 9 # ipvsadm -n -S -R --start-daemon master";
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    prop_oneof![5 => proptest::sample::select(words).prop_map(str::to_owned), 2 => Just("\n".to_owned())]
}
