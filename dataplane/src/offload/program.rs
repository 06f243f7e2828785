//! The program in the kernel, and its maps.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use aya::maps::{DevMap, HashMap as BpfHashMap, Map, MapData, MapError, ProgramArray};
use aya::programs::ProgramError;
use aya::programs::xdp::Xdp;
use aya::{Ebpf, EbpfError, EbpfLoader, include_bytes_aligned};
use memmap2::MmapOptions;
use thiserror::Error;
use zerocopy::{Immutable, IntoBytes};

use super::board::{Board, Words};
use super::carrier::FlowMap;
use super::lane::Entered;
use super::layout::{Flow, Hop, Key, KeyV4, KeyV6, MOST_HOPS, PLACE_WORDS, STATE_WORDS};
use crate::steer::Steering;

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/offload.bpf.o"));

/// Name of the program in the object and in the kernel.
const NAME: &str = "sluice_offload";

/// Why flows cannot be carried.
#[derive(Debug, Error)]
pub enum OffloadError {
    /// The program could not be loaded
    #[error("the program that carries flows could not be loaded: {0}")]
    Load(#[from] EbpfError),
    /// The kernel refused the program
    #[error("the kernel refused the program that carries flows: {0}")]
    Program(#[from] ProgramError),
    /// A map could not be used
    #[error("map \"{map}\" of the program that carries flows: {reason}")]
    Map {
        /// Name of the map
        map: &'static str,
        /// Why
        reason: String,
    },
    /// A steering program could not be connected with it
    #[error("interface {interface}: flows cannot be carried: {reason}")]
    Join {
        /// The interface
        interface: String,
        /// Why
        reason: String,
    },
}

/// The program that carries flows. Dropping it takes it out of all interfaces.
pub struct Offload {
    ebpf: Ebpf,
    board: Arc<Board>,
    devices: DevMap<MapData>,
    numbers: BpfHashMap<MapData, u32, u32>,
    steering: ProgramArray<MapData>,
}

impl std::fmt::Debug for Offload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Offload").field("board", &self.board).finish_non_exhaustive()
    }
}

fn failed(map: &'static str) -> impl Fn(MapError) -> OffloadError {
    move |error| OffloadError::Map { map, reason: crate::error_chain(&error) }
}

fn take(ebpf: &mut Ebpf, map: &'static str) -> Result<Map, OffloadError> {
    ebpf.take_map(map).ok_or_else(|| failed(map)(MapError::InvalidName { name: map.to_owned() }))
}

fn descriptor(ebpf: &Ebpf, map: &'static str) -> Result<RawFd, OffloadError> {
    match ebpf.map(map) {
        Some(Map::HashMap(data) | Map::Array(data)) => Ok(data.fd().as_fd().as_raw_fd()),
        _ => Err(failed(map)(MapError::InvalidName { name: map.to_owned() })),
    }
}

/// A map of the kernel's as memory.
fn words(ebpf: &Ebpf, map: &'static str, count: usize) -> Result<Words, OffloadError> {
    let mapped = MmapOptions::new().len(count * 8).map_raw(descriptor(ebpf, map)?);
    mapped.map(Words::Shared).map_err(|error| failed(map)(MapError::IoError(error)))
}

