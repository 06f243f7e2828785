//! Rates, plots and pages.

use std::time::{Duration, Instant};

use super::sample::Sample;
use super::*;

fn query() -> OverviewQuery {
    OverviewQuery { points: POINTS, ..OverviewQuery::default() }
}

#[test]
fn rates_are_those_of_the_last_second() {
    let sample = Sample::new(2, 1);
    let start = Instant::now();
    // What was before the first look is no rate.
    sample.traffic(0, 0, 1000);
    sample.observatory.sample(start);
    sample.traffic(0, 0, 20);
    sample.traffic(1, 1, 5);
    sample.observatory.sample(start + Duration::from_secs(2));

    let overview = sample.observatory.overview(&query());
    let rate = |connections: f32| RatePoint {
        packets: connections * 20.0,
        bits: connections * 16_000.0,
        connections,
        drops: connections,
    };
    assert_eq!(overview.rate, rate(12.5));
    assert_eq!(overview.workers.iter().map(|w| w.rate).collect::<Vec<_>>(), [rate(10.0), rate(2.5)]);
    let services = &overview.services.list;
    assert_eq!(services.iter().map(|s| s.rate).collect::<Vec<_>>(), [rate(10.0), rate(2.5)]);
    assert_eq!(services[0].plot, [rate(10.0)]);
    assert_eq!((services[0].connections, services[0].totals.packets), (1020, 20_400));
    assert_eq!(overview.drops, [DropView { reason: "no_server".into(), count: 1025 }]);
    assert_eq!((overview.interfaces[0].received, overview.interfaces[1].transmitted), (20_500, 20_500));

    sample.observatory.sample(start + Duration::from_secs(3));
    assert_eq!(sample.observatory.overview(&query()).rate, rate(0.0));
}

#[test]
fn plots_are_bounded() {
    let sample = Sample::new(PLOTTED_SERVICES + 10, 0);
    let mut now = Instant::now();
    for _ in 0..POINTS + 20 {
        sample.observatory.sample(now);
        now += Duration::from_secs(1);
    }
    let query = OverviewQuery { points: usize::MAX, ..query() };
    let overview = sample.observatory.overview(&query);
    assert_eq!(overview.plot.len(), POINTS);
    assert_eq!(overview.workers[1].plot.len(), POINTS);
    let plotted: usize = (0..overview.services.total)
        .step_by(MAX_LISTED)
        .map(|offset| {
            let page = sample.observatory.overview(&OverviewQuery { offset, ..query.clone() }).services.list;
            assert!(page.iter().all(|s| s.plot.is_empty() || s.plot.len() == POINTS));
            page.iter().filter(|s| !s.plot.is_empty()).count()
        })
        .sum();
    assert_eq!(plotted, PLOTTED_SERVICES);
}

#[test]
fn services_are_found_sorted_and_cut() {
    let sample = Sample::new(300, 2);
    let start = Instant::now();
    sample.observatory.sample(start);
    sample.traffic(41, 0, 100);
    sample.traffic(7, 0, 50);
    sample.observatory.sample(start + Duration::from_secs(1));
    let names = |query: &OverviewQuery| -> Vec<String> {
        sample.observatory.overview(query).services.list.into_iter().map(|s| s.name).collect()
    };
    let first = |sort| names(&OverviewQuery { sort, limit: 3, ..query() });
    for sort in [Sort::Packets, Sort::Bits, Sort::Connections, Sort::Drops, Sort::Active] {
        assert_eq!(first(sort), ["tcp 192.0.2.10:42", "tcp 192.0.2.10:8", "tcp 192.0.2.10:1"], "{sort:?}");
    }
    assert_eq!(first(Sort::Name), ["tcp 192.0.2.10:1", "tcp 192.0.2.10:2", "tcp 192.0.2.10:3"]);
    assert_eq!(names(&OverviewQuery { limit: usize::MAX, ..query() }).len(), MAX_LISTED);
    let page = OverviewQuery { search: ":29".into(), sort: Sort::Name, offset: 2, limit: 2, ..query() };
    let overview = sample.observatory.overview(&page);
    assert_eq!((overview.services.total, overview.services.matched), (300, 11));
    assert_eq!(names(&page), ["tcp 192.0.2.10:291", "tcp 192.0.2.10:292"]);
    assert_eq!(names(&OverviewQuery { search: "udp".into(), ..query() }), Vec::<String>::new());
}

#[test]
fn servers_that_are_down_are_shown_though_they_are_taken_out() {
    let sample = Sample::new(2, 2);
    sample.fail();
    let overview = sample.observatory.overview(&query());
    assert_eq!(overview.servers_down, 2);
    assert!(overview.services.list.iter().all(|service| service.list.is_empty()), "nobody asked");

    let open = OverviewQuery { open: Some("tcp 192.0.2.10:1".into()), sort: Sort::Name, ..query() };
    let overview = sample.observatory.overview(&open);
    let service = &overview.services.list[0];
    assert_eq!((service.servers, service.down), (3, 2));
    let servers: Vec<_> = service
        .list
        .iter()
        .map(|server| {
            (server.address.as_str(), server.method.is_some(), server.health.as_ref().map(|h| h.state))
        })
        .collect();
    assert_eq!(
        servers,
        [
            ("10.0.0.1:8080", true, Some(ServerState::Down)),
            ("10.0.0.2:8080", true, None),
            ("10.0.0.99:8080", false, Some(ServerState::Down)),
        ]
    );
    assert!(overview.services.list[1].list.is_empty());
}
