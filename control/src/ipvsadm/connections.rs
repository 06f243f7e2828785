//! Listings of connections and of local addresses.

use std::io::{self, Write};

use super::print::Printer;
use crate::api::message::{ConnectionListing, EngineData, LocalAddressUse};
use crate::rules::{Protocol, ServiceName};

/// The two lines above the connections.
pub(super) fn heading(out: &mut dyn Write, engine_columns: bool) -> io::Result<()> {
    let engine = if engine_columns { "        pe name          pe_data" } else { "" };
    writeln!(out, "IPVS connection entries")?;
    writeln!(out, "pro expire state       source             virtual            destination{engine}")
}

/// One line a connection.
pub(super) fn connections(
    out: &mut dyn Write,
    printer: &Printer<'_>,
    connections: &[ConnectionListing],
    engine_columns: bool,
) -> io::Result<()> {
    for connection in connections {
        let protocol = match connection.protocol {
            _ if connection.any_protocol => "IP",
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        };
        let (minutes, seconds) = (connection.expires / 60, connection.expires % 60);
        let expire = format!("{minutes:02}:{seconds:02}");
        let named = (!connection.any_protocol).then_some(connection.protocol);
        let endpoint = |(address, port)| printer.endpoint(address, port, named);
        write!(
            out,
            "{protocol:<3} {expire:<6} {:<11} {:<18} {:<18} ",
            connection.state,
            endpoint(connection.client),
            endpoint(connection.service),
        )?;
        let server = endpoint(connection.server);
        match connection.engine.as_ref().filter(|_| engine_columns) {
            Some(EngineData { name, data }) => writeln!(out, "{server:<16} {name:<18} {data}")?,
            None => writeln!(out, "{server}")?,
        }
    }
    Ok(())
}

