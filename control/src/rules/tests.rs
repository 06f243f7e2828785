//! Changes, slots and counters.

use std::net::IpAddr;

use sluice_dataplane::service::{Engine, ServerId, ServiceTable};
use sluice_dataplane::stats::ServerCounters;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn tcp(text: &str) -> ServiceName {
    let (address, port) = text.rsplit_once(':').unwrap();
    ServiceName::Address { protocol: Protocol::Tcp, address: ip(address), port: port.parse().unwrap() }
}

fn plain(scheduler: &str) -> ServiceSettings {
    ServiceSettings::plain(scheduler, Family::Ipv4)
}

fn nat(last: u8) -> Server {
    Server::plain(IpAddr::from([10, 1, 0, last]), 80, Method::Nat, 1)
}

fn with_servers(count: u8) -> (Rules, ServiceName) {
    let mut rules = Rules::new(2);
    let vip = tcp("10.0.0.1:80");
    rules.add_service(vip, plain("rr")).unwrap();
    (1..=count).for_each(|n| rules.add_server(&vip, nat(n)).unwrap());
    (rules, vip)
}

fn slots(table: &ServiceTable) -> Vec<(u32, bool)> {
    table.servers().map(|(id, server)| (id.0, server.available)).collect()
}

fn counters(table: &ServiceTable, slot: u32) -> &ServerCounters {
    &table.server(ServerId(slot)).unwrap().counters
}

#[test]
fn servers_are_newest_first_in_table_and_listing() {
    let (mut rules, vip) = with_servers(3);
    let table = rules.table(1);
    let (_, service) = table.services().next().unwrap();
    assert_eq!(service.servers, [ServerId(2), ServerId(1), ServerId(0)]);
    let listed: Vec<_> =
        rules.list(Some(&vip)).unwrap()[0].servers.iter().map(|s| s.server.address).collect();
    assert_eq!(listed, [ip("10.1.0.3"), ip("10.1.0.2"), ip("10.1.0.1")]);
}

#[test]
fn a_removed_server_keeps_its_slot_until_its_last_connection_is_gone() {
    let (mut rules, vip) = with_servers(2);
    let table = rules.table(1);
    counters(&table, 0).share(1).inactive.add(1);
    rules.delete_server(&vip, ip("10.1.0.1"), 80).unwrap();

    // Workers may still be using a table in which it is available.
    assert_eq!(rules.reclaim(u64::MAX), 0);
    assert_eq!(slots(&rules.table(2)), [(0, false), (1, true)]);
    assert_eq!(rules.reclaim(1), 0);
    assert_eq!(rules.reclaim(2), 0, "it has a connection");

    rules.add_server(&vip, nat(9)).unwrap();
    assert_eq!(slots(&rules.table(3)), [(0, false), (1, true), (2, true)], "its slot is not given away");

    counters(&table, 0).share(1).inactive.sub(1);
    assert_eq!(rules.reclaim(3), 1);
    assert_eq!(slots(&rules.table(4)), [(1, true), (2, true)]);
    rules.add_server(&vip, nat(10)).unwrap();
    assert_eq!(slots(&rules.table(5)), [(0, true), (1, true), (2, true)]);
}

#[test]
fn a_removed_server_keeps_its_slot_for_its_templates() {
    let (mut rules, vip) = with_servers(1);
    let table = rules.table(1);
    counters(&table, 0).share(1).persistent.add(1);
    assert_eq!(rules.list(None).unwrap()[0].servers[0].persistent, 1);
    rules.delete_server(&vip, ip("10.1.0.1"), 80).unwrap();
    rules.table(2);
    assert_eq!(rules.reclaim(2), 0);
    counters(&table, 0).share(1).persistent.sub(1);
    assert_eq!(rules.reclaim(2), 1);
}

