use super::*;
use crate::neigh::NextHopsBuilder;
use crate::rss::{HashFields, Hashed, Rss, Settings};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn v4(last: u8) -> Address {
    Address::from_v4([10, 0, 2, last])
}

fn v6(last: u8) -> Address {
    Address::from_v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last])
}

const TCP: Protocol = Protocol::Tcp;

/// Ports that a worker has in each pool by their numbers.
fn share(worker: usize, workers: usize) -> usize {
    (MIN_LOCAL_PORT..=u16::MAX).filter(|port| owner(*port, workers) == worker).count()
}

#[test]
fn a_lip_carries_every_port_to_each_server_once() {
    for (workers, worker) in [(1, 0), (3, 0), (3, 1), (3, 2), (64_512, 7)] {
        let mut ports = LocalPorts::new(worker, workers);
        for server in [(v4(1), 80), (v4(1), 81), (v4(2), 80)] {
            let mut seen = BTreeSet::new();
            for _ in 0..share(worker, workers) {
                let (lip, port) = ports.allocate(&[v4(200)], server, TCP).unwrap();
                assert_eq!(lip, v4(200));
                assert!(seen.insert(port), "{port} twice");
            }
            let expected = (MIN_LOCAL_PORT..=u16::MAX).filter(|port| owner(*port, workers) == worker);
            assert!(seen.into_iter().eq(expected), "worker {worker} of {workers}");
            assert_eq!(ports.allocate(&[v4(200)], server, TCP), Err(Exhausted::Ports));
        }
        assert!(ports.free(v4(200), u16::MAX - owner_gap(worker, workers), (v4(1), 81), TCP));
        let again = ports.allocate(&[v4(200)], (v4(1), 81), TCP);
        assert_eq!(again, Ok((v4(200), u16::MAX - owner_gap(worker, workers))));
    }
}

/// How far the worker's last port is from 65 535.
fn owner_gap(worker: usize, workers: usize) -> u16 {
    (0..=u16::MAX).find(|gap| owner(u16::MAX - gap, workers) == worker).unwrap()
}

#[test]
fn lips_take_turns_and_a_full_one_is_passed_over() {
    let lips = [v4(201), v6(9), v4(202), v4(203)];
    let mut ports = LocalPorts::new(0, 1);
    let server = (v4(1), 80);
    let order: Vec<_> = (0..6).map(|_| ports.allocate(&lips, server, TCP).unwrap().0).collect();
    assert_eq!(order, [v4(201), v4(202), v4(203), v4(201), v4(202), v4(203)]);
    assert_eq!(ports.allocate(&lips, (v6(1), 80), TCP).unwrap().0, v6(9));
    assert_eq!(ports.allocate(&lips[..1], (v6(1), 80), TCP), Err(Exhausted::NoAddress));
    assert_eq!(ports.allocate(&[], server, TCP), Err(Exhausted::NoAddress));

    while ports.allocate(&lips[2..3], server, TCP).is_ok() {}
    let order: Vec<_> = (0..4).map(|_| ports.allocate(&lips, server, TCP).unwrap().0).collect();
    assert_eq!(order, [v4(203), v4(201), v4(203), v4(201)]);
}

#[test]
fn a_freed_port_comes_last() {
    let mut ports = LocalPorts::new(0, 1);
    let server = (v4(1), 80);
    let (lip, first) = ports.allocate(&[v4(200)], server, TCP).unwrap();
    assert!(ports.free(lip, first, server, TCP));
    assert!(!ports.free(lip, first, server, TCP), "freed twice");
    for _ in 1..share(0, 1) {
        let (_, port) = ports.allocate(&[lip], server, TCP).unwrap();
        assert_ne!(port, first);
        assert!(ports.free(lip, port, server, TCP));
    }
    assert_eq!(ports.allocate(&[lip], server, TCP), Ok((lip, first)));
}

#[test]
fn an_idle_pool_gives_way_to_a_new_pair() {
    let mut ports = LocalPorts::new(0, 1).with_max_pools(2);
    let lip = [v4(200)];
    let taken = |ports: &mut LocalPorts, n| ports.allocate(&lip, (v4(n), 80), TCP);
    let (_, port_1) = taken(&mut ports, 1).unwrap();
    let (_, port_2) = taken(&mut ports, 2).unwrap();
    assert_eq!(taken(&mut ports, 3), Err(Exhausted::Pools));
    assert!(ports.free(lip[0], port_2, (v4(2), 80), TCP));
    assert!(ports.free(lip[0], port_1, (v4(1), 80), TCP));
    // That of server 2 is idle for longer.
    let (_, port_3) = taken(&mut ports, 3).unwrap();
    assert_eq!(ports.pools(), 2);
    assert_ne!(port_3, port_2);
    assert_eq!(taken(&mut ports, 1).unwrap().1, port_1 + 1);
    assert_eq!(taken(&mut ports, 2), Err(Exhausted::Pools));
    assert!(!ports.free(lip[0], port_2, (v4(2), 80), TCP));
}

