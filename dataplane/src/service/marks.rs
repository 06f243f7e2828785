//! Rules that mark packets, in place of those of iptables' mangle table, which
//! packets that bypass the kernel do not pass.
//!
//! They mean what `iptables -t mangle -A PREROUTING ... -j MARK --set-mark`
//! means: all rules are gone through in order, each that matches changes the
//! mark, and none ends it (`mark_tg` in `net/netfilter/xt_mark.c`). A packet
//! is looked at only when there is no connection that it belongs to: what a
//! connection's later packets are marked does not matter to IPVS either.
//!
//! Rules are found by destination: for each prefix that rules name, there is a
//! list of all that apply to its addresses, so that hundreds of rules for
//! hundreds of VIPs cost as much as the few of one VIP.

use std::collections::BTreeSet;
use std::sync::Arc;

use crossbeam::utils::CachePadded;

use super::Protocol;
use crate::conn::Tuple;
use crate::neigh::{Prefix, PrefixMap};
use crate::stats::Counter;

/// Ports from one to another, both included; in host order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PortRange {
    /// The first
    pub first: u16,
    /// The last, not below the first
    pub last: u16,
}

impl PortRange {
    /// Whether a port is in the range.
    #[inline]
    pub fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

/// One rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MarkRule {
    /// Destination addresses, which also say the family
    pub destination: Prefix,
    /// Source addresses, of the same family; `None` for any
    pub source: Option<Prefix>,
    /// Transport protocol; `None` for any that services have
    pub protocol: Option<Protocol>,
    /// Destination ports; none for all
    pub ports: Vec<PortRange>,
    /// The director's interfaces by which packets come in: bit i for the i-th
    pub interfaces: u64,
    /// What is set
    pub value: u32,
    /// Bits that are cleared before, beside those that are set
    pub mask: u32,
}

impl MarkRule {
    /// Whether a packet that was received on the director's interface of this
    /// number is one of the rule's.
    #[inline]
    pub fn matches(&self, tuple: &Tuple, interface: usize) -> bool {
        self.is_on(interface)
            && self.protocol.is_none_or(|protocol| protocol == tuple.protocol)
            && (self.ports.is_empty()
                || self.ports.iter().any(|range| range.contains(tuple.destination_port)))
            && self.destination.contains(tuple.destination)
            && self.source.is_none_or(|source| source.contains(tuple.source))
    }

    /// Whether it is for packets that come in by this interface.
    #[inline]
    pub fn is_on(&self, interface: usize) -> bool {
        self.interfaces.checked_shr(interface as u32).unwrap_or(0) & 1 != 0
    }

    /// The mark of a matching packet that was marked so before.
    #[inline]
    pub fn apply(&self, mark: u32) -> u32 {
        mark & !self.mask | self.value
    }

    /// How many comparisons it takes: one for each range of ports.
    pub fn steps(&self) -> usize {
        self.ports.len().max(1)
    }

    fn applies_to_all_of(&self, prefix: Prefix) -> bool {
        self.destination.length() <= prefix.length() && self.destination.contains(prefix.address())
    }
}

/// How many connections each worker began with packets that a rule matched.
#[derive(Debug)]
pub struct MarkCounters(Box<[CachePadded<Counter>]>);

impl MarkCounters {
    /// Zeroed counters for `workers` workers.
    pub fn new(workers: usize) -> Self {
        MarkCounters((0..workers).map(|_| CachePadded::default()).collect())
    }

    /// The sum over all workers.
    pub fn sum(&self) -> u64 {
        self.0.iter().map(|counter| counter.get()).sum()
    }
}

/// More rules than the XDP program goes through for every packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TooManyRules {
    /// For the addresses of one prefix
    #[error(
        "{steps} mark rules and port ranges apply to {prefix}, and {} is the most; name fewer ranges, \
         or larger prefixes of sources",
        MarkRules::MOST_STEPS_OF_ONE
    )]
    AtOne {
        /// The prefix
        prefix: Prefix,
        /// How many rules there are, counted once for each of their ranges
        steps: usize,
    },
    /// For all of them together
    #[error(
        "the mark rules and port ranges that apply to each of their destinations are {0} altogether, and \
         {most} is the most; name fewer destinations, or larger prefixes",
        most = MarkRules::MOST_STEPS
    )]
    Altogether(usize),
}

/// The rules of a director, in order.
#[derive(Clone, Debug, Default)]
pub struct MarkRules {
    rules: Vec<MarkRule>,
    counters: Vec<Arc<MarkCounters>>,
    /// By destination, the list of the longest prefix
    by_destination: PrefixMap<u32>,
    /// Rules that apply to the addresses of a prefix, in order
    lists: Vec<(Prefix, Vec<u32>)>,
}

impl PartialEq for MarkRules {
    fn eq(&self, other: &Self) -> bool {
        self.rules == other.rules
    }
}

impl Eq for MarkRules {}

impl MarkRules {
    /// Most rules that apply to one address, each counted once for every range
    /// of its ports.
    pub const MOST_STEPS_OF_ONE: usize = 512;

