//! SIP calls over UDP from one port of one client, with one-packet scheduling
//! and the persistence engine `sip`, through NAT.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sluice_bench::lab::site::{Method, VIP};
use sluice_bench::lab::{self, Netns, Site, SiteOptions};

const PORT: u16 = 5060;

fn bind(netns: &Netns, wait: Duration) -> Result<UdpSocket> {
    let socket = netns.enter(|| UdpSocket::bind(("0.0.0.0", PORT)))??;
    socket.set_read_timeout(Some(wait))?;
    Ok(socket)
}

fn request(method: &str, call: &str) -> Vec<u8> {
    let via = "Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK776asdhds";
    format!("{method} sip:bob@192.0.2.10 SIP/2.0\r\n{via}\r\nCall-ID: {call}\r\nCSeq: 1 {method}\r\n\r\n")
        .into()
}

/// Answers with the server's name, until nothing has come for a while.
fn answer(socket: &UdpSocket, name: usize) -> std::io::Result<()> {
    let mut message = [0; 2048];
    while let Ok((length, from)) = socket.recv_from(&mut message) {
        let headers = String::from_utf8_lossy(&message[..length]).into_owned();
        let headers = headers.split_once("\r\n").map_or("", |(_, rest)| rest);
        socket.send_to(format!("SIP/2.0 200 {name}\r\n{headers}").as_bytes(), from)?;
    }
    Ok(())
}

/// The server that answered, by the status line.
fn ask(phone: &UdpSocket, message: &[u8]) -> Result<String> {
    phone.send_to(message, SocketAddr::from((VIP, PORT)))?;
    let mut answer = [0; 2048];
    let (length, from) = phone.recv_from(&mut answer).context("no answer")?;
    ensure!(from == SocketAddr::from((VIP, PORT)), "answered from {from}");
    let text = String::from_utf8_lossy(&answer[..length]).into_owned();
    Ok(text.split("\r\n").next().unwrap_or_default().to_owned())
}

#[test]
fn a_phone_has_a_server_for_each_call() -> Result<()> {
    if !lab::may_run("a_phone_has_a_server_for_each_call") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    site.prepare_servers(Method::Nat)?;
    let director = site.start_director(&site.config())?;
    director.ipvsadm(&format!("-A -u {VIP}:{PORT} -s rr -p 60 -o --pe sip"))?;
    for number in 1..=site.servers.len() {
        director.ipvsadm(&format!("-a -u {VIP}:{PORT} -r 10.0.2.{number}:{PORT} -m"))?;
    }
    let servers = site.servers.iter().map(|server| bind(server, Duration::from_secs(3)));
    let servers = servers.collect::<Result<Vec<_>>>()?;
    let phone = bind(&site.client, Duration::from_secs(3))?;
    std::thread::scope(|scope| -> Result<()> {
        for (number, socket) in (1..).zip(&servers) {
            scope.spawn(move || answer(socket, number));
        }
        let mut chosen = BTreeMap::new();
        for method in ["INVITE", "ACK", "BYE"] {
            for call in 0..9 {
                let call = format!("{call}-a84b4c76e66710@pc33.example.com");
                let server = ask(&phone, &request(method, &call)).context(director.log())?;
                let first = chosen.entry(call).or_insert_with(|| server.clone());
                ensure!(*first == server, "{method} went to {server} after {first}");
            }
        }
        let all: BTreeSet<_> = chosen.values().collect();
        ensure!(all.len() == servers.len(), "{chosen:?}");
        Ok(())
    })?;

    let listed = director.ipvsadm("-Lnc --persistent-conn")?;
    ensure!(listed.matches(" sip ").count() == 9, "{listed}");
    ensure!(listed.contains("0-a84b4c76e66710@pc33.example.com\n"), "{listed}");

    // A server calls a client that it never heard of.
    servers[0].send_to(&request("INVITE", "from-inside"), "10.0.0.1:5060")?;
    let mut message = [0; 2048];
    let (_, from) = phone.recv_from(&mut message).context("nobody called")?;
    ensure!(from == SocketAddr::from((VIP, PORT)), "called from {from}");
    phone.send_to(&request("BYE", "from-inside"), from)?;
    servers[0].recv_from(&mut message).context("the answer went elsewhere")?;
    Ok(())
}