#[test]
fn idle_memory_can_be_given_back() {
    let mut ports = LocalPorts::new(0, 1);
    let taken: Vec<_> = (0..10).map(|n| ports.allocate(&[v4(200)], (v4(n), 80), TCP).unwrap().1).collect();
    for n in 0..9u8 {
        assert!(ports.free(v4(200), taken[usize::from(n)], (v4(n), 80), TCP));
    }
    ports.release_idle(4);
    assert_eq!(ports.pools(), 5);
    ports.release_idle(0);
    assert_eq!(ports.pools(), 1);
    assert!(ports.free(v4(200), taken[9], (v4(9), 80), TCP));
    for n in 0..10u8 {
        let port = ports.allocate(&[v4(200)], (v4(n), 80), TCP).unwrap().1;
        assert!(!taken.contains(&port), "{port} is used again at once");
    }
    assert_eq!(ports.pools(), 10);
}

#[test]
fn what_was_never_handed_out_is_not_freed() {
    let mut ports = LocalPorts::new(1, 2);
    let server = (v4(1), 80);
    let (lip, port) = ports.allocate(&[v4(200)], server, TCP).unwrap();
    for wrong in [0, 1023, 1024, port + 1, port + 2, u16::MAX] {
        assert!(!ports.free(lip, wrong, server, TCP), "{wrong}");
    }
    assert!(!ports.free(v4(201), port, server, TCP));
    assert!(!ports.free(lip, port, (v4(2), 80), TCP));
    assert!(!ports.free(lip, port, server, Protocol::Udp));
    assert!(ports.free(lip, port, server, TCP));
}

#[derive(Clone, Debug)]
enum Step {
    Allocate(u8, Protocol),
    Free(usize),
    Release(u32),
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn agrees_with_a_set(steps in prop::collection::vec(prop_oneof![
        6 => (0..4u8, prop_oneof![Just(TCP), Just(Protocol::Udp)]).prop_map(|(n, p)| Step::Allocate(n, p)),
        5 => any::<usize>().prop_map(Step::Free),
        1 => (0..4u32).prop_map(Step::Release),
    ], 1..600)) {
        // So many workers that a pool has 12 or 13 ports, and fills up.
        const WORKERS: usize = 5000;
        let lips = [v4(200), v4(201), v6(1)];
        let mut ports = LocalPorts::new(4321, WORKERS).with_max_pools(6);
        let share = share(4321, WORKERS);
        // For each pair and protocol, the ports in use.
        let mut model: BTreeMap<(Address, Address, Protocol), BTreeSet<u16>> = BTreeMap::new();
        for step in steps {
            let of_pair = |model: &BTreeMap<_, BTreeSet<u16>>, lip, server, protocol| {
                model.get(&(lip, server, protocol)).map_or(0, BTreeSet::len)
            };
            match step {
                Step::Allocate(n, protocol) => {
                    let server = v4(n);
                    let room = lips[..2].iter().any(|lip| of_pair(&model, *lip, server, protocol) < share);
                    let in_use = model.values().filter(|set| !set.is_empty()).count();
                    match ports.allocate(&lips, (server, 80), protocol) {
                        Ok((lip, port)) => {
                            prop_assert!(lips[..2].contains(&lip));
                            prop_assert_eq!(owner(port, WORKERS), 4321);
                            prop_assert!(port >= MIN_LOCAL_PORT);
                            let fresh = model.entry((lip, server, protocol)).or_default().insert(port);
                            prop_assert!(fresh, "{lip}:{port} twice");
                        }
                        Err(Exhausted::Ports) => prop_assert!(!room),
                        Err(Exhausted::Pools) => prop_assert!(room && in_use == 6),
                        Err(Exhausted::NoAddress) => prop_assert!(false),
                    }
                }
                Step::Free(n) => {
                    let taken: Vec<_> = model
                        .iter()
                        .flat_map(|(pair, set)| set.iter().map(move |port| (*pair, *port)))
                        .collect();
                    if let Some(((lip, server, protocol), port)) = taken.get(n % taken.len().max(1)) {
                        prop_assert!(ports.free(*lip, *port, (*server, 80), *protocol));
                        model.get_mut(&(*lip, *server, *protocol)).unwrap().remove(port);
                    }
                }
                Step::Release(keep) => ports.release_idle(keep),
            }
            let in_use = model.values().filter(|set| !set.is_empty()).count();
            prop_assert!(ports.pools() >= in_use && ports.pools() <= 6);
            let idle: u32 = ports.lips.iter().map(|lip| lip.idle).sum();
            prop_assert_eq!(ports.pools() - idle as usize, in_use);
        }
    }
}

