use super::{Addresses, MarkRule, Ports, Set};
use crate::marks::restore;

#[test]
fn texts_are_read_and_written_alike() {
    for (text, written) in [
        ("192.0.2.10", "192.0.2.10"),
        ("192.0.2.10/32", "192.0.2.10"),
        ("192.0.2.10/24", "192.0.2.0/24"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:DB8::10", "2001:db8::10"),
        ("2001:db8::1/32", "2001:db8::/32"),
        ("::/0", "::/0"),
    ] {
        assert_eq!(text.parse::<Addresses>().unwrap().to_string(), written);
    }
    for (text, written) in [
        ("80", "80"),
        ("443,80", "80,443"),
        ("80,81", "80,81"),
        ("8000:8100,80", "80,8000-8100"),
        ("1-10,5-20,20,21", "1-20,21"),
        ("0-65535", "0-65535"),
    ] {
        assert_eq!(text.parse::<Ports>().unwrap().to_string(), written);
    }
    for (text, written) in [
        ("10", "10"),
        ("0xa", "10"),
        ("4294967295", "4294967295"),
        ("0x10/255", "0x10/0xff"),
        ("1/0xffffffff", "1"),
    ] {
        assert_eq!(text.parse::<Set>().unwrap().to_string(), written);
    }
    for wrong in ["", "80,", "-80", "80-", "+80", "65536", "http", "1-2-3", " 80"] {
        assert!(wrong.parse::<Ports>().is_err(), "{wrong}");
    }
    for wrong in ["", "-1", "+1", "4294967296", "0x", "0x+1", "1/", "/1", "a"] {
        assert!(wrong.parse::<Set>().is_err(), "{wrong}");
    }
    for wrong in ["", "192.0.2.10:80", "192.0.2/24", "192.0.2.0/-1", "::ffff:1.2.3.4", "host"] {
        assert!(wrong.parse::<Addresses>().is_err(), "{wrong}");
    }
}

#[test]
fn rules_are_the_same_in_json_and_as_words() {
    let lines = "\
add --vip 192.0.2.10 --set 1
# a comment

  add --vip 2001:db8::/32 --proto udp --port 53,1000-2000 --from 2001:db8:9::1 --in eth+ --set 0x10/0xff
";
    let rules = restore::rules(lines).unwrap();
    let written: Vec<_> = rules.iter().map(|(line, rule)| format!("{line} add {rule}")).collect();
    let expected = [
        format!("1 {}", lines.lines().next().unwrap()),
        format!("4 {}", lines.lines().nth(3).unwrap().trim()),
    ];
    assert_eq!(written, expected);
    for (_, rule) in rules {
        let json = serde_json::to_string(&rule).unwrap();
        assert_eq!(serde_json::from_str::<MarkRule>(&json).unwrap(), rule, "{json}");
    }
    let short = serde_json::from_str::<MarkRule>(r#"{"vip":"192.0.2.10","set":"10"}"#).unwrap();
    assert_eq!(short.to_string(), "--vip 192.0.2.10 --set 10");
}

#[test]
fn a_wrong_line_is_named_with_its_remedy() {
    for (text, message) in [
        (
            "\n-A PREROUTING -j MARK",
            "line 2: \"-A\" is not what a rule begins with; write `add --vip ADDRESS",
        ),
        (
            "add --vip 192.0.2.10",
            "line 1: the following required arguments were not provided: --set <MARK[/MASK]>",
        ),
        (
            "add --vip x --set 1",
            "line 1: invalid value 'x' for '--vip <ADDRESS[/LENGTH]>': expected an address or",
        ),
        (
            "add --vip 192.0.2.10 --port 80 --set 1",
            "line 1: ports are those of a protocol; name it, as in --proto tcp",
        ),
        (
            "add --vip 192.0.2.10 --proto gre --set 1",
            "line 1: invalid value 'gre' for '--proto <PROTOCOL>': choose tcp, udp, sctp or any",
        ),
        ("add --vip 192.0.2.10 --set 1 more", "line 1: unexpected argument 'more' found"),
        ("add --vip 192.0.2.10 --set 1 --help", "line 1: unexpected argument '--help' found"),
        (
            "add --vip 192.0.2.10 --in a/b --set 1",
            "line 1: invalid value 'a/b' for '--in <INTERFACE>': \"a/b\" cannot be",
        ),
        (
            "add --vip 192.0.2.10 --from ::1 --set 1",
            "line 1: ::1 and 192.0.2.10 are not of the same address family",
        ),
    ] {
        let error = restore::rules(text).unwrap_err();
        assert!(error.starts_with(message), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}
