//! ICMP and ICMPv6 echo (RFC 792 and RFC 4443, section 4).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use socket2::{Protocol, Type};
use tokio::net::UdpSocket;
use tokio::sync::oneshot;

use super::check::{Way, plain};

/// Type, code, checksum, identifier and sequence number.
const HEADER: usize = 8;

/// What tells our requests from those of other programs.
const SIGNATURE: [u8; 8] = *b"sluice\x01\x00";

/// Sends requests and gives each who waits its reply. One raw socket for a
/// way is enough for all servers: more would each get all replies.
pub(super) struct Pinger {
    sockets: RefCell<HashMap<(bool, Way), Rc<Shared>>>,
    next: Cell<u64>,
}

struct Shared {
    socket: UdpSocket,
    waiting: RefCell<HashMap<u64, (IpAddr, oneshot::Sender<()>)>>,
}

/// Takes a request off the list when nobody waits for it any more.
struct Waiting {
    shared: Rc<Shared>,
    token: u64,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.shared.waiting.borrow_mut().remove(&self.token);
    }
}

impl Default for Pinger {
    fn default() -> Self {
        // Two directors on a host get each other's replies too.
        let next = Cell::new(u64::from(std::process::id()) << 32);
        Pinger { sockets: RefCell::default(), next }
    }
}

impl Pinger {
    fn socket(&self, way: &Way, target: IpAddr) -> io::Result<Rc<Shared>> {
        let way = Way { address: None, port: None, ..way.clone() };
        let key = (target.is_ipv4(), way);
        if let Some(shared) = self.sockets.borrow().get(&key) {
            return Ok(Rc::clone(shared));
        }
        let protocol = if target.is_ipv4() { Protocol::ICMPV4 } else { Protocol::ICMPV6 };
        let socket = key.1.socket(target, Type::RAW, protocol)?;
        // To tokio a raw socket is as good as one of UDP.
        let shared =
            Rc::new(Shared { socket: UdpSocket::from_std(socket.into())?, waiting: RefCell::default() });
        self.sockets.borrow_mut().insert(key, Rc::clone(&shared));
        tokio::task::spawn_local(Rc::clone(&shared).receive());
        Ok(shared)
    }
}

impl Shared {
    async fn receive(self: Rc<Self>) {
        let mut bytes = [0; 256];
        loop {
            match self.socket.recv_from(&mut bytes).await {
                Ok((length, from)) => {
                    let Some(token) = token(&bytes[..length], from.is_ipv4()) else { continue };
                    let mut waiting = self.waiting.borrow_mut();
                    if waiting.get(&token).is_some_and(|(address, _)| *address == from.ip())
                        && let Some((_, waiter)) = waiting.remove(&token)
                    {
                        let _ = waiter.send(());
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "receiving ICMP");
                    tokio::task::yield_now().await;
                }
            }
        }
    }
}

/// Sends a request and waits for its reply.
pub(super) async fn check(pinger: &Pinger, way: &Way, target: IpAddr) -> Result<(), String> {
    let failed = |error: io::Error| format!("cannot send: {}", plain(&error));
    let shared = pinger.socket(way, target).map_err(failed)?;
    let token = pinger.next.get();
    pinger.next.set(token.wrapping_add(1));
    let (sender, reply) = oneshot::channel();
    shared.waiting.borrow_mut().insert(token, (target, sender));
    let waiting = Waiting { shared, token };
    let to = SocketAddr::new(target, 0);
    waiting.shared.socket.send_to(&request(token, target.is_ipv4()), to).await.map_err(failed)?;
    reply.await.map_err(|_| "no reply".to_owned())
}

fn request(token: u64, v4: bool) -> [u8; HEADER + 16] {
    let mut message = [0; HEADER + 16];
    message[0] = if v4 { 8 } else { 128 };
    message[4..8].copy_from_slice(&(token as u32).to_be_bytes());
    message[8..16].copy_from_slice(&SIGNATURE);
    message[16..].copy_from_slice(&token.to_be_bytes());
    // The kernel does it for ICMPv6, where the addresses are part of the sum.
    if v4 {
        let sum: u32 = message.chunks_exact(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let folded = (folded & 0xffff) + (folded >> 16);
        message[2..4].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    }
    message
}

/// The number of the request that this is the reply to. An IPv4 packet comes
/// with its header.
fn token(packet: &[u8], v4: bool) -> Option<u64> {
    let start = if v4 { usize::from(packet.first()? & 0x0f) * 4 } else { 0 };
    let message = packet.get(start..)?;
    let reply = if v4 { 0 } else { 129 };
    let ours = *message.first()? == reply && message.get(HEADER..HEADER + 8)? == SIGNATURE;
    let token = message.get(HEADER + 8..HEADER + 16)?.try_into().ok()?;
    ours.then(|| u64::from_be_bytes(token))
}