impl Offload {
    /// Loads the program with room for the flows of so many connections.
    ///
    /// # Errors
    /// When the kernel refuses, for want of memory or of a capability.
    pub fn load(connections: u32) -> Result<(Self, KernelMap), OffloadError> {
        let connections = connections.max(1);
        let mut loader = EbpfLoader::new();
        loader.map_max_entries("places", connections);
        for map in ["flows_v4", "flows_v6"] {
            loader.map_max_entries(map, connections.saturating_mul(2));
        }
        let mut ebpf = loader.load(OBJECT)?;
        let places = words(&ebpf, "places", connections as usize * PLACE_WORDS)?;
        let state = words(&ebpf, "state", STATE_WORDS)?;
        let hops = words(&ebpf, "next_hops", MOST_HOPS * Hop::WORDS)?;
        let owned = |map: &'static str| -> Result<OwnedFd, OffloadError> {
            match ebpf.map(map) {
                Some(Map::HashMap(data)) => data.fd().as_fd().try_clone_to_owned(),
                _ => Err(io::ErrorKind::NotFound.into()),
            }
            .map_err(|error| failed(map)(MapError::IoError(error)))
        };
        let flows = KernelMap { v4: owned("flows_v4")?, v6: owned("flows_v6")?, complaint: None };
        let devices = DevMap::try_from(take(&mut ebpf, "devices")?).map_err(failed("devices"))?;
        let numbers = BpfHashMap::try_from(take(&mut ebpf, "numbers")?).map_err(failed("numbers"))?;
        let steering = ProgramArray::try_from(take(&mut ebpf, "steering")?).map_err(failed("steering"))?;
        program(&mut ebpf)?.load()?;
        let board = Arc::new(Board::on(places, state, hops));
        Ok((Offload { ebpf, board, devices, numbers, steering }, flows))
    }

    /// What it has in common with workers.
    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// Descriptor of the program, for tests that run it.
    ///
    /// # Errors
    /// Does not fail once it is loaded.
    pub fn program(&mut self) -> Result<RawFd, OffloadError> {
        Ok(program(&mut self.ebpf)?.fd()?.as_fd().as_raw_fd())
    }

    /// Lets frames be sent to the director's interface `number`, which has this
    /// index.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn send_to(&mut self, number: usize, index: u32) -> Result<(), OffloadError> {
        self.devices
            .set(number as u32, index, None, 0)
            .map_err(|error| OffloadError::Map { map: "devices", reason: crate::error_chain(&error) })
    }

    /// Lets the program carry what comes by the director's interface `number`,
    /// which has this steering program.
    ///
    /// # Errors
    /// When the kernel refuses; nothing is carried then.
    pub fn join(&mut self, number: usize, steering: &mut Steering) -> Result<(), OffloadError> {
        let interface = steering.interface().to_owned();
        let failed = |reason: String| OffloadError::Join { interface: interface.clone(), reason };
        let rest = steering.rest().map_err(|error| failed(error.to_string()))?;
        // First where packets go on, and then how they come.
        self.steering
            .set(number as u32, rest, 0)
            .and_then(|()| self.numbers.insert(steering.index(), number as u32, 0))
            .map_err(|error| failed(crate::error_chain(&error)))?;
        let fd = program(&mut self.ebpf)?.fd()?;
        steering.set_offload(Some(fd)).map_err(|error| failed(error.to_string()))
    }
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, OffloadError> {
    let program = ebpf.program_mut(NAME).expect("the object file has the program");
    Ok(<&mut Xdp>::try_from(program)?)
}

/// The maps of flows.
#[derive(Debug)]
pub struct KernelMap {
    v4: OwnedFd,
    v6: OwnedFd,
    /// What was said of last
    complaint: Option<i32>,
}

impl KernelMap {
    /// Flows that are there, for tests and to be shown.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn len(&self) -> io::Result<usize> {
        Ok(self.count(&self.v4, size_of::<KeyV4>())? + self.count(&self.v6, size_of::<KeyV6>())?)
    }

    /// Whether there are none.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Another handle to the same maps.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(KernelMap { v4: self.v4.try_clone()?, v6: self.v6.try_clone()?, complaint: None })
    }

    #[allow(unsafe_code)]
    fn count(&self, map: &OwnedFd, key: usize) -> io::Result<usize> {
        const PORTION: usize = 4096;
        let (mut keys, mut values) = (vec![0u8; PORTION * key], vec![0u8; PORTION * size_of::<Flow>()]);
        let (mut place, mut begun, mut total) = ([0u8; 64], false, 0);
        loop {
            let mut count = PORTION as u32;
            let from = if begun { place.as_mut_ptr().cast() } else { std::ptr::null_mut() };
            // SAFETY: the buffers hold `count` keys and values, and a position takes
            // four bytes; all outlive the call.
            let result = unsafe {
                libbpf_sys::bpf_map_lookup_batch(
                    map.as_raw_fd(),
                    from,
                    place.as_mut_ptr().cast(),
                    keys.as_mut_ptr().cast(),
                    values.as_mut_ptr().cast(),
                    &mut count,
                    &options(),
                )
            };
            let error = io::Error::last_os_error();
            match (result, error.raw_os_error()) {
                (0, _) => total += count as usize,
                (_, Some(libc::ENOENT)) => return Ok(total + count as usize),
                _ => return Err(error),
            }
            begun = true;
        }
    }
}