fn rss(key: u8, table: Vec<u32>, workers: usize) -> Option<Arc<Rss>> {
    let key = (0..40).map(|n: u8| n.wrapping_mul(key | 1) ^ key.rotate_left(n.into())).collect();
    let fields = HashFields::all(Hashed::Ports);
    Some(Arc::new(Rss::new(Settings { key, table, fields, symmetric: false }, workers).unwrap()))
}

/// A snapshot with one interface.
fn plan(number: u64, rss: Option<Arc<Rss>>) -> Arc<NextHops> {
    let mut hops = NextHopsBuilder::new(number);
    hops.spread(Arc::from([rss]), number);
    Arc::new(hops.build())
}

fn team(workers: usize) -> Vec<LocalPorts> {
    let claims: Vec<Arc<Claims>> = (0..workers).map(|_| Arc::default()).collect();
    (0..workers).map(|worker| LocalPorts::shared(worker, claims.clone(), usize::MAX)).collect()
}

fn settle(team: &mut [LocalPorts]) {
    for _ in 0..4 {
        team.iter_mut().for_each(LocalPorts::proceed);
    }
}

/// All workers together have every port, each of them once, whatever the table.
#[test]
fn no_port_is_lost_among_workers() {
    for (workers, table) in [
        (2, (0..128).map(|n| n % 2).collect::<Vec<u32>>()),
        (4, (0..128).map(|n| n % 4).collect()),
        (3, vec![0, 1, 1, 2, 2, 2, 1]),
        (5, vec![0, 4, 4, 1, 2, 2, 3, 0]),
        (4, vec![2; 64]),
        (16, (0..4096).map(|n| n % 16).collect()),
    ] {
        let mut team = team(workers);
        let hops = plan(1, rss(0x6d, table.clone(), workers));
        team.iter_mut().for_each(|ports| ports.follow(&hops));
        settle(&mut team);
        for (lip, server) in [(v4(200), (v4(1), 80)), (v6(200), (v6(1), 443))] {
            let mut seen = BTreeSet::new();
            for (worker, ports) in team.iter_mut().enumerate() {
                while let Ok((_, port)) = ports.allocate(&[lip], server, TCP) {
                    assert!(port >= MIN_LOCAL_PORT && seen.insert(port), "{port} twice, {table:?}");
                    let key = PoolKey { lip, server: server.0, port: server.1, protocol: TCP };
                    let lands = hops.rss(0).unwrap().queue(&key.answer(port));
                    assert!(lands == Some(worker) || !table.contains(&(worker as u32)), "{worker} {lands:?}");
                    assert_eq!(ports.owner_of(&key.answer(port)), worker);
                }
            }
            assert_eq!(seen.len(), PORTS as usize, "{table:?}");
        }
    }
}

/// When the table changes, nobody takes a port that a connection from before
/// has, and once those ended every port is there again.
#[test]
fn ports_of_old_connections_are_left_alone() {
    let mut team = team(4);
    let (lip, server) = (v4(200), (v4(1), 80));
    let tables = [(0..128).map(|n| n % 4).collect::<Vec<u32>>(), (0..128).map(|n| (n ^ 1) % 4).collect()];
    let mut old = Vec::new();
    for (number, table) in (1..).zip(&tables) {
        let hops = plan(number, rss(0x6d, table.clone(), 4));
        team.iter_mut().for_each(|ports| ports.follow(&hops));
        settle(&mut team);
        for (worker, ports) in team.iter_mut().enumerate() {
            for _ in 0..5000 {
                old.push((worker, ports.allocate(&[lip], server, TCP).unwrap().1));
            }
        }
    }
    let distinct: BTreeSet<u16> = old.iter().map(|(_, port)| *port).collect();
    assert_eq!(distinct.len(), old.len());
    let rest: usize = team
        .iter_mut()
        .map(|ports| std::iter::from_fn(|| ports.allocate(&[lip], server, TCP).ok()).count())
        .sum();
    assert_eq!(rest + old.len(), PORTS as usize);
    for (worker, port) in old.drain(..) {
        assert!(team[worker].free(lip, port, server, TCP));
    }
    settle(&mut team);
    let again: usize = team
        .iter_mut()
        .map(|ports| std::iter::from_fn(|| ports.allocate(&[lip], server, TCP).ok()).count())
        .sum();
    assert_eq!(again, distinct.len());
    assert!(team.iter().all(|ports| ports.plans.has_no_strays()));
}

