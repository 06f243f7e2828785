//! Real servers and local addresses of a service.

use std::net::IpAddr;
use std::sync::Arc;

use sluice_dataplane::service::ServiceId;
use sluice_dataplane::stats::ServerCounters;

use super::{
    Family, MAX_WEIGHT, Measured, Method, Rules, RulesError, Server, ServerEntry, ServiceEntry, ServiceName,
    unsupported,
};

impl Rules {
    /// `ipvsadm -a`. The port of a DR or TUN server becomes the service's.
    ///
    /// # Errors
    /// [`RulesError::ServiceNotDefined`], [`RulesError::OutOfRange`],
    /// [`RulesError::ServerExists`], [`RulesError::Invalid`],
    /// [`RulesError::Unsupported`].
    pub fn add_server(&mut self, service: &ServiceName, server: Server) -> Result<(), RulesError> {
        let index = self.find(service).ok_or(RulesError::ServiceNotDefined)?;
        let server = at_the_services_port(service, server);
        check_ranges(&server)?;
        let entry = &self.services[index];
        if entry.server(server.address, server.port).is_some() {
            return Err(RulesError::ServerExists);
        }
        self.check_server(service, &server)?;
        if !is_unicast(server.address) {
            return Err(RulesError::Invalid);
        }
        let slot = entry.slot;
        let entry = self.enlist(service, slot, server);
        let owner = &mut self.services[index];
        owner.forget_suspended(entry.server.address, entry.server.port);
        owner.servers.push(entry);
        Ok(())
    }

    /// A new entry for a server that was checked, or the one that it had before
    /// it was removed.
    pub(super) fn enlist(&mut self, service: &ServiceName, slot: ServiceId, server: Server) -> ServerEntry {
        let last_weight = server.weight;
        match self.take_removed(service, &server) {
            Some(removed) => {
                // The counters belong to the service as it was; those of a
                // new one start at zero (`__ip_vs_update_dest`).
                let measured = if removed.service_slot == slot {
                    removed.entry.measured
                } else {
                    Measured::from_zero(removed.entry.counters.traffic())
                };
                ServerEntry { server, own_weight: None, sorry: false, last_weight, measured, ..removed.entry }
            }
            None => ServerEntry {
                slot: self.server_slots.take_server(),
                server,
                own_weight: None,
                sorry: false,
                last_weight,
                edits: 0,
                counters: Arc::new(ServerCounters::new(self.workers)),
                measured: Measured::default(),
            },
        }
    }

    /// `ipvsadm -e`: replaces all but address and port.
    ///
    /// # Errors
    /// [`RulesError::ServiceNotDefined`], [`RulesError::OutOfRange`],
    /// [`RulesError::NoSuchServer`], [`RulesError::Unsupported`].
    pub fn edit_server(&mut self, service: &ServiceName, server: Server) -> Result<(), RulesError> {
        let index = self.find(service).ok_or(RulesError::ServiceNotDefined)?;
        let server = at_the_services_port(service, server);
        check_ranges(&server)?;
        let Some(position) = self.services[index].server(server.address, server.port) else {
            return self.edit_suspended(index, server);
        };
        self.check_server(service, &server)?;
        self.services[index].servers[position].edit(server);
        Ok(())
    }

    /// `ipvsadm -d`: removes the server; its connections stay until they
    /// expire, but their packets are dropped.
    ///
    /// # Errors
    /// [`RulesError::ServiceNotDefined`], [`RulesError::NoSuchServer`].
    pub fn delete_server(
        &mut self,
        service: &ServiceName,
        address: IpAddr,
        port: u16,
    ) -> Result<(), RulesError> {
        let index = self.find(service).ok_or(RulesError::ServiceNotDefined)?;
        let owner = &mut self.services[index];
        let Some(position) = owner.server(address, port) else {
            let there = owner.forget_suspended(address, port);
            return if there { Ok(()) } else { Err(RulesError::NoSuchServer) };
        };
        let entry = owner.servers.remove(position);
        let (owner, removed) = (owner.owner(), entry);
        self.put_aside(&owner, removed);
        Ok(())
    }

