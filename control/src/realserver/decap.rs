//! The decapsulator: loading it, finding it again, its maps.

use std::net::IpAddr;
use std::os::fd::AsFd;

use aya::maps::{HashMap, Map, MapData, MapInfo};
use aya::programs::{Xdp, loaded_programs};
use sluice_dataplane::wire::Address;

use super::Error;
use super::host::{Attached, Device, Host, Mode};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/decap.bpf.o"));

/// Names in `decap.bpf.c`, by which our program is known when it is found.
const PROGRAM: &str = "sluice_decap";
const VIPS: &str = "sluice_rs_vips";
const LOCAL: &str = "sluice_rs_local";

/// Keys are addresses as packets have them, IPv4 in the IPv4-mapped form.
type AddressSet = HashMap<MapData, [u8; 16], u32>;

/// The decapsulator of a device.
pub(super) struct Decapsulator {
    attached: Attached,
    vips: AddressSet,
    local: AddressSet,
}

impl Decapsulator {
    /// The one that is attached to a device, if any.
    ///
    /// # Errors
    /// When the program there is somebody else's.
    pub(super) fn find(name: &str, device: &Device) -> Result<Option<Self>, Error> {
        let Some(attached) = device.xdp else {
            return Ok(None);
        };
        let program = loaded_programs()
            .filter_map(Result::ok)
            .find(|program| program.id() == attached.id)
            .ok_or(Error::ProgramGone)?;
        let program_name = program.name_as_str().unwrap_or("?").to_owned();
        let (mut vips, mut local) = (None, None);
        if program_name == PROGRAM {
            for id in program.map_ids().map_err(Error::bpf)?.unwrap_or_default() {
                let info = MapInfo::from_id(id).map_err(Error::bpf)?;
                match info.name_as_str() {
                    Some(VIPS) => vips = Some(open(id)?),
                    Some(LOCAL) => local = Some(open(id)?),
                    _ => {}
                }
            }
        }
        match (vips, local) {
            (Some(vips), Some(local)) => Ok(Some(Decapsulator { attached, vips, local })),
            _ => {
                Err(Error::ForeignProgram { device: name.to_owned(), program: program_name, id: attached.id })
            }
        }
    }

    /// Attaches one to a device that has no program, in the driver if it can.
    /// Answers why it cannot, if so.
    pub(super) fn attach(host: &Host, name: &str) -> Result<(Self, Option<rtnetlink::Error>), Error> {
        let device = host.device(name)?;
        let mut object = aya::EbpfLoader::new().load(OBJECT).map_err(Error::bpf)?;
        let program: &mut Xdp = object
            .program_mut(PROGRAM)
            .expect("decap.bpf.c has the program")
            .try_into()
            .map_err(Error::bpf)?;
        program.load().map_err(Error::bpf)?;
        let fd = program.fd().map_err(Error::bpf)?;
        let native = host.attach(&device, fd.as_fd(), Mode::Native);
        if native.is_err() {
            host.attach(&device, fd.as_fd(), Mode::Generic)
                .map_err(|source| Error::refused(format!("attach the decapsulator to {name}"), source))?;
        }
        let found = Decapsulator::find(name, &host.device(name)?)?.ok_or(Error::ProgramGone)?;
        Ok((found, native.err()))
    }

    /// Detaches it.
    pub(super) fn detach(self, host: &Host, name: &str) -> Result<(), Error> {
        host.detach(&host.device(name)?, self.attached.mode)
            .map_err(|source| Error::refused(format!("detach the decapsulator from {name}"), source))
    }

    /// Begins to unwrap packets for a VIP.
    pub(super) fn add(&mut self, vip: IpAddr) -> Result<(), Error> {
        self.vips.insert(key(vip), 1, 0).map_err(Error::bpf)
    }

    /// Ceases to; answers whether other VIPs are left.
    pub(super) fn remove(&mut self, vip: IpAddr) -> Result<bool, Error> {
        if self.has(vip) {
            self.vips.remove(&key(vip)).map_err(Error::bpf)?;
        }
        Ok(self.vips.keys().next().is_some())
    }

    pub(super) fn has(&self, vip: IpAddr) -> bool {
        self.vips.get(&key(vip), 0).is_ok()
    }

    /// Makes `addresses` those that tunnelled packets may be sent to.
    pub(super) fn set_local(&mut self, addresses: &[IpAddr]) -> Result<(), Error> {
        let wanted: Vec<[u8; 16]> = addresses.iter().copied().map(key).collect();
        let old: Vec<[u8; 16]> = self.local.keys().filter_map(Result::ok).collect();
        for key in old.iter().filter(|key| !wanted.contains(key)) {
            self.local.remove(key).map_err(Error::bpf)?;
        }
        for key in wanted {
            self.local.insert(key, 1, 0).map_err(Error::bpf)?;
        }
        Ok(())
    }

    pub(super) fn has_local(&self, address: IpAddr) -> bool {
        self.local.get(&key(address), 0).is_ok()
    }
}

fn key(address: IpAddr) -> [u8; 16] {
    Address::from(address).bytes()
}

fn open(id: u32) -> Result<AddressSet, Error> {
    let data = MapData::from_id(id).map_err(Error::bpf)?;
    HashMap::try_from(Map::HashMap(data)).map_err(Error::bpf)
}