    /// The same over all prefixes that rules name.
    pub const MOST_STEPS: usize = 8192;

    /// Rules in order, each with its counters.
    ///
    /// # Errors
    /// When there are too many.
    pub fn new(rules: Vec<(MarkRule, Arc<MarkCounters>)>) -> Result<Self, TooManyRules> {
        let (rules, counters): (Vec<_>, Vec<_>) = rules.into_iter().unzip();
        let mut all = MarkRules { rules, counters, ..MarkRules::default() };
        let mut altogether = 0;
        for prefix in all.rules.iter().map(|rule| rule.destination).collect::<BTreeSet<_>>() {
            let applies = |(place, rule): (usize, &MarkRule)| {
                rule.applies_to_all_of(prefix).then_some((place as u32, rule.steps()))
            };
            let (list, steps): (Vec<_>, Vec<_>) = all.rules.iter().enumerate().filter_map(applies).unzip();
            let steps = steps.into_iter().sum::<usize>();
            if steps > MarkRules::MOST_STEPS_OF_ONE {
                return Err(TooManyRules::AtOne { prefix, steps });
            }
            altogether += steps;
            all.by_destination.insert(prefix, all.lists.len() as u32);
            all.lists.push((prefix, list));
        }
        if altogether > MarkRules::MOST_STEPS {
            return Err(TooManyRules::Altogether(altogether));
        }
        Ok(all)
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// All rules, in order.
    pub fn rules(&self) -> &[MarkRule] {
        &self.rules
    }

    /// The mark of a packet that was received on the director's interface of
    /// this number; 0 for none.
    #[inline]
    pub fn mark(&self, tuple: &Tuple, interface: usize) -> u32 {
        self.matching(tuple, interface).fold(0, |mark, place| self.rules[place].apply(mark))
    }

    /// Counts a connection that `worker` began with such a packet.
    #[inline]
    pub fn count(&self, tuple: &Tuple, interface: usize, worker: usize) {
        self.matching(tuple, interface).for_each(|place| self.counters[place].0[worker].add(1));
    }

    /// How many connections each rule counted, in order.
    pub fn connections(&self) -> Vec<u64> {
        self.counters.iter().map(|counters| counters.sum()).collect()
    }

    fn matching(&self, tuple: &Tuple, interface: usize) -> impl Iterator<Item = usize> {
        let list = self.by_destination.lookup(tuple.destination);
        let list = list.map_or(&[][..], |list| self.lists[list as usize].1.as_slice());
        let matches = move |place: &usize| self.rules[*place].matches(tuple, interface);
        list.iter().map(|place| *place as usize).filter(matches)
    }

    /// Each prefix that rules name.
    pub(crate) fn destinations(&self) -> impl Iterator<Item = Prefix> {
        self.lists.iter().map(|(prefix, _)| *prefix)
    }

    /// The rules that apply to all addresses of a prefix, in order.
    pub(crate) fn applying_to(&self, prefix: Prefix) -> impl Iterator<Item = &MarkRule> {
        self.rules.iter().filter(move |rule| rule.applies_to_all_of(prefix))
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::wire::Address;

    fn built(rules: Vec<MarkRule>) -> Result<MarkRules, TooManyRules> {
        MarkRules::new(rules.into_iter().map(|rule| (rule, Arc::new(MarkCounters::new(1)))).collect())
    }

    fn rule(destination: &str, ports: &[(u16, u16)], value: u32, mask: u32) -> MarkRule {
        MarkRule {
            destination: destination.parse().unwrap(),
            source: None,
            protocol: Some(Protocol::Tcp),
            ports: ports.iter().map(|(first, last)| PortRange { first: *first, last: *last }).collect(),
            interfaces: u64::MAX,
            value,
            mask,
        }
    }

    fn packet(destination: &str, port: u16) -> Tuple {
        let ip: IpAddr = destination.parse().unwrap();
        let source: IpAddr = if ip.is_ipv4() { "10.0.1.1" } else { "2001:db8::1" }.parse().unwrap();
        Tuple {
            source: source.into(),
            destination: ip.into(),
            source_port: 40_000,
            destination_port: port,
            protocol: Protocol::Tcp,
        }
    }

    /// As Linux 6.1 marked such packets by the same rules of iptables.
    #[test]
    fn a_later_rule_changes_what_an_earlier_one_set() {
        let rules = built(vec![
            rule("192.0.2.10/32", &[], 0x11, u32::MAX),
            rule("192.0.2.10/32", &[(443, 443)], 0x2, 0xf),
            rule("192.0.2.10/32", &[(8080, 8080)], 0x12, 0x10),
        ])
        .unwrap();
        let marks = [80, 443, 8080].map(|port| rules.mark(&packet("192.0.2.10", port), 0));
        assert_eq!(marks, [0x11, 0x12, 0x13]);
    }

    #[test]
    fn rules_of_wider_prefixes_apply_to_narrower_ones_in_their_place() {
        let rules = built(vec![
            rule("192.0.2.10/32", &[(80, 80)], 1, u32::MAX),
            rule("192.0.2.0/24", &[(80, 90)], 2, u32::MAX),
            rule("192.0.2.10/32", &[(85, 85)], 3, u32::MAX),
            rule("2001:db8::/32", &[], 4, u32::MAX),
            rule("::/0", &[(80, 80)], 5, u32::MAX),
        ])
        .unwrap();
        for (destination, port, mark) in [
            ("192.0.2.10", 80, 2),
            ("192.0.2.10", 85, 3),
            ("192.0.2.11", 85, 2),
            ("192.0.2.11", 91, 0),
            ("192.0.3.1", 80, 0),
            ("2001:db8::1", 80, 5),
            ("2001:db8::1", 81, 4),
            ("2002::1", 80, 5),
            ("2002::1", 81, 0),
        ] {
            assert_eq!(rules.mark(&packet(destination, port), 63), mark, "{destination} {port}");
        }
        assert_eq!(rules.mark(&packet("192.0.2.10", 80), 64), 0, "no such interface");
        rules.count(&packet("192.0.2.10", 85), 0, 0);
        assert_eq!(rules.connections(), [0, 1, 1, 0, 0]);
    }

    #[test]
    fn there_are_only_as_many_as_can_be_gone_through() {
        let many = |count| (0..count).map(|n| rule("192.0.2.10/32", &[(n, n)], 1, u32::MAX));
        assert!(built(many(512).collect()).is_ok());
        let error = built(many(513).collect()).unwrap_err();
        assert_eq!(error, TooManyRules::AtOne { prefix: "192.0.2.10/32".parse().unwrap(), steps: 513 });
        let wide = |n: u16| rule("0.0.0.0/0", &[(n, n)], 1, u32::MAX);
        let narrow = |n| rule(&format!("10.0.0.{n}/32"), &[], 1, u32::MAX);
        let nested = |wides| (0..wides).map(wide).chain((0..20).map(narrow)).collect();
        assert!(built(nested(388)).is_ok());
        assert_eq!(built(nested(390)).unwrap_err(), TooManyRules::Altogether(390 * 21 + 20));
    }

    fn address() -> impl Strategy<Value = Address> {
        let octet = || prop_oneof![Just(0u8), Just(1), Just(128)];
        prop_oneof![
            3 => (octet(), octet()).prop_map(|(a, b)| Address::from_v4([10, 0, a, b])),
            1 => octet().prop_map(|a| {
                let mut bytes = [0; 16];
                (bytes[0], bytes[15]) = (0x20, a);
                Address::from_v6(bytes)
            }),
        ]
    }

    fn prefix() -> impl Strategy<Value = Prefix> {
        (address(), prop_oneof![Just(0u8), Just(8), Just(24), Just(25), Just(32), Just(128)])
            .prop_filter_map("no such prefix", |(address, length)| Prefix::new(address, length))
    }

    fn any_rule() -> impl Strategy<Value = MarkRule> {
        let port = || 0u16..6;
        let ranges = prop::collection::vec((port(), port()), 0..3);
        let protocol = prop::option::of(prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)]);
        let mask = prop_oneof![Just(u32::MAX), Just(0u32), Just(3), Just(6)];
        (prefix(), prop::option::weighted(0.3, prefix()), protocol, ranges, 0u64..4, 0u32..8, mask).prop_map(
            |(destination, source, protocol, ranges, interfaces, value, mask)| MarkRule {
                destination,
                source,
                protocol,
                ports: ranges
                    .into_iter()
                    .map(|(a, b)| PortRange { first: a.min(b), last: a.max(b) })
                    .collect(),
                interfaces,
                value,
                mask,
            },
        )
    }

