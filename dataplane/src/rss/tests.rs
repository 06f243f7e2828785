use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

/// The key of "Verifying the RSS Hash Calculation".
const KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
    0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
    0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

/// Destination, source, hash of the addresses alone, and with the ports.
const VECTORS: &[(&str, u16, &str, u16, u32, u32)] = &[
    ("161.142.100.80", 1766, "66.9.149.187", 2794, 0x323e8fc2, 0x51ccc178),
    ("65.69.140.83", 4739, "199.92.111.2", 14230, 0xd718262a, 0xc626b0ea),
    ("12.22.207.184", 38024, "24.19.198.95", 12898, 0xd2d0a5de, 0x5c2b394a),
    ("209.142.163.6", 2217, "38.27.205.30", 48228, 0x82989176, 0xafc7327f),
    ("202.188.127.2", 1303, "153.39.163.191", 44251, 0x5d1809c5, 0x10e828a2),
    ("3ffe:2501:200:3::1", 1766, "3ffe:2501:200:1fff::7", 2794, 0x2cc18cd5, 0x40207d3d),
    ("ff02::1", 4739, "3ffe:501:8::260:97ff:fe40:efab", 14230, 0x0f0c461c, 0xdde51bbf),
    ("fe80::200:f8ff:fe21:67cf", 38024, "3ffe:1900:4545:3:200:f8ff:fe21:67cf", 44251, 0x4b61e985, 0x02d1feef),
];

fn ip(text: &str) -> Address {
    text.parse::<IpAddr>().unwrap().into()
}

fn settings(key: &[u8], table: Vec<u32>, fields: Hashed) -> Settings {
    Settings { key: key.to_vec(), table, fields: HashFields::all(fields), symmetric: false }
}

#[test]
fn agrees_with_the_published_vectors() {
    let rss = Rss::new(settings(&KEY, (0..128).collect(), Hashed::Ports), 128).unwrap();
    let addresses = Rss::new(settings(&KEY, (0..128).collect(), Hashed::Addresses), 128).unwrap();
    for (destination, port, source, source_port, of_addresses, with_ports) in VECTORS.iter().copied() {
        let (destination, source) = (ip(destination), ip(source));
        assert_eq!(rss.of_addresses(source, destination), of_addresses, "{source} {destination}");
        let base = rss.base((source, source_port), destination);
        assert_eq!(base ^ rss.share(source.is_v4(), port), with_ports, "{source} {destination}");
        let tuple = |protocol| Tuple { source, destination, source_port, destination_port: port, protocol };
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            assert_eq!(rss.queue(&tuple(protocol)), Some(with_ports as usize % 128));
            assert_eq!(addresses.queue(&tuple(protocol)), Some(of_addresses as usize % 128));
        }
        assert_eq!(rss.queue(&tuple(Protocol::Sctp)), None);
    }
}

#[test]
fn a_key_of_one_repeated_word_is_symmetric() {
    let key = [0x6d, 0x5a].repeat(20);
    for (symmetric, key) in [(false, &key[..]), (true, &KEY)] {
        let settings = Settings { symmetric, ..settings(key, (0..16).collect(), Hashed::Ports) };
        let rss = Rss::new(settings, 16).unwrap();
        for (destination, destination_port, source, source_port, ..) in VECTORS.iter().copied() {
            let (destination, source) = (ip(destination), ip(source));
            let tuple = Tuple { source, destination, source_port, destination_port, protocol: Protocol::Tcp };
            assert_eq!(rss.queue(&tuple), rss.queue(&tuple.reversed()), "{symmetric}");
        }
    }
}

#[test]
fn senseless_settings_are_refused() {
    let refused = |settings| Rss::new(settings, 2).err();
    assert_eq!(refused(settings(&KEY[..39], vec![0, 1], Hashed::Ports)), Some(RssError::Key(39)));
    assert_eq!(refused(settings(&KEY, vec![], Hashed::Ports)), Some(RssError::Table(0)));
    assert_eq!(refused(settings(&KEY, vec![0; 65_537], Hashed::Ports)), Some(RssError::Table(65_537)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Every port belongs to the worker whose queue it leads to, and the sets
    /// say the same as single ports: of any table, with queues that have no
    /// worker and workers that have no entry.
    #[test]
    fn sets_of_ports_agree_with_single_ports(
        key in prop::collection::vec(any::<u8>(), MIN_KEY..=52),
        table in prop::collection::vec(0..7u32, 1..=130),
        power in any::<bool>(),
        symmetric in any::<bool>(),
        workers in 1..7usize,
        server in (any::<u32>(), any::<u16>()),
        is_v4 in any::<bool>(),
    ) {
        let mut table = table;
        if power {
            table.truncate(1 << table.len().ilog2());
        }
        let settings = Settings { symmetric, ..settings(&key, table.clone(), Hashed::Ports) };
        let rss = Rss::new(settings, workers).unwrap();
        let [a, b, c, d] = server.0.to_be_bytes();
        let (source, lip) = match is_v4 {
            true => (Address::from_v4([a, b, c, d]), Address::from_v4([10, 0, 2, 200])),
            false => {
                let v6 = |last| Address::from_v6([a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
                (v6(1), v6(2))
            }
        };
        let base = rss.base((source, server.1), lip);
        for port in (0..=u16::MAX).step_by(7) {
            let (word, bit) = (usize::from(port) / 64, port % 64);
            let owner = rss.port_owner(base, is_v4, port);
            for worker in 0..workers {
                let has = rss.ports(worker, base, is_v4, word) >> bit & 1 == 1;
                prop_assert_eq!(has, owner == worker, "port {} worker {}", port, worker);
            }
            let reply = Tuple {
                source,
                destination: lip,
                source_port: server.1,
                destination_port: port,
                protocol: Protocol::Tcp,
            };
            if owner < workers && table.contains(&(owner as u32)) {
                prop_assert_eq!(rss.queue(&reply), Some(owner));
            }
        }
    }
}
