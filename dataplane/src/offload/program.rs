//! The program in the kernel, and its maps.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;

use aya::maps::{DevMap, HashMap as BpfHashMap, Map, MapData, MapError, ProgramArray};
use aya::programs::ProgramError;
use aya::programs::xdp::Xdp;
use aya::{Ebpf, EbpfError, EbpfLoader, include_bytes_aligned};
use memmap2::MmapOptions;
use thiserror::Error;

use super::board::{Board, Room, Words};
use super::layout::{Hop, MOST_HOPS, STATE_WORDS};
use super::slot::{WORDS_V4, WORDS_V6};
use super::table::slots;
use crate::steer::Loaded;

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
        Some(Map::Array(data)) => Ok(data.fd().as_fd().as_raw_fd()),
        _ => Err(failed(map)(MapError::InvalidName { name: map.to_owned() })),
    }
}

/// A map of the kernel's as memory.
fn words(ebpf: &Ebpf, map: &'static str, count: usize) -> Result<Words, OffloadError> {
    let mapped = MmapOptions::new().len(count * 8).map_raw(descriptor(ebpf, map)?);
    mapped.map(Words::Shared).map_err(|error| failed(map)(MapError::IoError(error)))
}

impl Offload {
    /// Loads the program with tables for so many connections, whose keys are hashed
    /// with a seed that nobody can guess. All of the tables' memory is taken here.
    ///
    /// # Errors
    /// When the kernel refuses, for want of memory or of a capability.
    pub fn load(room: Room, seed: [u8; 16]) -> Result<Self, OffloadError> {
        let mut loader = EbpfLoader::new();
        let [v4, v6] = room.flows().map(slots);
        loader.map_max_entries("flows_v4", v4).map_max_entries("flows_v6", v6);
        let mut ebpf = loader.load(OBJECT)?;
        let tables = [
            words(&ebpf, "flows_v4", v4 as usize * WORDS_V4)?,
            words(&ebpf, "flows_v6", v6 as usize * WORDS_V6)?,
        ];
        let state = words(&ebpf, "state", STATE_WORDS)?;
        let hops = words(&ebpf, "next_hops", MOST_HOPS * Hop::WORDS)?;
        let devices = DevMap::try_from(take(&mut ebpf, "devices")?).map_err(failed("devices"))?;
        let numbers = BpfHashMap::try_from(take(&mut ebpf, "numbers")?).map_err(failed("numbers"))?;
        let steering = ProgramArray::try_from(take(&mut ebpf, "steering")?).map_err(failed("steering"))?;
        program(&mut ebpf)?.load()?;
        let board = Arc::new(Board::on(tables, state, hops, room, seed));
        Ok(Offload { ebpf, board, devices, numbers, steering })
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
    /// which has this steering program, or is to have it: what is not carried goes on
    /// with that from now on.
    ///
    /// # Errors
    /// When the kernel refuses; nothing is carried then.
    pub fn join(&mut self, number: usize, steering: &mut Loaded) -> Result<(), OffloadError> {
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
