//! What health checks do to servers: as keepalived does, they remove them or
//! set their weight, but the rules remember what is to come back.

use std::net::IpAddr;

use super::{Rules, RulesError, Server, ServerEntry, ServiceEntry, ServiceName};

/// A server of a service, whether it is in use or not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckedServer {
    /// As configured, or as edited since by `ipvsadm -e`
    pub server: Server,
    /// Taken out by [`Rules::suspend_server`]
    pub suspended: bool,
    /// The weight that [`Rules::hold_weight`] set in place of its own
    pub held: Option<u32>,
}

impl Rules {
    /// Removes a server as `ipvsadm -d` does, but keeps what it was, so that
    /// [`Rules::resume_server`] brings it back. Meanwhile `ipvsadm -e` changes
    /// what comes back, `-d` has nothing come back, and `-a` adds it at once.
    ///
    /// # Errors
    /// [`RulesError::ServiceNotDefined`], [`RulesError::NoSuchServer`] where it
    /// is not in use.
    pub fn suspend_server(
        &mut self,
        service: &ServiceName,
        address: IpAddr,
        port: u16,
    ) -> Result<(), RulesError> {
        let index = self.find(service).ok_or(RulesError::ServiceNotDefined)?;
        let owner = &self.services[index];
        let position = owner.server(address, port).ok_or(RulesError::NoSuchServer)?;
        let server = owner.servers[position].own();
        self.delete_server(service, address, port)?;
        self.services[index].suspended.push(server);
        Ok(())
    }

    /// Adds a server that [`Rules::suspend_server`] took out, with its own
    /// weight. It is then the newest, as after `ipvsadm -a`.
    ///
    /// # Errors
    /// [`RulesError::ServiceNotDefined`], [`RulesError::NoSuchServer`] where
    /// none was taken out, and those of [`Rules::add_server`] where the service
    /// was edited meanwhile so that the server does not go with it.
    pub fn resume_server(
        &mut self,
        service: &ServiceName,
        address: IpAddr,
        port: u16,
    ) -> Result<(), RulesError> {
        let index = self.find(service).ok_or(RulesError::ServiceNotDefined)?;
        let entry = &self.services[index];
        let server = entry.suspended(address, port).ok_or(RulesError::NoSuchServer)?;
        self.add_server(service, entry.suspended[server].clone())
    }

    /// Sets the weight of a server in place of its own, or its own again.
    /// Meanwhile `ipvsadm -e` changes the one that comes back.
    ///
    /// # Errors
    /// [`RulesError::ServiceNotDefined`], [`RulesError::NoSuchServer`] where it
    /// is not in use, [`RulesError::OutOfRange`].
    pub fn hold_weight(
        &mut self,
        service: &ServiceName,
        address: IpAddr,
        port: u16,
        weight: Option<u32>,
    ) -> Result<(), RulesError> {
        let index = self.find(service).ok_or(RulesError::ServiceNotDefined)?;
        let position = self.services[index].server(address, port).ok_or(RulesError::NoSuchServer)?;
        let entry = &mut self.services[index].servers[position];
        let own = entry.own().weight;
        let server = Server { weight: weight.unwrap_or(own), ..entry.server.clone() };
        entry.own_weight = None;
        self.edit_server(service, server)?;
        self.services[index].servers[position].own_weight = weight.map(|_| own);
        Ok(())
    }

    /// Adds the server that clients get while the others have lost their
    /// quorum.
    ///
    /// # Errors
    /// Those of [`Rules::add_server`].
    pub fn add_sorry_server(&mut self, service: &ServiceName, server: Server) -> Result<(), RulesError> {
        self.add_server(service, server)?;
        if let Some(entry) = self.find(service).and_then(|index| self.services[index].servers.last_mut()) {
            entry.sorry = true;
        }
        Ok(())
    }

    /// The sorry server of a service, if it is in use.
    pub fn sorry_server(&self, service: &ServiceName) -> Option<&Server> {
        let index = self.find(service)?;
        self.services[index].servers.iter().find(|entry| entry.sorry).map(|entry| &entry.server)
    }

    /// The servers of a service without its sorry server, those in use first;
    /// `None` where there is no such service. This is what to save as its
    /// configuration.
    pub fn checked_servers(&self, service: &ServiceName) -> Option<Vec<CheckedServer>> {
        let entry = &self.services[self.find(service)?];
        let in_use = entry.servers.iter().filter(|entry| !entry.sorry).map(|entry| CheckedServer {
            server: entry.own(),
            suspended: false,
            held: entry.own_weight.map(|_| entry.server.weight),
        });
        let suspended = entry.suspended.iter().map(|server| CheckedServer {
            server: server.clone(),
            suspended: true,
            held: None,
        });
        Some(in_use.chain(suspended).collect())
    }