    fn any_tuple() -> impl Strategy<Value = Tuple> {
        let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)];
        (address(), address(), 0u16..7, protocol).prop_map(
            |(source, destination, destination_port, protocol)| Tuple {
                source,
                destination,
                source_port: 1,
                destination_port,
                protocol,
            },
        )
    }

    proptest! {
        #[test]
        fn the_same_as_going_through_every_rule(
            rules in prop::collection::vec(any_rule(), 0..40),
            tuples in prop::collection::vec((any_tuple(), 0usize..2), 50),
        ) {
            let built = built(rules.clone()).unwrap();
            for (tuple, interface) in tuples {
                let mut mark = 0u32;
                for rule in &rules {
                    let ports = &rule.ports;
                    let port = tuple.destination_port;
                    if rule.interfaces >> interface & 1 == 1
                        && rule.destination.contains(tuple.destination)
                        && rule.source.is_none_or(|source| source.contains(tuple.source))
                        && (rule.protocol.is_none() || rule.protocol == Some(tuple.protocol))
                        && (ports.is_empty() || ports.iter().any(|r| (r.first..=r.last).contains(&port)))
                    {
                        // skb->mark = (skb->mark & ~info->mask) ^ info->mark
                        let mask = rule.value | rule.mask;
                        mark = (mark & !mask) ^ rule.value;
                    }
                }
                prop_assert_eq!(built.mark(&tuple, interface), mark, "{:?}", tuple);
            }
        }
    }
}
