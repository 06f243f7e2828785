//! Filters of a NIC that lead a server's answers to the queue of their worker, by
//! ethtool requests (`ethtool -N`): for one that has no RSS table that could be read.
//!
//! There a local port's number tells whose it is ([`owner`](crate::local::owner)):
//! the remainder by the number of workers. For 2, 4, 8 and so on workers that is
//! the lowest bits of the port, and a filter compares just those.

use std::io;

use super::Link;
use crate::service::Protocol;
use crate::wire::Address;

/// `ETHTOOL_GRXCLSRLCNT` and so on in `include/uapi/linux/ethtool.h`.
const GET_COUNT: u32 = 0x2e;
const GET_FILTER: u32 = 0x2f;
const GET_ALL: u32 = 0x30;
const REMOVE: u32 = 0x31;
const INSERT: u32 = 0x32;

/// `RX_CLS_LOC_SPECIAL`: the driver chooses a location.
const SPECIAL: u64 = 1 << 31;
/// `RX_CLS_LOC_ANY`
const ANY_PLACE: u32 = u32::MAX;

/// `TCP_V4_FLOW` and so on.
const TCP_V4: u32 = 1;
const UDP_V4: u32 = 2;
const TCP_V6: u32 = 5;
const UDP_V6: u32 = 6;

/// Bytes of `struct ethtool_rxnfc`, and where its members are.
const LEN: usize = 192;
const DATA: usize = 8;
const SPEC: usize = 16;
const VALUES: usize = SPEC + 4;
const MASKS: usize = VALUES + FLOW + EXTENSION;
const QUEUE: usize = SPEC + 152;
const PLACE: usize = SPEC + 160;
const COUNT: usize = SPEC + 168;
const PLACES: usize = COUNT + 4;

/// Bytes of `union ethtool_flow_union` and of `struct ethtool_flow_ext`.
const FLOW: usize = 52;
const EXTENSION: usize = 20;

/// Filters of which a NIC is asked at most.
const MOST: u32 = 1 << 16;

/// What answers to a LIP a filter leads to a queue.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Filter {
    /// The LIP
    pub local: Address,
    /// TCP or UDP
    pub protocol: Protocol,
    /// Bits of the port that count, in host order
    pub mask: u16,
    /// What they are; also the queue
    pub queue: u16,
}

/// Why a NIC does not have a filter.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Its driver has none, or none of this kind, or they are turned off
    #[error("its driver takes no such filters (ethtool -K IF ntuple on may turn them on)")]
    Unsupported,
    /// The table is full
    #[error("its table of filters is full")]
    Full,
    /// The kernel refused
    #[error("its filters cannot be set: {0}")]
    System(#[from] io::Error),
}

impl Filter {
    /// The filters for a LIP: one for each protocol and worker. `None` unless the
    /// workers are 2, 4, 8 or so, as a filter compares bits.
    pub fn all_of(local: Address, workers: usize) -> Option<impl Iterator<Item = Filter>> {
        let mask = u16::try_from(workers.checked_sub(1)?).ok()?;
        let protocols = [Protocol::Tcp, Protocol::Udp];
        let of = move |protocol| (0..=mask).map(move |queue| Filter { local, protocol, mask, queue });
        (workers > 1 && workers.is_power_of_two()).then(|| protocols.into_iter().flat_map(of))
    }

    fn kind(&self) -> u32 {
        match (self.protocol, self.local.is_v4()) {
            (Protocol::Tcp, true) => TCP_V4,
            (Protocol::Tcp, false) => TCP_V6,
            (_, true) => UDP_V4,
            (_, false) => UDP_V6,
        }
    }

    /// Where the destination is in the values and in the masks, and where its port.
    fn offsets(is_v4: bool) -> (usize, usize) {
        if is_v4 { (4, 10) } else { (16, 34) }
    }

    /// `struct ethtool_rxnfc` that inserts it at a place.
    fn request(&self, place: u32) -> Request {
        let mut request = Request::new(INSERT, 0);
        request.put(SPEC, &self.kind().to_ne_bytes());
        let (address, port) = Filter::offsets(self.local.is_v4());
        match self.local.v4() {
            Some(v4) => {
                request.put(VALUES + address, &v4);
                request.put(MASKS + address, &[0xff; 4]);
            }
            None => {
                request.put(VALUES + address, &self.local.bytes());
                request.put(MASKS + address, &[0xff; 16]);
            }
        }
        request.put(VALUES + port, &self.queue.to_be_bytes());
        request.put(MASKS + port, &self.mask.to_be_bytes());
        request.put(QUEUE, &u64::from(self.queue).to_ne_bytes());
        request.put(PLACE, &place.to_ne_bytes());
        request
    }