    /// `ipvsadm -P`: a LIP of the service's own, which takes it off the
    /// director's default ones.
    ///
    /// # Errors
    /// [`RulesError::ServiceNotDefined`], [`RulesError::LocalAddressExists`],
    /// [`RulesError::Invalid`], [`RulesError::Unsupported`].
    pub fn add_local_address(&mut self, service: &ServiceName, address: IpAddr) -> Result<(), RulesError> {
        let index = self.find(service).ok_or(RulesError::ServiceNotDefined)?;
        if self.services[index].local_addresses.contains(&address) {
            return Err(RulesError::LocalAddressExists);
        }
        self.check_local_address(address)?;
        self.services[index].local_addresses.push(address);
        Ok(())
    }

    /// `ipvsadm -Q`.
    ///
    /// # Errors
    /// [`RulesError::ServiceNotDefined`], [`RulesError::NoSuchLocalAddress`].
    pub fn delete_local_address(&mut self, service: &ServiceName, address: IpAddr) -> Result<(), RulesError> {
        let index = self.find(service).ok_or(RulesError::ServiceNotDefined)?;
        let addresses = &mut self.services[index].local_addresses;
        let position = addresses.iter().position(|a| *a == address).ok_or(RulesError::NoSuchLocalAddress)?;
        addresses.remove(position);
        Ok(())
    }

    pub(super) fn check_server(&self, service: &ServiceName, server: &Server) -> Result<(), RulesError> {
        let same_family = Family::of(server.address) == service.family();
        // IPVS crosses families by tunnels only, and has no FULLNAT.
        if !same_family && !matches!(server.method, Method::Tun | Method::FullNat) {
            return Err(RulesError::Invalid);
        }
        match self.find(service) {
            Some(index) if self.refuse_unsupported => {
                unsupported::pair(service, &self.services[index].settings, server)
            }
            _ => Ok(()),
        }
    }

    pub(super) fn check_local_address(&self, address: IpAddr) -> Result<(), RulesError> {
        if is_unicast(address) { Ok(()) } else { Err(RulesError::Invalid) }
    }
}

impl ServiceEntry {
    pub(super) fn server(&self, address: IpAddr, port: u16) -> Option<usize> {
        self.servers.iter().position(|entry| entry.is(address, port))
    }
}

impl ServerEntry {
    fn is(&self, address: IpAddr, port: u16) -> bool {
        (self.server.address, self.server.port) == (address, port)
    }

    /// Replaces all but address and port. A weight that is held stays, and the
    /// new one waits.
    pub(super) fn edit(&mut self, mut server: Server) {
        if let Some(own) = &mut self.own_weight {
            *own = std::mem::replace(&mut server.weight, self.server.weight);
        }
        if server.weight > 0 {
            self.last_weight = server.weight;
        }
        self.edits = self.edits.wrapping_add(1);
        self.server = server;
    }
}

/// ipvsadm replaces the port silently; here too, so that a server is the same
/// whichever way it was named.
fn at_the_services_port(service: &ServiceName, mut server: Server) -> Server {
    if server.method.keeps_port() && !service.is_mark() {
        server.port = service.port();
    }
    server
}

fn check_ranges(server: &Server) -> Result<(), RulesError> {
    let Server { weight, upper_threshold, lower_threshold, .. } = *server;
    let too_large = [weight, upper_threshold, lower_threshold].iter().any(|n| *n > MAX_WEIGHT);
    if too_large || lower_threshold > upper_threshold {
        return Err(RulesError::OutOfRange);
    }
    Ok(())
}

/// Whether IPVS would take it as the address of a real server
/// (`ip_vs_new_dest`, but for routes, which only the kernel knows).
fn is_unicast(address: IpAddr) -> bool {
    match address {
        // 0.0.0.0/8 and the limited broadcast are not addresses of a host.
        IpAddr::V4(v4) => v4.octets()[0] != 0 && !v4.is_multicast() && !v4.is_broadcast(),
        IpAddr::V6(v6) => {
            !(v6.is_unspecified()
                || v6.is_multicast()
                || v6.is_unicast_link_local()
                || v6.to_ipv4_mapped().is_some())
        }
    }
}