#[test]
fn persistence_reaches_the_workers() {
    let mut rules = Rules::new(1);
    let granularity = Granularity::Mask([255, 255, 255, 0].into());
    let settings = ServiceSettings { persistence: Some(60), granularity, ..plain("rr") };
    rules.add_service(tcp("10.0.0.1:0"), settings.clone()).unwrap();
    let options = rules.table(1).services().next().unwrap().1.options;
    let mask = options.persistence.unwrap().mask;
    assert_eq!(mask.network(ip("10.1.2.3").into()), ip("10.1.2.0").into());
    assert_eq!(plain("rr").with(options), settings);
}

#[test]
fn a_server_added_again_gets_its_slot_and_counters_back() {
    let (mut rules, vip) = with_servers(2);
    let share = |table: &ServiceTable| {
        counters(table, 0).share(0).active.add(1);
        counters(table, 0).share(0).traffic.connections.add(5);
    };
    share(&rules.table(1));
    rules.delete_server(&vip, ip("10.1.0.1"), 80).unwrap();
    rules.table(2);
    rules.add_server(&vip, Server { weight: 7, ..nat(1) }).unwrap();
    let listed = &rules.list(None).unwrap()[0].servers[0];
    assert_eq!((listed.server.weight, listed.active, listed.traffic.connections), (7, 1, 5));
    let table = rules.table(3);
    assert_eq!(slots(&table), [(0, true), (1, true)]);
    assert_eq!(table.services().next().unwrap().1.servers, [ServerId(0), ServerId(1)], "it is newest now");
}

#[test]
fn a_service_made_anew_counts_from_zero_but_finds_its_connections() {
    let (mut rules, vip) = with_servers(1);
    let table = rules.table(1);
    counters(&table, 0).share(0).active.add(1);
    counters(&table, 0).share(0).traffic.in_bytes.add(1000);
    rules.flush();
    let flushed = rules.table(2);
    assert_eq!((flushed.services().count(), slots(&flushed)), (0, vec![(0, false)]));

    rules.add_service(vip, plain("wlc")).unwrap();
    rules.add_server(&vip, nat(1)).unwrap();
    let listed = &rules.list(None).unwrap()[0].servers[0];
    assert_eq!((listed.active, listed.traffic.in_bytes), (1, 0));
    let table = rules.table(3);
    assert_eq!(slots(&table), [(0, true)]);
    let (id, _) = table.services().next().unwrap();
    assert_eq!(table.server(ServerId(0)).unwrap().service, id);
}

