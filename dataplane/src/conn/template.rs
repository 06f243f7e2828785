//! Persistence templates: which server a client's connections go to.
//!
//! A template is what IPVS calls a connection of client port 0
//! (`IP_VS_CONN_F_TEMPLATE`): made with a client's first connection to a
//! persistent service, looked up by all later ones, and kept for as long as it
//! has connections ("children"). It lives for its timeout from the last
//! connection that was made by it, whatever packets pass in between. One that
//! runs out while it has children goes on for a minute, and from then on by
//! the minute (`ip_vs_conn_expire`).
//!
//! A template of the persistence engine `sip` is of one call: it is found by the
//! Call-ID as well as by its key.

use super::calls::Calls;
use super::chains::Chains;
use super::timer::{Wheel, ticks};
use super::{Seed, Tuple};
use crate::service::{Method, Protocol, ServerId};
use crate::wire::Address;

/// Number of a template.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TemplateId(u32);

impl TemplateId {
    /// The number, as [`Templates::at`] takes it.
    #[inline]
    pub fn number(self) -> u32 {
        self.0
    }
}

/// No template: the connection is not of a persistent service.
pub const NO_TEMPLATE: TemplateId = TemplateId(u32::MAX);

/// Seconds that a template with connections gets when its time is over.
const ANOTHER_MINUTE: u32 = 60;

/// The port that a template moves to when its server does not take new
/// connections any more (`ip_vs_check_template`).
const NOWHERE: u16 = 65535;

/// What a template is found by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TemplateKey {
    /// Protocol of the service; `None` for a firewall mark, which stands for
    /// all (IPVS has `IPPROTO_IP`)
    pub protocol: Option<Protocol>,
    /// The client's network
    pub client: Address,
    /// The VIP, or a mark in the form of an address
    pub service: Address,
    /// Port of the service; 0 for all and for a mark
    pub port: u16,
}

impl TemplateKey {
    /// A hash that nobody can aim at without knowing `seed`.
    #[inline]
    pub fn hash(&self, seed: Seed) -> u64 {
        let tuple = Tuple {
            source: self.client,
            destination: self.service,
            // A template of all protocols is told apart by the source port.
            source_port: u16::from(self.protocol.is_none()),
            destination_port: self.port,
            protocol: self.protocol.unwrap_or(Protocol::Tcp),
        };
        tuple.hash(seed)
    }
}

/// What is kept of a template.
#[derive(Clone, Copy, Debug)]
pub struct Template {
    /// What it is, or was, found by
    pub key: TemplateKey,
    /// The real server
    pub server_id: ServerId,
    /// Address of the real server, and its port or 0, for listings
    pub server: (Address, u16),
    /// How packets reach the server
    pub method: Method,
    /// Seconds that it lives from the last connection on
    pub timeout: u32,
    /// Connections that were made by it and are still there
    pub children: u32,
    /// Whether one of them was established (`IP_VS_CTPL_S_ASSURED`)
    pub assured: bool,
}

impl Template {
    /// The name of its state in listings.
    pub fn state(&self) -> &'static str {
        if self.assured { "ASSURED" } else { "NONE" }
    }

    /// Whether connections are made by it, and it was not put away.
    pub fn is_found(&self) -> bool {
        (self.key.port, self.server.1) != (NOWHERE, NOWHERE)
    }
}

/// No room for another template.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

/// The templates of one worker, as many as it may have connections.
pub struct Templates {
    templates: Vec<Option<Template>>,
    free: Vec<u32>,
    capacity: usize,
    /// Those that are found
    index: Chains,
    calls: Calls,
    wheel: Wheel,
    seed: Seed,
}

impl Templates {
    /// Room for `capacity` templates, from tick `now` on.
    pub fn new(capacity: usize, seed: Seed, now: u32) -> Self {
        Templates {
            templates: Vec::with_capacity(capacity),
            free: Vec::with_capacity(capacity),
            capacity,
            index: Chains::new(capacity),
            calls: Calls::new(capacity),
            wheel: Wheel::new(capacity, now),
            seed,
        }
    }