    pub(super) fn edit_suspended(&mut self, service: usize, server: Server) -> Result<(), RulesError> {
        let name = self.services[service].name;
        self.check_server(&name, &server)?;
        let entry = &mut self.services[service];
        let position = entry.suspended(server.address, server.port).ok_or(RulesError::NoSuchServer)?;
        entry.suspended[position] = server;
        Ok(())
    }
}

impl ServiceEntry {
    /// Its servers as configured, but the sorry server: first those in use.
    pub(super) fn own_servers(&self) -> Vec<Server> {
        let in_use = self.servers.iter().filter(|entry| !entry.sorry).map(ServerEntry::own);
        in_use.chain(self.suspended.iter().cloned()).collect()
    }

    fn suspended(&self, address: IpAddr, port: u16) -> Option<usize> {
        self.suspended.iter().position(|server| (server.address, server.port) == (address, port))
    }

    /// Whether it was there.
    pub(super) fn forget_suspended(&mut self, address: IpAddr, port: u16) -> bool {
        let position = self.suspended(address, port);
        position.map(|position| self.suspended.remove(position)).is_some()
    }
}

impl ServerEntry {
    /// The server with the weight that is its own.
    pub(super) fn own(&self) -> Server {
        Server { weight: self.own_weight.unwrap_or(self.server.weight), ..self.server.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Method, Protocol, ServiceSettings};
    use super::*;

    const PORT: u16 = 80;

    fn rules() -> (Rules, ServiceName, IpAddr) {
        let service = ServiceName::Address {
            protocol: Protocol::Tcp,
            address: "192.0.2.10".parse().unwrap(),
            port: PORT,
        };
        let mut rules = Rules::new(1);
        rules.add_service(service, ServiceSettings::plain("rr", service.family())).unwrap();
        let address = "10.0.2.1".parse().unwrap();
        rules.add_server(&service, server(address, 5)).unwrap();
        (rules, service, address)
    }

    fn server(address: IpAddr, weight: u32) -> Server {
        Server::plain(address, PORT, Method::Nat, weight)
    }

    /// Weights as `ipvsadm -Ln` shows them.
    fn weights(rules: &Rules, service: &ServiceName) -> Vec<u32> {
        rules.list(Some(service)).unwrap()[0].servers.iter().map(|s| s.server.weight).collect()
    }

    #[test]
    fn a_suspended_server_comes_back_as_it_was_edited() {
        let (mut rules, service, address) = rules();
        rules.suspend_server(&service, address, PORT).unwrap();
        assert!(weights(&rules, &service).is_empty());
        rules.edit_server(&service, server(address, 7)).unwrap();
        assert!(weights(&rules, &service).is_empty());
        rules.resume_server(&service, address, PORT).unwrap();
        assert_eq!(weights(&rules, &service), [7]);
        assert_eq!(rules.resume_server(&service, address, PORT), Err(RulesError::NoSuchServer));
    }

    #[test]
    fn a_suspended_server_that_is_deleted_stays_away() {
        let (mut rules, service, address) = rules();
        rules.suspend_server(&service, address, PORT).unwrap();
        rules.delete_server(&service, address, PORT).unwrap();
        assert_eq!(rules.resume_server(&service, address, PORT), Err(RulesError::NoSuchServer));
        assert_eq!(rules.delete_server(&service, address, PORT), Err(RulesError::NoSuchServer));
    }

    #[test]
    fn a_suspended_server_that_is_added_is_in_use() {
        let (mut rules, service, address) = rules();
        rules.suspend_server(&service, address, PORT).unwrap();
        rules.add_server(&service, server(address, 3)).unwrap();
        let servers = rules.checked_servers(&service).unwrap();
        assert_eq!(servers, [CheckedServer { server: server(address, 3), suspended: false, held: None }]);
    }

    #[test]
    fn an_edited_weight_waits_until_the_held_one_goes() {
        let (mut rules, service, address) = rules();
        rules.hold_weight(&service, address, PORT, Some(0)).unwrap();
        rules.edit_server(&service, server(address, 9)).unwrap();
        assert_eq!(weights(&rules, &service), [0]);
        rules.hold_weight(&service, address, PORT, Some(4)).unwrap();
        assert_eq!(weights(&rules, &service), [4]);
        rules.hold_weight(&service, address, PORT, None).unwrap();
        assert_eq!(weights(&rules, &service), [9]);
    }

    #[test]
    fn a_sorry_server_is_listed_but_not_configured() {
        let (mut rules, service, _) = rules();
        let sorry = server("10.0.2.9".parse().unwrap(), 1);
        rules.add_sorry_server(&service, sorry.clone()).unwrap();
        assert_eq!(weights(&rules, &service), [1, 5]);
        assert_eq!(rules.sorry_server(&service), Some(&sorry));
        assert_eq!(rules.checked_servers(&service).unwrap().len(), 1);
    }
}