    /// The filter that an answer of the kernel tells of, if it is one of these.
    fn of(answer: &Request) -> Option<Self> {
        let kind = u32::from_ne_bytes(answer.get(SPEC));
        let is_v4 = matches!(kind, TCP_V4 | UDP_V4);
        let protocol = if matches!(kind, TCP_V4 | TCP_V6) { Protocol::Tcp } else { Protocol::Udp };
        let (address, port) = Filter::offsets(is_v4);
        let local = match is_v4 {
            true => Address::from_v4(answer.get(VALUES + address)),
            false => Address::from_v6(answer.get(VALUES + address)),
        };
        let mask = u16::from_be_bytes(answer.get(MASKS + port));
        let queue = u16::from_be_bytes(answer.get(VALUES + port));
        let filter = Filter { local, protocol, mask, queue };
        // All else has to be as in ours: it compares nothing but these.
        let place = u32::from_ne_bytes(answer.get(PLACE));
        let same = |from: usize, to: usize| answer.bytes(from, to) == filter.request(place).bytes(from, to);
        (same(SPEC, MASKS + FLOW) && same(QUEUE, QUEUE + 8)).then_some(filter)
    }
}

impl Link {
    /// Sets a filter. Returns its place, by which it is removed.
    ///
    /// # Errors
    /// When the driver does not take it.
    pub fn add_filter(&self, filter: &Filter) -> Result<u32, Refused> {
        let (count, size) = self.count_filters()?;
        let place = if size & SPECIAL != 0 {
            ANY_PLACE
        } else {
            // The last free one, as ethtool does: the first are looked at first.
            let taken = self.places(count)?;
            let size = u32::try_from(size).unwrap_or(0);
            (0..size).rev().find(|place| !taken.contains(place)).ok_or(Refused::Full)?
        };
        let mut request = filter.request(place);
        self.ask(&mut request)?;
        Ok(u32::from_ne_bytes(request.get(PLACE)))
    }

    /// Removes the filter at a place.
    ///
    /// # Errors
    /// When the driver refuses, as where there is none.
    pub fn remove_filter(&self, place: u32) -> Result<(), Refused> {
        let mut request = Request::new(REMOVE, 0);
        request.put(PLACE, &place.to_ne_bytes());
        self.ask(&mut request)
    }

    /// The filters of this kind that there are, with their places.
    ///
    /// # Errors
    /// When the driver has none.
    pub fn filters(&self) -> Result<Vec<(Filter, u32)>, Refused> {
        let (count, _) = self.count_filters()?;
        let mut found = Vec::new();
        for place in self.places(count)? {
            let mut request = Request::new(GET_FILTER, 0);
            request.put(PLACE, &place.to_ne_bytes());
            // One that is gone since, or of a kind that cannot be told, is none.
            if self.ask(&mut request).is_ok() {
                found.extend(Filter::of(&request).map(|filter| (filter, place)));
            }
        }
        Ok(found)
    }

    /// How many filters there are, and the size of the table with [`SPECIAL`].
    fn count_filters(&self) -> Result<(u32, u64), Refused> {
        let mut request = Request::new(GET_COUNT, 0);
        self.ask(&mut request)?;
        Ok((u32::from_ne_bytes(request.get(COUNT)).min(MOST), u64::from_ne_bytes(request.get(DATA))))
    }

    /// Where there are filters.
    fn places(&self, count: u32) -> Result<Vec<u32>, Refused> {
        let mut request = Request::new(GET_ALL, count);
        request.put(COUNT, &count.to_ne_bytes());
        self.ask(&mut request)?;
        let found = u32::from_ne_bytes(request.get(COUNT)).min(count) as usize;
        Ok((0..found).map(|i| u32::from_ne_bytes(request.get(PLACES + 4 * i))).collect())
    }

    fn ask(&self, request: &mut Request) -> Result<(), Refused> {
        self.ethtool(request.0.as_mut_slice()).map_err(|error| match error.raw_os_error() {
            Some(libc::EOPNOTSUPP | libc::EINVAL) => Refused::Unsupported,
            Some(libc::ENOSPC) => Refused::Full,
            _ => Refused::System(error),
        })
    }
}