#[derive(Clone, Debug)]
enum Move {
    Publish(u8, Vec<u32>),
    Follow(usize),
    Proceed(usize),
    Take(usize, u8),
    Free(usize),
}

fn a_move() -> impl Strategy<Value = Move> {
    let table = prop::collection::vec(0..3u32, 0..6);
    prop_oneof![
        1 => (any::<u8>(), table).prop_map(|(key, table)| Move::Publish(key, table)),
        4 => (0..3usize).prop_map(Move::Follow),
        6 => (0..3usize).prop_map(Move::Proceed),
        12 => (0..3usize, 0..2u8).prop_map(|(worker, n)| Move::Take(worker, n)),
        6 => any::<usize>().prop_map(Move::Free),
    ]
}

/// Lets three workers take ports, in whatever order they hear of changes, go on
/// and take ports: no two may have the same one. When all have heard, ports are
/// where answers land.
fn play(moves: Vec<Move>) -> Result<(), TestCaseError> {
    const WORKERS: usize = 3;
    let (lip, cursor) = (v4(200), 65_000);
    let mut team = team(WORKERS);
    // All begin at the same place, so that they come into each other's way.
    for ports in &mut team {
        ports.next_cursor = cursor;
    }
    let mut newest = Arc::new(NextHops::default());
    let mut number = 0;
    let mut taken: BTreeMap<(u8, u16), usize> = BTreeMap::new();
    for step in moves {
        match step {
            Move::Publish(key, table) => {
                number += 1;
                let rss = if table.is_empty() { None } else { rss(key, table, WORKERS) };
                newest = plan(number, rss);
            }
            Move::Follow(worker) => team[worker].follow(&newest),
            Move::Proceed(worker) => team[worker].proceed(),
            Move::Take(worker, n) => {
                team[worker].next_cursor = cursor;
                for slot in 0..team[worker].pools.reached() {
                    team[worker].pools.get_mut(slot).unwrap().cursor = cursor;
                }
                if let Ok((_, port)) = team[worker].allocate(&[lip], (v4(n), 80), TCP) {
                    let before = taken.insert((n, port), worker);
                    prop_assert_eq!(before, None, "{} towards {}, by {}", port, n, worker);
                }
            }
            Move::Free(n) => {
                let some = taken.iter().nth(n % taken.len().max(1)).map(|(end, worker)| (*end, *worker));
                if let Some(((n, port), worker)) = some {
                    prop_assert!(team[worker].free(lip, port, (v4(n), 80), TCP));
                    taken.remove(&(n, port));
                }
            }
        }
    }
    for _ in 0..3 {
        team.iter_mut().for_each(|ports| ports.follow(&newest));
        settle(&mut team);
    }
    for (worker, ports) in team.iter_mut().enumerate() {
        for n in 0..2 {
            for _ in 0..5 {
                let Ok((_, port)) = ports.allocate(&[lip], (v4(n), 80), TCP) else { continue };
                prop_assert_eq!(taken.insert((n, port), worker), None);
                let key = PoolKey { lip, server: v4(n), port: 80, protocol: TCP };
                prop_assert_eq!(ports.owner_of(&key.answer(port)), worker);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn workers_never_have_the_same_port(moves in prop::collection::vec(a_move(), 1..250)) {
        play(moves)?;
    }
}

/// The first worker's port is the second's by the second plan, and its own
/// again by the third, which it goes by before the second worker does.
#[test]
fn a_worker_that_is_ahead_still_says_what_it_has() {
    let all = |what: fn(usize) -> Move| (0..3).map(what);
    let second = Move::Publish(91, vec![0, 1]);
    let third = Move::Publish(1, vec![0]);
    let mut moves: Vec<Move> = vec![Move::Take(0, 1); 40];
    moves.push(second);
    moves.extend(all(Move::Follow));
    moves.extend([2, 0, 0, 0].map(Move::Proceed));
    moves.push(third);
    moves.push(Move::Follow(0));
    moves.extend([1, 1, 1, 0, 0, 0, 1].map(Move::Proceed));
    moves.extend(vec![Move::Take(1, 1); 100]);
    play(moves).unwrap();
}