/// `-G`, in DPVS's columns. Conflicts are not counted here: a local port is
/// taken for a connection only when it is free.
pub(super) fn local_addresses(
    out: &mut dyn Write,
    printer: &Printer<'_>,
    services: &[LocalAddressUse],
) -> io::Result<()> {
    writeln!(
        out,
        "{:<20} {:<8} {:<20} {:<10} {:<10}",
        "VIP:VPORT", "TOTAL", "SNAT_IP", "CONFLICTS", "CONNS"
    )?;
    for service in services {
        let mut name = match service.service {
            ServiceName::Address { protocol, address, port } => {
                printer.endpoint(address, port, Some(protocol))
            }
            ServiceName::Mark { mark, .. } => mark.to_string(),
        };
        let mut total = service.addresses.len().to_string();
        if service.addresses.is_empty() {
            writeln!(out, "{name:<20} {total:<8}")?;
        }
        for (lip, connections) in &service.addresses {
            let lip = lip.to_string();
            writeln!(out, "{name:<20} {total:<8} {lip:<20} {:<10} {connections:<10}", 0)?;
            (name, total) = (String::new(), String::new());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::ipvsadm::command::Format;
    use crate::ipvsadm::names::{NoNames, Resolver};
    use crate::rules::Method;

    fn connection(
        protocol: Protocol,
        expires: u32,
        state: &str,
        ends: [(&str, u16); 3],
    ) -> ConnectionListing {
        let [client, service, server] = ends.map(|(address, port)| (address.parse().unwrap(), port));
        ConnectionListing {
            protocol,
            expires,
            state: state.into(),
            client,
            service,
            local: None,
            server,
            method: Method::Nat,
            any_protocol: false,
            engine: None,
            mark: None,
        }
    }

    struct Names;

    impl Resolver for Names {
        fn address_of(&self, host: &str) -> Option<std::net::Ipv4Addr> {
            NoNames.address_of(host)
        }
        fn name_of(&self, address: IpAddr) -> Option<String> {
            let long = "averyveryverylongname.of.a.client.example.test";
            match address.to_string().as_str() {
                "10.0.1.9" => Some(long.into()),
                "192.0.2.10" => Some("www.example.test".into()),
                _ => None,
            }
        }
        fn port_of(&self, service: &str, protocol: Protocol) -> Option<u16> {
            NoNames.port_of(service, protocol)
        }
        fn service_of(&self, port: u16, _: Protocol) -> Option<String> {
            (port == 80).then(|| "http".into())
        }
    }

    fn print(numeric: bool) -> String {
        let vip = ("192.0.2.10", 80);
        let listed = [
            connection(Protocol::Tcp, 9, "CLOSE", [("10.0.1.1", 20002), vip, ("10.0.2.1", 80)]),
            connection(Protocol::Tcp, 899, "ESTABLISHED", [("10.0.1.9", 40000), vip, ("10.0.2.1", 80)]),
            connection(
                Protocol::Tcp,
                899,
                "ESTABLISHED",
                [("2001:db8:1::1", 20005), ("2001:db8:f::10", 80), ("2001:db8:2::1", 80)],
            ),
            connection(
                Protocol::Udp,
                299,
                "UDP",
                [("10.0.1.1", 30000), ("192.0.2.10", 53), ("10.0.2.1", 53)],
            ),
        ];
        let printer = Printer { format: Format { numeric, ..Format::default() }, names: &Names };
        let mut out = Vec::new();
        heading(&mut out, false).unwrap();
        connections(&mut out, &printer, &listed, false).unwrap();
        String::from_utf8(out).unwrap()
    }

    /// As Linux 6.1 and ipvsadm 1.31 showed such connections.
    #[test]
    fn connections_look_as_ipvsadm_shows_them() {
        assert_eq!(
            print(true),
            "IPVS connection entries\n\
             pro expire state       source             virtual            destination\n\
             TCP 00:09  CLOSE       10.0.1.1:20002     192.0.2.10:80      10.0.2.1:80\n\
             TCP 14:59  ESTABLISHED 10.0.1.9:40000     192.0.2.10:80      10.0.2.1:80\n\
             TCP 14:59  ESTABLISHED [2001:db8:1::1]:20005 [2001:db8:f::10]:80 [2001:db8:2::1]:80\n\
             UDP 04:59  UDP         10.0.1.1:30000     192.0.2.10:53      10.0.2.1:53\n"
        );
        assert!(print(false).contains(
            "TCP 14:59  ESTABLISHED averyveryverylongname.of.a.client.example.test:40000 \
             www.example.test:http 10.0.2.1:http\n"
        ));
    }

    /// As `ipvsadm -Lnc --persistent-conn` of 1.31 printed them.
    #[test]
    fn a_template_of_a_call_has_columns_of_its_own() {
        let v4 = [("10.0.1.1", 0), ("192.0.2.10", 5060), ("10.0.2.3", 5060)];
        let v6 = [("2001:db8:1::1", 0), ("2001:db8:f::10", 5065), ("2001:db8:2::2", 5065)];
        let call = |ends, data: &str| ConnectionListing {
            engine: Some(EngineData { name: "sip".into(), data: data.into() }),
            ..connection(Protocol::Udp, 58, "NONE", ends)
        };
        let plain = [("10.0.1.1", 30001), ("192.0.2.10", 5060), ("10.0.2.3", 5060)];
        let listed = [call(v4, "three"), call(v6, "one"), connection(Protocol::Udp, 299, "UDP", plain)];
        let printer = Printer { format: Format { numeric: true, ..Format::default() }, names: &NoNames };
        let print = |engine_columns| {
            let mut out = Vec::new();
            heading(&mut out, engine_columns).unwrap();
            connections(&mut out, &printer, &listed, engine_columns).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            print(true),
            "IPVS connection entries\n\
             pro expire state       source             virtual            destination        pe name          pe_data\n\
             UDP 00:58  NONE        10.0.1.1:0         192.0.2.10:5060    10.0.2.3:5060    sip                three\n\
             UDP 00:58  NONE        [2001:db8:1::1]:0  [2001:db8:f::10]:5065 [2001:db8:2::2]:5065 sip                one\n\
             UDP 04:59  UDP         10.0.1.1:30001     192.0.2.10:5060    10.0.2.3:5060\n"
        );
        assert!(
            print(false)
                .contains("UDP 00:58  NONE        10.0.1.1:0         192.0.2.10:5060    10.0.2.3:5060\n")
        );
    }

    #[test]
    fn local_addresses_look_as_in_dpvs() {
        let printer = Printer { format: Format { numeric: true, ..Format::default() }, names: &NoNames };
        let service =
            ServiceName::Address { protocol: Protocol::Tcp, address: [192, 0, 2, 10].into(), port: 80 };
        let addresses = vec![([10, 0, 2, 200].into(), 7), ([10, 0, 2, 201].into(), 12)];
        let mut out = Vec::new();
        local_addresses(&mut out, &printer, &[LocalAddressUse { service, default: false, addresses }])
            .unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "VIP:VPORT            TOTAL    SNAT_IP              CONFLICTS  CONNS     \n\
             192.0.2.10:80        2        10.0.2.200           0          7         \n\
             \x20                             10.0.2.201           0          12        \n"
        );
    }
}