    /// Templates that there are.
    pub fn len(&self) -> usize {
        self.templates.len() - self.free.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One more than the highest number in use so far.
    pub fn high_water(&self) -> u32 {
        self.templates.len() as u32
    }

    /// The template with a number, and the tick at which it is over.
    pub fn at(&self, number: u32) -> Option<(TemplateId, &Template, u32)> {
        let template = self.get(TemplateId(number))?;
        Some((TemplateId(number), template, self.wheel.deadline(number).unwrap_or(0)))
    }

    /// The template that a client's connections go by.
    pub fn find(&self, key: &TemplateKey) -> Option<TemplateId> {
        let is_of_key = |id| self.get(TemplateId(id)).is_some_and(|template| template.key == *key);
        let matches = |id| is_of_key(id) && self.calls.get(id).is_none();
        self.index.find(key.hash(self.seed), matches).map(TemplateId)
    }

    /// The template that one call goes by.
    pub fn find_call(&self, key: &TemplateKey, call: &[u8]) -> Option<TemplateId> {
        let hash = Calls::hash(self.seed, key.hash(self.seed), call);
        let is_of_key = |id| self.get(TemplateId(id)).is_some_and(|template| template.key == *key);
        let matches = |id| is_of_key(id) && self.calls.get(id) == Some(call);
        self.index.find(hash, matches).map(TemplateId)
    }

    /// The call that a template is of.
    pub fn call(&self, id: TemplateId) -> Option<&[u8]> {
        self.calls.get(id.0)
    }

    /// The template with a number.
    pub fn get(&self, id: TemplateId) -> Option<&Template> {
        self.templates.get(id.0 as usize)?.as_ref()
    }

    /// Enters a template whose key is not there yet.
    ///
    /// # Errors
    /// When there is no room.
    pub fn insert(&mut self, template: Template, now: u32) -> Result<TemplateId, Full> {
        let id = self.enter(template, now)?;
        self.index.insert(template.key.hash(self.seed), id.0);
        Ok(id)
    }

    /// Enters a template of a call whose key is not there yet with that call.
    ///
    /// # Errors
    /// When there is no room.
    pub fn insert_call(&mut self, template: Template, call: &[u8], now: u32) -> Result<TemplateId, Full> {
        let id = self.enter(template, now)?;
        if !self.calls.insert(id.0, call) {
            self.remove(id);
            return Err(Full);
        }
        self.index.insert(self.hash(id.0, &template.key), id.0);
        Ok(id)
    }

    /// What a template is found by.
    fn hash(&self, number: u32, key: &TemplateKey) -> u64 {
        let hash = key.hash(self.seed);
        self.calls.get(number).map_or(hash, |call| Calls::hash(self.seed, hash, call))
    }

    /// Gives memory that is not used any more back to the kernel, by a bounded
    /// portion: for when there is nothing else to do.
    pub fn tidy(&mut self) {
        self.calls.tidy();
    }

    fn enter(&mut self, template: Template, now: u32) -> Result<TemplateId, Full> {
        let id = match self.free.pop() {
            Some(id) => id,
            None if self.templates.len() < self.capacity => {
                self.templates.push(None);
                (self.templates.len() - 1) as u32
            }
            None => return Err(Full),
        };
        self.templates[id as usize] = Some(template);
        self.wheel.schedule(id, after(now, template.timeout));
        Ok(TemplateId(id))
    }

    /// Counts a connection that was made by a template, whose time begins
    /// anew.
    pub fn adopt(&mut self, id: TemplateId, now: u32) {
        if let Some(template) = self.templates.get_mut(id.0 as usize).and_then(Option::as_mut) {
            template.children += 1;
            let timeout = template.timeout;
            self.wheel.schedule(id.0, after(now, timeout));
        }
    }

    /// Counts a connection that was made by a template elsewhere; its time goes
    /// on as it is.
    pub fn join(&mut self, id: TemplateId) {
        if let Some(template) = self.templates.get_mut(id.0 as usize).and_then(Option::as_mut) {
            template.children += 1;
        }
    }

    /// Takes note that a connection of the template is gone.
    pub fn let_go(&mut self, id: TemplateId) {
        if let Some(template) = self.templates.get_mut(id.0 as usize).and_then(Option::as_mut) {
            template.children = template.children.saturating_sub(1);
        }
    }

    /// Takes note that a connection of the template was established.
    pub fn assure(&mut self, id: TemplateId) {
        if let Some(template) = self.templates.get_mut(id.0 as usize).and_then(Option::as_mut) {
            template.assured = true;
        }
    }

    /// Lets a template be found no more, since its server does not take new
    /// connections. It stays in listings, under another port, until its time
    /// is over.
    pub fn put_away(&mut self, id: TemplateId) {
        let Some(template) = self.templates.get_mut(id.0 as usize).and_then(Option::as_mut) else { return };
        let key = template.key;
        template.key.port = NOWHERE;
        template.server.1 = NOWHERE;
        self.index.remove(self.hash(id.0, &key), id.0);
    }

    /// Removes a template, whatever it has.
    pub fn remove(&mut self, id: TemplateId) -> Option<Template> {
        let template = *self.get(id)?;
        self.wheel.cancel(id.0);
        self.index.remove(self.hash(id.0, &template.key), id.0);
        self.calls.remove(id.0);
        self.templates[id.0 as usize] = None;
        self.free.push(id.0);
        Some(template)
    }

    /// Brings a template up to date that another director told of: it is over
    /// in so many seconds.
    pub fn renew(&mut self, id: TemplateId, timeout: u32, assured: bool, expires: u32, now: u32) {
        if let Some(template) = self.templates.get_mut(id.0 as usize).and_then(Option::as_mut) {
            template.timeout = timeout;
            template.assured |= assured;
            self.prolong(id, expires, now);
        }
    }

    /// Lets a template be over in so many seconds.
    pub fn prolong(&mut self, id: TemplateId, expires: u32, now: u32) {
        self.wheel.schedule(id.0, after(now, expires));
    }

    /// The next template whose time is over, to be removed or prolonged. As in
    /// [`Wheel::pop`], each that is looked at takes one off `budget`.
    pub fn pop_expired(&mut self, now: u32, budget: &mut usize) -> Option<TemplateId> {
        while let Some(id) = self.wheel.pop(now, budget) {
            let Some(template) = self.templates.get_mut(id as usize).and_then(Option::as_mut) else {
                continue;
            };
            if template.children == 0 {
                return Some(TemplateId(id));
            }
            template.timeout = ANOTHER_MINUTE;
            self.wheel.schedule(id, after(now, ANOTHER_MINUTE));
        }
        None
    }
}

/// The tick at which so many seconds are over, the present tick having begun.
fn after(now: u32, seconds: u32) -> u32 {
    now.saturating_add(ticks(seconds)).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(client: u8) -> Template {
        Template {
            key: TemplateKey {
                protocol: Some(Protocol::Tcp),
                client: Address::from_v4([198, 51, 100, client]),
                service: Address::from_v4([192, 0, 2, 10]),
                port: 80,
            },
            server_id: ServerId(0),
            server: (Address::from_v4([10, 0, 2, 1]), 80),
            method: Method::Nat,
            timeout: 30,
            children: 0,
            assured: false,
        }
    }

    fn templates(capacity: usize) -> Templates {
        Templates::new(capacity, Seed::new([3; 16]), 0)
    }

    fn expired(templates: &mut Templates, now: u32) -> usize {
        let mut budget = usize::MAX;
        std::iter::from_fn(|| templates.pop_expired(now, &mut budget).and_then(|id| templates.remove(id)))
            .count()
    }

    #[test]
    fn room_is_limited_and_comes_back() {
        let mut all = templates(2);
        let first = all.insert(template(1), 0).unwrap();
        all.insert(template(2), 0).unwrap();
        assert_eq!(all.insert(template(3), 0), Err(Full));
        assert_eq!(all.find(&template(1).key), Some(first));
        assert_eq!(expired(&mut all, ticks(30) + 1), 2);
        assert!(all.is_empty());
        assert_eq!(all.find(&template(1).key), None);
        all.insert(template(3), 1000).unwrap();
        assert_eq!(all.high_water(), 2);
    }

    #[test]
    fn keys_differ_by_each_part() {
        let mut all = templates(10);
        let key = template(1).key;
        let keys = [
            key,
            TemplateKey { protocol: Some(Protocol::Udp), ..key },
            TemplateKey { protocol: None, ..key },
            TemplateKey { client: Address::from_v4([198, 51, 100, 2]), ..key },
            TemplateKey { service: Address::from_v4([0, 0, 0, 3]), ..key },
            TemplateKey { port: 0, ..key },
        ];
        let ids = keys.map(|key| all.insert(Template { key, ..template(1) }, 0).unwrap());
        assert_eq!(keys.map(|key| all.find(&key)), ids.map(Some));
    }

    #[test]
    fn one_that_was_put_away_makes_room_for_another_of_its_key() {
        let mut all = templates(10);
        let first = all.insert(template(1), 0).unwrap();
        all.adopt(first, 0);
        all.put_away(first);
        assert_eq!(all.find(&template(1).key), None);
        assert_eq!(all.get(first).map(|t| (t.key.port, t.server.1)), Some((65535, 65535)));
        let second = all.insert(template(1), 0).unwrap();
        assert_eq!(all.find(&template(1).key), Some(second));
        all.let_go(first);
        assert_eq!(expired(&mut all, ticks(30) + 1), 2);
    }
    #[test]
    fn calls_of_one_key_have_a_template_each() {
        let mut all = templates(10);
        let key = template(1).key;
        let plain = all.insert(template(1), 0).unwrap();
        let calls: Vec<Vec<u8>> = (0..5).map(|n| format!("{n}@host").into_bytes()).collect();
        let ids: Vec<_> = calls.iter().map(|call| all.insert_call(template(1), call, 0).unwrap()).collect();
        for (call, id) in calls.iter().zip(&ids) {
            assert_eq!((all.find_call(&key, call), all.call(*id)), (Some(*id), Some(call.as_slice())));
            assert_eq!(all.find_call(&template(2).key, call), None);
        }
        assert_eq!((all.find(&key), all.call(plain)), (Some(plain), None));
        assert_eq!(all.find_call(&key, b"5@host"), None);

        all.put_away(ids[0]);
        assert_eq!((all.find_call(&key, &calls[0]), all.call(ids[0])), (None, Some(&b"0@host"[..])));
        let again = all.insert_call(template(1), &calls[0], 0).unwrap();
        assert_eq!(all.find_call(&key, &calls[0]), Some(again));
        all.remove(ids[1]);
        assert_eq!((all.find_call(&key, &calls[1]), all.call(ids[1])), (None, None));

        assert_eq!(expired(&mut all, ticks(30) + 1), 6);
        assert!(calls.iter().all(|call| all.find_call(&key, call).is_none()));
        let reused = all.insert(template(1), 1000).unwrap();
        assert_eq!((all.find(&key), all.call(reused)), (Some(reused), None));
    }
}