#[test]
fn a_service_slot_waits_for_the_workers_and_for_its_removed_servers() {
    let (mut rules, vip) = with_servers(1);
    let table = rules.table(1);
    counters(&table, 0).share(0).active.add(1);
    rules.delete_service(&vip).unwrap();
    rules.table(2);
    rules.reclaim(2);
    rules.add_service(tcp("10.0.0.2:80"), plain("rr")).unwrap();
    let second = rules.table(3);
    assert_eq!(second.services().next().unwrap().0.0, 1, "slot 0 is named by a removed server");

    counters(&table, 0).share(0).active.sub(1);
    rules.reclaim(3);
    rules.add_service(tcp("10.0.0.3:80"), plain("rr")).unwrap();
    assert_eq!(rules.table(4).services().map(|(id, _)| id.0).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(rules.removed_servers(), 0);
}

#[test]
fn lookups_survive_deletions_in_the_middle() {
    let mut rules = Rules::new(1);
    let names: Vec<_> = (1..=5).map(|n| tcp(&format!("10.0.0.{n}:80"))).collect();
    names.iter().for_each(|name| rules.add_service(*name, plain("rr")).unwrap());
    rules.delete_service(&names[1]).unwrap();
    rules.delete_service(&names[3]).unwrap();
    for (index, name) in names.iter().enumerate() {
        let found = rules.list(Some(name));
        match index {
            1 | 3 => assert_eq!(found, Err(RulesError::NoSuchService)),
            _ => assert_eq!(found.unwrap()[0].name, *name),
        }
    }
}

#[test]
fn errors_are_those_of_ipvs() {
    let (mut rules, vip) = with_servers(1);
    let other = tcp("10.0.0.9:80");
    use RulesError::*;
    assert_eq!(rules.add_service(vip, plain("nosuch")), Err(ServiceExists));
    assert_eq!(rules.add_service(other, plain("nosuch")), Err(SchedulerNotFound));
    assert_eq!(rules.edit_service(&other, plain("rr")), Err(NoSuchService));
    assert_eq!(rules.edit_service(&vip, plain("nosuch")), Err(SchedulerNotFound));
    assert_eq!(rules.delete_service(&other), Err(NoSuchService));
    assert_eq!(rules.zero(Some(&other)), Err(NoSuchService));
    assert_eq!(rules.add_server(&other, nat(1)), Err(ServiceNotDefined));
    assert_eq!(rules.add_server(&vip, nat(1)), Err(ServerExists));
    let above = Server { lower_threshold: 50, upper_threshold: 10, ..nat(1) };
    assert_eq!(rules.add_server(&vip, above), Err(OutOfRange));
    assert_eq!(rules.edit_server(&vip, nat(2)), Err(NoSuchServer));
    assert_eq!(rules.delete_server(&vip, ip("10.1.0.2"), 80), Err(NoSuchServer));
    for address in ["0.0.0.0", "224.0.0.1", "255.255.255.255"] {
        let server = Server { address: ip(address), ..nat(1) };
        assert_eq!(rules.add_server(&vip, server), Err(Invalid), "{address}");
    }
    assert_eq!(rules.set_timeouts(Timeouts { tcp: MAX_TIMEOUT + 1, tcp_fin: 0, udp: 0 }), Err(Invalid));
}

#[test]
fn a_dr_or_tun_server_has_the_services_port() {
    let (mut rules, vip) = with_servers(0);
    for (last, method) in [(1, Method::Dr), (2, Method::Tun)] {
        let server = Server { port: 8080, method, ..nat(last) };
        rules.add_server(&vip, server.clone()).unwrap();
        rules.edit_server(&vip, server).unwrap();
    }
    assert!(rules.list(None).unwrap()[0].servers.iter().all(|s| s.server.port == 80));
}

#[test]
fn zero_is_a_baseline_and_leaves_the_workers_counters_alone() {
    let (mut rules, vip) = with_servers(1);
    let table = rules.table(1);
    let traffic = &counters(&table, 0).share(0).traffic;
    traffic.in_packets.add(10);
    rules.zero(None).unwrap();
    traffic.in_packets.add(3);
    let listed = rules.list(Some(&vip)).unwrap();
    assert_eq!(listed[0].servers[0].traffic.in_packets, 3);
    assert_eq!(traffic.in_packets.get(), 13);
}

#[test]
fn local_addresses_fall_back_to_the_directors() {
    let (mut rules, vip) = with_servers(0);
    let lips = |rules: &mut Rules, generation| -> Vec<String> {
        let table = rules.table(generation);
        table.services().next().unwrap().1.local_addresses.iter().map(|a| a.to_string()).collect()
    };
    rules.set_default_local_addresses(vec![ip("10.0.2.200")]).unwrap();
    assert_eq!(lips(&mut rules, 1), ["10.0.2.200"]);
    rules.add_local_address(&vip, ip("10.0.2.201")).unwrap();
    assert_eq!(lips(&mut rules, 2), ["10.0.2.201"]);
    assert_eq!(rules.add_local_address(&vip, ip("10.0.2.201")), Err(RulesError::LocalAddressExists));
    rules.delete_local_address(&vip, ip("10.0.2.201")).unwrap();
    assert_eq!(rules.delete_local_address(&vip, ip("10.0.2.201")), Err(RulesError::NoSuchLocalAddress));
    assert_eq!(lips(&mut rules, 3), ["10.0.2.200"]);
}

#[test]
fn what_the_data_plane_lacks_is_refused() {
    let (mut rules, _) = with_servers(0);
    let refused = |result: Result<(), RulesError>, what: &str| {
        assert_eq!(
            result.unwrap_err().to_string(),
            format!("{what} is not supported by this version of Sluice")
        );
    };
    let set = |change: fn(&mut ServiceSettings)| {
        let mut settings = plain("rr");
        change(&mut settings);
        settings
    };
    let all = "a service of every port without persistence (port 0 without -p)";
    refused(rules.add_service(tcp("10.0.0.2:0"), plain("rr")), all);
    refused(rules.add_service(tcp("::ffff:1.2.3.4:80"), plain("rr")), "an IPv4-mapped IPv6 service");
    let vip2 = ServiceName::Address { protocol: Protocol::Udp, address: ip("10.0.0.1"), port: 53 };
    rules.add_service(vip2, set(|s| s.one_packet = true)).unwrap();
    let local = Server { method: Method::FullNat, ..nat(1) };
    let pair = "a FULLNAT server of a one-packet service (-b with -o)";
    refused(rules.add_server(&vip2, local.clone()), pair);
    rules.edit_service(&vip2, plain("rr")).unwrap();
    rules.add_server(&vip2, local).unwrap();
    refused(rules.edit_service(&vip2, set(|s| s.one_packet = true)), pair);
    let out = nat(1);
    rules.suspend_server(&vip2, out.address, out.port).unwrap();
    refused(rules.edit_service(&vip2, set(|s| s.one_packet = true)), pair);
    rules.delete_service(&vip2).unwrap();
    assert_eq!(rules.table(1).servers().filter(|(_, server)| server.available).count(), 0);
    assert_eq!(rules.table(2).services().count(), 1);
}

#[test]
fn the_table_has_scheduler_flags_thresholds_and_last_weights() {
    let (mut rules, vip) = with_servers(0);
    rules.edit_service(&vip, ServiceSettings { scheduler_flags: 3, ..plain("mh") }).unwrap();
    let limited = Server { upper_threshold: 5, lower_threshold: 2, ..nat(1) };
    let weighted = |weight| Server { weight, ..limited.clone() };
    rules.add_server(&vip, weighted(7)).unwrap();
    let mut generation = 0;
    let mut server = |rules: &mut Rules| {
        generation += 1;
        let table = rules.table(generation);
        let (_, service) = table.services().next().unwrap();
        assert_eq!(service.scheduler.name(), "mh");
        assert!(service.scheduler_flags.fallback() && service.scheduler_flags.port());
        table.server(service.servers[0]).unwrap().clone()
    };
    let first = server(&mut rules);
    assert_eq!((first.thresholds.upper, first.thresholds.lower), (5, 2));
    for (weight, last) in [(0, 7), (4, 4), (0, 4)] {
        rules.edit_server(&vip, weighted(weight)).unwrap();
        let now = server(&mut rules);
        assert_eq!((now.weight, now.last_weight), (weight, last));
    }
    rules.delete_server(&vip, ip("10.1.0.1"), 80).unwrap();
    rules.add_server(&vip, weighted(0)).unwrap();
    assert_eq!(server(&mut rules).last_weight, 0);
}

#[test]
fn a_configuration_is_loaded_in_one_go_or_names_what_is_wrong() {
    let service = |servers| ServiceRules {
        offload: Default::default(),
        name: tcp("10.0.0.1:80"),
        settings: plain("wlc"),
        timeouts: TimeoutOverrides::default(),
        servers,
        local_addresses: vec![ip("10.0.2.200")],
    };
    let mut rules = Rules::new(1);
    rules.load([service(vec![nat(1), nat(2)])]).unwrap();
    assert_eq!(rules.table(1).servers().count(), 2);
    let error = Rules::new(1).load([service(vec![nat(1), nat(1)])]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "service tcp 10.0.0.1:80, server 10.1.0.1 port 80: Destination already exists"
    );
}

#[test]
fn a_persistence_engine_reaches_the_table() {
    let mut rules = Rules::new(1);
    let name = ServiceName::Address { protocol: Protocol::Udp, address: ip("10.0.0.1"), port: 5060 };
    let settings = ServiceSettings { engine: Some("sip".into()), persistence: Some(60), ..plain("rr") };
    rules.add_service(name, settings.clone()).unwrap();
    let engine = |rules: &mut Rules, generation| {
        let table = rules.table(generation);
        table.services().map(|(_, service)| service.options.engine).collect::<Vec<_>>()
    };
    assert_eq!(engine(&mut rules, 1), [Some(Engine::Sip)]);
    assert_eq!(plain("rr").with(settings.options()), settings);
    let unknown = ServiceSettings { engine: Some("sap".into()), ..settings };
    assert_eq!(rules.edit_service(&name, unknown), Err(RulesError::SchedulerNotFound));
    rules.edit_service(&name, plain("rr")).unwrap();
    assert_eq!(engine(&mut rules, 2), [None]);
}

/// Last byte of the VIP, scheduler, and servers by last byte and weight.
type Wanted<'a> = (u8, &'a str, &'a [(u8, u32)]);

fn target(services: &[Wanted]) -> Target {
    let service = |(vip, scheduler, servers): &(u8, &str, &[(u8, u32)])| ServiceRules {
        offload: Default::default(),
        name: tcp(&format!("10.0.0.{vip}:80")),
        settings: plain(scheduler),
        timeouts: TimeoutOverrides::default(),
        servers: servers.iter().map(|(last, weight)| Server { weight: *weight, ..nat(*last) }).collect(),
        local_addresses: vec![],
    };
    Target { services: services.iter().map(service).collect(), ..Target::default() }
}

fn configured(target: Target) -> Rules {
    Rules::configured(2, vec![], target).unwrap()
}

#[test]
fn a_reload_touches_what_differs_only() {
    let mut rules =
        configured(target(&[(1, "rr", &[(1, 1), (2, 1)]), (2, "wlc", &[(3, 1)]), (3, "rr", &[])]));
    let before = rules.table(1);
    counters(&before, 1).share(0).traffic.in_packets.add(7);
    counters(&before, 2).share(0).active.add(1);
    let wanted = || configured(target(&[(1, "rr", &[(2, 5), (4, 1)]), (3, "sh", &[]), (4, "rr", &[(1, 1)])]));
    let changes: Vec<String> = rules.differences(&wanted()).iter().map(ToString::to_string).collect();
    assert_eq!(
        changes,
        [
            "- service tcp 10.0.0.2:80",
            "- service tcp 10.0.0.1:80, server 10.1.0.1:80",
            "~ service tcp 10.0.0.1:80, server 10.1.0.2:80: nat weight 1 -> nat weight 5",
            "+ service tcp 10.0.0.1:80, server 10.1.0.4:80: nat weight 1",
            "~ service tcp 10.0.0.3:80: rr -> sh",
            "+ service tcp 10.0.0.4:80: rr, 1 server",
        ]
    );
    rules.become_like(wanted());
    assert_eq!(rules.differences(&wanted()), []);
    let after = rules.table(2);
    let kept = after.server(ServerId(1)).unwrap();
    assert!(Arc::ptr_eq(&kept.counters, &before.server(ServerId(1)).unwrap().counters));
    assert_eq!((kept.weight, kept.counters.traffic().in_packets), (5, 7));
    assert!(!after.server(ServerId(2)).unwrap().available, "it still has a connection");
    let first = |table: &ServiceTable| table.service(sluice_dataplane::service::ServiceId(0)).unwrap().key;
    assert_eq!(first(&after), first(&before));
    assert_eq!(rules.removed_servers(), 2);
}

mod reload {
    use proptest::prelude::*;

    use super::*;

    type Drawn = Vec<(u8, bool, Vec<(u8, u32)>)>;

    fn drawn() -> impl Strategy<Value = Drawn> {
        let servers = prop::collection::btree_map(1u8..6, 0u32..3, 0..5);
        let servers = servers.prop_map(|s| s.into_iter().collect::<Vec<_>>()).prop_shuffle();
        prop::collection::btree_map(1u8..6, (any::<bool>(), servers), 0..5)
            .prop_map(|s| s.into_iter().map(|(vip, (rr, servers))| (vip, rr, servers)).collect::<Vec<_>>())
            .prop_shuffle()
    }

    fn of(drawn: &Drawn) -> Rules {
        let services: Vec<_> = drawn
            .iter()
            .map(|(vip, rr, servers)| (*vip, if *rr { "rr" } else { "wlc" }, servers.as_slice()))
            .collect();
        configured(target(&services))
    }

    proptest! {
        #[test]
        fn what_runs_after_a_reload_is_what_the_file_says(files in prop::collection::vec(drawn(), 2..5)) {
            let mut rules = of(&files[0]);
            let mut generation = 1;
            let mut before = rules.table(generation);
            for (old, new) in files.iter().zip(&files[1..]) {
                let wanted = of(new);
                let same = rules.differences(&wanted).is_empty();
                rules.become_like(wanted);
                generation += 1;
                let after = rules.table(generation);
                prop_assert_eq!(rules.list(None), of(new).list(None));
                prop_assert!(rules.differences(&of(new)).is_empty());
                for service in new {
                    let name = tcp(&format!("10.0.0.{}:80", service.0));
                    let slot = |table: &ServiceTable| {
                        table.services().find(|(_, s)| Some(s.key) == name.key()).map(|(id, _)| id)
                    };
                    if old.iter().any(|old| old.0 == service.0) {
                        prop_assert_eq!(slot(&before), slot(&after));
                    }
                }
                if same {
                    prop_assert_eq!(slots(&before), slots(&after));
                }
                rules.reclaim(generation);
                generation += 1;
                before = rules.table(generation);
            }
        }
    }
}

#[test]
fn a_reload_leaves_sync_daemons_alone_that_a_command_started() {
    let daemon = |role, interface: &str| Daemon {
        role,
        interface: interface.into(),
        sync_id: None,
        max_length: None,
        group: None,
        port: None,
        ttl: None,
    };
    let file = |daemons: &[Daemon]| {
        let target = Target { daemons: daemons.to_vec(), ..Target::default() };
        Rules::configured(1, vec!["eth0".into()], target).unwrap()
    };
    let seen = |rules: &Rules| -> Vec<_> {
        rules.daemons().iter().map(|daemon| (daemon.role, daemon.interface.clone())).collect()
    };
    let (master, backup) = (DaemonRole::Master, DaemonRole::Backup);
    let mut rules = file(&[daemon(master, "eth0")]);
    rules.start_daemon(daemon(backup, "eth1")).unwrap();
    let mut reload = |wanted: Rules| {
        let changes = rules.differences(&wanted).len();
        rules.become_like(wanted);
        (changes, seen(&rules))
    };
    let both = vec![(master, "eth0".to_owned()), (backup, "eth1".to_owned())];
    assert_eq!(reload(file(&[daemon(master, "eth0")])), (0, both));
    // What was in the file and is no more ends, and what is in it takes the other's place.
    assert_eq!(reload(file(&[])), (1, vec![(backup, "eth1".to_owned())]));
    assert_eq!(reload(file(&[daemon(backup, "eth2")])), (2, vec![(backup, "eth2".to_owned())]));
    assert_eq!(reload(file(&[])), (1, Vec::new()));
}