/// `struct ethtool_rxnfc` with room for places behind it, in words for its alignment.
struct Request(Vec<u64>);

impl Request {
    fn new(command: u32, places: u32) -> Self {
        let mut request = Request(vec![0; (LEN + 4 * places as usize).div_ceil(8)]);
        request.put(0, &command.to_ne_bytes());
        request
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        for (at, byte) in (at..).zip(bytes) {
            let mut word = self.0[at / 8].to_ne_bytes();
            word[at % 8] = *byte;
            self.0[at / 8] = u64::from_ne_bytes(word);
        }
    }

    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        std::array::from_fn(|i| self.0[(at + i) / 8].to_ne_bytes()[(at + i) % 8])
    }

    fn bytes(&self, from: usize, to: usize) -> Vec<u8> {
        (from..to).map(|at| self.get::<1>(at)[0]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIP: Address = Address::from_v4([10, 0, 2, 200]);
    const LIP_V6: Address = Address::from_v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0]);

    /// Offsets are those of the kernel's header, as a compiler of C gives them.
    #[test]
    fn a_filter_is_as_the_kernel_reads_it() {
        let filter = Filter { local: LIP, protocol: Protocol::Udp, mask: 3, queue: 2 };
        let request = filter.request(7);
        assert_eq!(request.0.len() * 8, 192);
        let mut expected = vec![0u8; 192];
        expected[..4].copy_from_slice(&0x32u32.to_ne_bytes());
        expected[16..20].copy_from_slice(&2u32.to_ne_bytes());
        expected[24..28].copy_from_slice(&[10, 0, 2, 200]);
        expected[30..32].copy_from_slice(&[0, 2]);
        expected[96..100].copy_from_slice(&[255; 4]);
        expected[102..104].copy_from_slice(&[0, 3]);
        expected[168..176].copy_from_slice(&2u64.to_ne_bytes());
        expected[176..180].copy_from_slice(&7u32.to_ne_bytes());
        assert_eq!(request.bytes(0, 192), expected);

        let request = Filter { local: LIP_V6, protocol: Protocol::Tcp, ..filter }.request(7);
        assert_eq!(request.get(16), 5u32.to_ne_bytes());
        assert_eq!((request.get(36), request.get(108)), (LIP_V6.bytes(), [255; 16]));
        assert_eq!((request.get(54), request.get(126)), ([0, 2], [0, 3]));
    }

    #[test]
    fn what_the_kernel_tells_is_one_of_ours_or_not() {
        for local in [LIP, LIP_V6] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let filter = Filter { local, protocol, mask: 7, queue: 5 };
                assert_eq!(Filter::of(&filter.request(3)), Some(filter));
                let but = |at: usize, byte: u8| {
                    let mut request = filter.request(3);
                    request.put(at, &[byte]);
                    Filter::of(&request)
                };
                // A source port that is compared, another queue, another kind.
                assert_eq!(
                    (but(MASKS + Filter::offsets(local.is_v4()).1 - 2, 1), but(QUEUE, 4)),
                    (None, None)
                );
                assert_eq!(but(SPEC, 0x12), None);
            }
        }
    }

    #[test]
    fn each_port_is_led_to_its_owner() {
        for workers in [2, 4, 16] {
            let filters: Vec<_> = Filter::all_of(LIP, workers).unwrap().collect();
            assert_eq!(filters.len(), 2 * workers);
            for port in (1024..=u16::MAX).step_by(97) {
                let of_port = filters.iter().filter(|filter| port & filter.mask == filter.queue);
                let queues: Vec<_> = of_port.map(|filter| usize::from(filter.queue)).collect();
                assert_eq!(queues, [crate::local::owner(port, workers); 2], "TCP and UDP");
            }
        }
        assert!([0, 1, 3, 6].iter().all(|workers| Filter::all_of(LIP, *workers).is_none()));
    }

    /// As with veth and all others without `get_rxnfc`.
    #[test]
    fn an_interface_without_filters_says_so() {
        let link = Link::new("lo").unwrap();
        assert!(matches!(link.filters(), Err(Refused::Unsupported)));
        let filter = Filter { local: LIP, protocol: Protocol::Udp, mask: 1, queue: 0 };
        assert!(matches!(link.add_filter(&filter), Err(Refused::Unsupported)));
    }
}