/// A whole batch of one family.
struct Batch<'a, K> {
    map: &'a OwnedFd,
    keys: Vec<K>,
    flows: Vec<Flow>,
    /// Where each is in what was asked for
    places: Vec<usize>,
}

impl<K: IntoBytes + Immutable> Batch<'_, K> {
    /// Enters all; tells of those that were refused, and why the last was.
    fn enter(&self, refused: &mut Vec<usize>) -> Option<io::Error> {
        let mut complaint = None;
        self.go(|first, count| {
            // SAFETY: `first + count` is at most what both arrays hold.
            #[allow(unsafe_code)]
            unsafe {
                libbpf_sys::bpf_map_update_batch(
                    self.map.as_raw_fd(),
                    self.keys.as_ptr().add(first).cast_mut().cast(),
                    self.flows.as_ptr().add(first).cast_mut().cast(),
                    count,
                    &options(),
                )
            }
        })
        .into_iter()
        .for_each(|(at, error)| {
            refused.extend(self.places.get(at));
            complaint = Some(error);
        });
        complaint
    }

    fn take_out(&self) {
        // Those that are not there are as good as taken out.
        self.go(|first, count| {
            // SAFETY: `first + count` is at most what the array holds.
            #[allow(unsafe_code)]
            unsafe {
                libbpf_sys::bpf_map_delete_batch(
                    self.map.as_raw_fd(),
                    self.keys.as_ptr().add(first).cast_mut().cast(),
                    count,
                    &options(),
                )
            }
        });
    }

    /// Does something with all from an index on, which says how many were done;
    /// the one at which it stopped is left out. Returns those.
    fn go(&self, act: impl Fn(usize, &mut u32) -> i32) -> Vec<(usize, io::Error)> {
        let (mut first, mut refused) = (0, Vec::new());
        while first < self.keys.len() {
            let mut count = (self.keys.len() - first) as u32;
            let asked = count;
            if act(first, &mut count) == 0 {
                break;
            }
            let error = io::Error::last_os_error();
            // Where the kernel did not come to say how many.
            let done = if count >= asked { 0 } else { count as usize };
            refused.push((first + done, error));
            first += done + 1;
        }
        refused
    }
}

fn options() -> libbpf_sys::bpf_map_batch_opts {
    libbpf_sys::bpf_map_batch_opts {
        sz: size_of::<libbpf_sys::bpf_map_batch_opts>() as libbpf_sys::size_t,
        elem_flags: 0,
        flags: 0,
    }
}

impl KernelMap {
    fn batches<'a>(
        &'a self,
        all: impl Iterator<Item = (Key, Option<Flow>)>,
    ) -> (Batch<'a, KeyV4>, Batch<'a, KeyV6>) {
        let mut v4 = Batch { map: &self.v4, keys: Vec::new(), flows: Vec::new(), places: Vec::new() };
        let mut v6 = Batch { map: &self.v6, keys: Vec::new(), flows: Vec::new(), places: Vec::new() };
        for (place, (key, flow)) in all.enumerate() {
            match key {
                Key::V4(key) => {
                    v4.keys.push(key);
                    v4.flows.extend(flow);
                    v4.places.push(place);
                }
                Key::V6(key) => {
                    v6.keys.push(key);
                    v6.flows.extend(flow);
                    v6.places.push(place);
                }
            }
        }
        (v4, v6)
    }

    /// Why flows were refused last, once for each kind of error.
    pub fn complaint(&self) -> Option<io::Error> {
        self.complaint.map(io::Error::from_raw_os_error)
    }
}

impl FlowMap for KernelMap {
    fn enter(&mut self, flows: &[Entered]) -> Vec<usize> {
        let mut refused = Vec::new();
        let (v4, v6) = self.batches(flows.iter().map(|(key, flow)| (*key, Some(*flow))));
        let complaint = [v4.enter(&mut refused), v6.enter(&mut refused)].into_iter().flatten().last();
        if let Some(complaint) = complaint.and_then(|error| error.raw_os_error()) {
            self.complaint = Some(complaint);
        }
        refused
    }

    fn take_out(&mut self, keys: &[Key]) {
        let (v4, v6) = self.batches(keys.iter().map(|key| (*key, None)));
        v4.take_out();
        v6.take_out();
    }
}
