//! Which worker is to have a connection that another director began.

use std::sync::Arc;

use super::{Record, Session, TemplateRecord};
use crate::conn::{Seed, Tuple};
use crate::ftp::Role;
use crate::local;
use crate::neigh::NextHops;
use crate::service::{Method, ServiceTable};
use crate::worker::{Exchange, persist};

/// Where a record goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// To one worker
    One(usize),
    /// To every worker: one of them has it
    All,
}

/// Says which worker a connection goes to: the one that has it, or else by where
/// its packets will arrive as far as that is known.
#[derive(Debug)]
pub struct Router {
    hops: Arc<NextHops>,
    exchanges: Arc<[Exchange]>,
    workers: usize,
}

/// The same for all workers and directors, as nobody's secret depends on it.
const SEED: [u8; 16] = [0x5a; 16];

impl Router {
    /// By what a snapshot says of the interfaces, to these workers.
    pub fn new(hops: Arc<NextHops>, exchanges: Arc<[Exchange]>) -> Self {
        let workers = exchanges.len();
        Router { hops, exchanges, workers }
    }

    /// Where a record goes.
    pub fn way(&self, record: &Record, services: &ServiceTable) -> Way {
        if self.workers <= 1 {
            return Way::One(0);
        }
        match record {
            Record::Session(session) => Way::One(self.worker_of(session, services)),
            Record::Template(template) => Way::One(self.keeper_of(template, services)),
            // They do not say enough to tell where it was sent.
            Record::SessionGone(_) | Record::TemplateGone(..) => Way::All,
        }
    }

    fn worker_of(&self, session: &Session, services: &ServiceTable) -> usize {
        let Session { client, .. } = session;
        // The owner of the port, so that no other worker hands it out.
        if let (Method::FullNat, Some((lip, port))) = (session.method, session.local) {
            let of_pool = matches!(session.ftp, Role::Expected | Role::Data);
            let answer = Tuple {
                source: session.server.0,
                destination: lip,
                source_port: if of_pool { 0 } else { session.server.1 },
                destination_port: port,
                protocol: client.protocol,
            };
            return local::owner_by(&self.hops, &answer, self.workers).min(self.workers - 1);
        }
        // All of a client's, so that one finds the other.
        if session.ftp != Role::None {
            return self.by_hash(&Tuple { source_port: 0, destination_port: 0, ..*client });
        }
        if session.persistent {
            let service = services.id_of(&session.service).and_then(|id| services.service(id));
            if let Some(keeper) =
                service.and_then(|service| persist::keeper_of_client(service, client, self.workers))
            {
                return keeper;
            }
        }
        // It came here before, on whatever queue its sender chose.
        let owner = self.exchanges.first().and_then(|any| any.owners.of(client));
        if let Some(owner) = owner.filter(|owner| *owner < self.workers) {
            return owner;
        }
        let by_queue = || {
            let rss = self.hops.rss(self.hops.answers_by(client.source)?)?;
            rss.queue(client).filter(|queue| *queue < self.workers)
        };
        by_queue().unwrap_or_else(|| self.by_hash(client))
    }

    fn keeper_of(&self, template: &TemplateRecord, services: &ServiceTable) -> usize {
        let service = services.id_of(&template.service).and_then(|id| services.service(id));
        let one_packet = service.is_some_and(|service| service.options.one_packet);
        persist::keeper(&template.key, template.call.as_deref().filter(|_| one_packet), self.workers)
    }

    fn by_hash(&self, tuple: &Tuple) -> usize {
        tuple.hash(Seed::new(SEED)) as usize % self.workers
    }
}
