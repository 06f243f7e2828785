//! The order of services and servers in listings.
//!
//! ipvsadm compares addresses by the sign of a 32-bit difference, which is no
//! order at all: 192.0.2.1 comes after 100.64.0.1 but before 10.0.0.1. Rust's
//! sorts may panic on such a comparison, so there is a merge sort here, which
//! also is what ipvsadm's C library does.

use std::net::IpAddr;

use crate::rules::{Family, Server, ServerListing, ServiceListing, ServiceName};

/// Sorts services and the servers in each.
pub(super) fn sort(services: &mut Vec<ServiceListing>) {
    for service in services.iter_mut() {
        merge_sort(&mut service.servers, &|a: &ServerListing, b: &ServerListing| {
            compare_servers(&a.server, &b.server)
        });
    }
    merge_sort(services, &|a: &ServiceListing, b: &ServiceListing| compare_services(&a.name, &b.name));
}

/// The four words of an address in network order, IPv4 in the first.
fn words(address: IpAddr) -> [u32; 4] {
    match address {
        IpAddr::V4(v4) => [v4.to_bits(), 0, 0, 0],
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            [96, 64, 32, 0].map(|shift| (bits >> shift) as u32)
        }
    }
}

/// Negative when `a` comes first, as for C's `qsort`.
fn difference(a: u32, b: u32) -> i32 {
    a.wrapping_sub(b) as i32
}

fn compare_addresses(a: IpAddr, b: IpAddr) -> i32 {
    // Where the families differ, which they may among servers, the first one
    // decides how far is looked.
    let count = if a.is_ipv6() { 4 } else { 1 };
    let pairs = words(a).into_iter().zip(words(b)).take(count);
    pairs.map(|(a, b)| difference(a, b)).find(|d| *d != 0).unwrap_or(0)
}

fn compare_services(a: &ServiceName, b: &ServiceName) -> i32 {
    let mark = |name: &ServiceName| match *name {
        ServiceName::Mark { mark, .. } => mark,
        ServiceName::Address { .. } => 0,
    };
    let family = |name: &ServiceName| match name.family() {
        Family::Ipv4 => 2,
        Family::Ipv6 => 10,
    };
    let protocol = |name: &ServiceName| match *name {
        ServiceName::Address { protocol, .. } => i32::from(protocol.number()),
        ServiceName::Mark { .. } => 0,
    };
    let address = || match (*a, *b) {
        (ServiceName::Address { address: a, .. }, ServiceName::Address { address: b, .. }) => {
            compare_addresses(a, b)
        }
        _ => 0,
    };
    let port = || i32::from(a.port()) - i32::from(b.port());
    first([
        &|| difference(mark(a), mark(b)),
        &|| family(a) - family(b),
        &|| protocol(a) - protocol(b),
        &address,
        &port,
    ])
}

fn compare_servers(a: &Server, b: &Server) -> i32 {
    first([&|| compare_addresses(a.address, b.address), &|| i32::from(a.port) - i32::from(b.port)])
}

/// The first comparison that tells a difference.
fn first<const N: usize>(comparisons: [&dyn Fn() -> i32; N]) -> i32 {
    comparisons.iter().map(|compare| compare()).find(|d| *d != 0).unwrap_or(0)
}

/// Stable; any comparison does, also an inconsistent one.
fn merge_sort<T>(items: &mut Vec<T>, compare: &dyn Fn(&T, &T) -> i32) {
    if items.len() < 2 {
        return;
    }
    let mut right = items.split_off(items.len() / 2);
    merge_sort(items, compare);
    merge_sort(&mut right, compare);
    let mut left = std::mem::take(items).into_iter().peekable();
    let mut right = right.into_iter().peekable();
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        let next = if compare(a, b) <= 0 { left.next() } else { right.next() };
        items.extend(next);
    }
    items.extend(left);
    items.extend(right);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::Protocol;

    fn sorted(addresses: &[&str]) -> Vec<String> {
        let mut names: Vec<_> = addresses
            .iter()
            .map(|text| ServiceName::Address {
                protocol: Protocol::Tcp,
                address: text.parse().unwrap(),
                port: 80,
            })
            .collect();
        merge_sort(&mut names, &compare_services);
        names
            .iter()
            .map(|name| match name {
                ServiceName::Address { address, .. } => address.to_string(),
                ServiceName::Mark { .. } => unreachable!(),
            })
            .collect()
    }

    #[test]
    fn addresses_are_ordered_by_a_signed_difference() {
        assert_eq!(sorted(&["10.0.0.10", "10.0.0.2", "10.0.0.1"]), ["10.0.0.1", "10.0.0.2", "10.0.0.10"]);
        assert_eq!(sorted(&["10.0.0.1", "192.0.2.1"]), ["192.0.2.1", "10.0.0.1"]);
        assert_eq!(sorted(&["192.0.2.1", "100.64.0.1"]), ["100.64.0.1", "192.0.2.1"]);
        assert_eq!(sorted(&["::1", "fe80::1", "10.0.0.1"]), ["10.0.0.1", "fe80::1", "::1"]);
    }

    #[test]
    fn sorting_is_stable_and_loses_nothing() {
        let mut items: Vec<(u8, usize)> = (0..100).map(|i| ((i * 7 % 5) as u8, i)).collect();
        merge_sort(&mut items, &|a: &(u8, usize), b: &(u8, usize)| i32::from(a.0) - i32::from(b.0));
        assert_eq!(items.len(), 100);
        assert!(items.windows(2).all(|pair| pair[0] < pair[1]), "equal ones stay in order");
    }
}
