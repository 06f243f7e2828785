//! The bytes and numbers of a control connection.

use sluice_dataplane::neigh::Egress;
use sluice_dataplane::service::Method;
use sluice_dataplane::stats::DropReason;

use super::talk::{SERVER, Segment, Talk, VIP};
use crate::director::packets::{ACK, FIN};
use crate::director::{Director, OUTSIDE, Outcome, Routes, inside};

/// Longer with the LIP's address.
const PORT: &[u8] = b"PORT 9,9,9,9,9,9\r\n";

/// By FULLNAT from the address of [`PORT`].
fn open() -> Talk {
    Talk::open_in(Director::new(), ("9.9.9.9:40000", VIP, SERVER), Method::FullNat)
}

#[test]
fn what_is_sent_again_is_the_same() {
    let mut talk = open();
    let command = talk.client.segment(PORT);
    let first = Segment::only(&talk.client_sends(&command), 1);
    let again = Segment::only(&talk.client_sends(&command), 1);
    assert_eq!(again, first);
    assert_eq!(talk.data().len(), 1, "it is one command");
    // With more behind it, in one segment.
    let more = talk.client.segment(&[PORT, b"LIST\r\n"].concat());
    let seen = Segment::only(&talk.client_sends(&more), 1);
    assert_eq!((seen.sequence, seen.payload), (first.sequence, [&first.payload[..], b"LIST\r\n"].concat()));
    // Acknowledged in part by the server, by all it means to the client.
    talk.server.expected = talk.server.expected.wrapping_add(first.payload.len() as u32);
    let acknowledgment = Segment::only(&talk.server_sends(&talk.server.clone().segment(b"")), 0);
    assert_eq!(acknowledgment.acknowledgment, talk.client.next.wrapping_add(PORT.len() as u32));
    // Once it is, what is sent again does not matter, and what follows fits.
    let mut rest = talk.client.segment(b"LIST\r\n");
    rest.sequence = talk.client.next.wrapping_add(PORT.len() as u32);
    let seen = Segment::only(&talk.client_sends(&rest), 1);
    assert_eq!((seen.sequence, seen.text()), (talk.server.expected, "LIST\r\n"));
}

/// Duplicate SACK and SACK blocks are in the sender's numbers.
#[test]
fn blocks_that_were_received() {
    let mut talk = open();
    let said = talk.client_says(std::str::from_utf8(PORT).unwrap());
    let shift = said.len() as u32 - PORT.len() as u32;
    assert_ne!(shift, 0);
    let acknowledgment = |left: u32, right: u32, talk: &Talk| {
        let mut segment = talk.server.segment(b"");
        segment.options = [&[1, 1, 5, 10][..], &left.to_be_bytes(), &right.to_be_bytes()].concat();
        segment
    };
    let next = talk.server.expected;
    let segment = acknowledgment(next.wrapping_add(100), next.wrapping_add(200), &talk);
    let seen = Segment::only(&talk.server_sends(&segment), 0);
    let numbers = [100u32, 200].map(|n| talk.client.next.wrapping_add(n).to_be_bytes());
    assert_eq!(seen.options, [&[1, 1, 5, 10][..], &numbers[0], &numbers[1]].concat());
    // One that means nothing to the client is blanked.
    let segment = acknowledgment(next, next, &talk);
    assert_eq!(Segment::only(&talk.server_sends(&segment), 0).options, [1; 12]);
}

#[test]
fn what_follows_a_missing_segment_waits() {
    let mut talk = open();
    let mut second = talk.client.segment(b"LIST\r\n");
    second.sequence = second.sequence.wrapping_add(PORT.len() as u32);
    for flags in [ACK, FIN | ACK] {
        let early = Segment { flags, ..second.clone() };
        assert_eq!(talk.client_sends(&early), Outcome::dropped(DropReason::FtpControl));
    }
    // What has nothing to say passes.
    Segment::only(&talk.client_sends(&Segment { payload: Vec::new(), ..second }), 1);
    talk.client_says(std::str::from_utf8(PORT).unwrap());
    talk.client_says("LIST\r\n");
}

/// Whoever knows the addresses, but not the numbers, changes nothing.
#[test]
fn guessed_acknowledgments_change_nothing() {
    let mut talk = open();
    let command = talk.client.segment(PORT);
    let sent = Segment::only(&talk.client_sends(&command), 1);
    for n in 1..16u32 {
        for (mut segment, own) in [(talk.client.segment(b""), true), (talk.server.segment(b""), false)] {
            // Neither is known, or one of them.
            segment.acknowledgment = segment.acknowledgment.wrapping_add(n << 27);
            let half = segment.clone();
            segment.sequence = segment.sequence.wrapping_add(n << 27);
            let mut other = segment.clone();
            other.acknowledgment = half.acknowledgment.wrapping_sub(n << 27).wrapping_add(100);
            for segment in [&segment, &half, &other] {
                if own {
                    talk.client_sends(segment)
                } else {
                    talk.server_sends(segment)
                };
            }
        }
    }
    assert_eq!(Segment::only(&talk.client_sends(&command), 1), sent, "the change is still known");
    talk.client_says(std::str::from_utf8(PORT).unwrap());
    talk.server_says("200 ok\r\n");
    assert!(talk.client_says(std::str::from_utf8(PORT).unwrap()).starts_with("PORT 10,0,2,200,"));
}

/// As IPVS: a command in parts is not changed, a `PASV` understood.
#[test]
fn commands_in_parts() {
    let mut talk = open();
    for part in ["PORT 9,9,9", ",9,9,9\r\n"] {
        assert_eq!(talk.client_says(part), part);
    }
    assert_eq!(talk.data(), []);
    for byte in "PASV\r\n".chars() {
        talk.client_says(&byte.to_string());
    }
    for part in ["227 Entering Passive Mode (10,0,2,", "1,195,80).\r\n"] {
        assert_eq!(talk.server_says(part), part);
    }
    assert_eq!(talk.data(), []);
    talk.server_says("227 Entering Passive Mode (10,0,2,1,195,80).\r\n");
    assert_eq!(talk.data().len(), 1);
}

#[test]
fn several_commands_in_one_segment() {
    let mut talk = open();
    let said =
        talk.client_says("TYPE I\r\nPORT 9,9,9,9,9,9\r\nRETR a\r\nPASV\r\nPORT 9,9,9,9,9,10\nQUIT\r\n");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!((lines[0], lines[2], lines[3], lines[5]), ("TYPE I", "RETR a", "PASV", "QUIT"));
    assert!(lines[1].starts_with("PORT 10,0,2,200,") && lines[4].starts_with("PORT 10,0,2,200,"), "{said}");
    assert_eq!(talk.data().len(), 2);
    talk.client_says("NOOP\r\n");
    talk.server_says("200 ok\r\n");
}

#[test]
fn changes_that_nobody_acknowledges_are_bounded() {
    let mut talk = open();
    let mut many = talk.client.segment(&PORT.repeat(5));
    let seen = Segment::only(&talk.client_sends(&many), 1);
    assert_eq!(seen.text().lines().count(), 4, "the last has to wait");
    talk.server.take(&seen, talk.server.next);
    many.sequence = many.sequence.wrapping_add(4 * PORT.len() as u32);
    many.payload = PORT.to_vec();
    assert_eq!(talk.client_sends(&many), Outcome::dropped(DropReason::FtpControl));
    let acknowledgment = Segment::only(&talk.server_sends(&talk.server.clone().segment(b"")), 0);
    assert_eq!(acknowledgment.acknowledgment, many.sequence);
    let seen = Segment::only(&talk.client_sends(&many), 1);
    talk.server.take(&seen, talk.server.next);
}

/// After a TLS handshake there is nothing to be read, and so nothing to wait
/// for.
#[test]
fn encrypted_connections_pass() {
    let mut talk = open();
    talk.client_says("AUTH TLS\r\n");
    talk.server_says("234 Proceed with negotiation.\r\n");
    let port = std::str::from_utf8(PORT).unwrap();
    assert_eq!(talk.client_says(port), port);
    let mut early = talk.client.segment(b"\x17\x03\x03");
    early.sequence = early.sequence.wrapping_add(100);
    assert_eq!(Segment::only(&talk.client_sends(&early), 1).payload, early.payload);
    // Nobody asked here.
    let mut talk = open();
    talk.server_says("234 Proceed with negotiation.\r\n");
    assert_ne!(talk.client_says(port), port);
}

/// A segment that outgrows the link loses its end, which its sender sends again.
#[test]
fn what_outgrows_the_link_is_cut() {
    let mut talk = open();
    let narrow = Egress { mtu: 600, ..inside() };
    talk.director.publish_hops(Routes::over(2, Egress::new(0, OUTSIDE), narrow).all_known());
    // The local port has five digits or is as long as the client's.
    let mut text = PORT.to_vec();
    text.resize(600 - 40, b'x');
    let full = talk.client.segment(&text);
    let seen = Segment::only(&talk.client_sends(&full), 1);
    assert_eq!(seen.payload.len(), 560);
    let grown = seen.text().find('x').unwrap() - PORT.len();
    assert!(grown > 0, "{seen:?}");
    talk.server.take(&seen, talk.server.next);
    let acknowledgment = Segment::only(&talk.server_sends(&talk.server.clone().segment(b"")), 0);
    let reached = 560 - grown as u32;
    assert_eq!(acknowledgment.acknowledgment, talk.client.next.wrapping_add(reached));
    let mut rest = talk.client.segment(&text[reached as usize..]);
    rest.sequence = acknowledgment.acknowledgment;
    let seen = Segment::only(&talk.client_sends(&rest), 1);
    talk.server.take(&seen, talk.server.next);
    assert_eq!(seen.payload, vec![b'x'; grown]);
}

#[test]
fn a_fragment_of_a_followed_connection_is_dropped() {
    let mut talk = open();
    talk.client_says(std::str::from_utf8(PORT).unwrap());
    let mut frame = talk.client.segment(b"LIST").frame(true);
    // More fragments follow.
    frame[20] = 0x20;
    frame[24..26].fill(0);
    let sum = !sluice_dataplane::wire::checksum::sum(0, &frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(talk.director.arrive(0, &frame), Outcome::dropped(DropReason::FtpControl));
}

/// Who has seen no handshake takes the numbers from the first segment.
#[test]
fn a_connection_that_was_open_before() {
    let mut director = Director::new();
    director.tunables.sloppy_tcp = true;
    let service = director.add_service(sluice_dataplane::service::Protocol::Tcp, VIP);
    director.add_server(service, SERVER, Method::FullNat, 1);
    director.publish();
    let mut command = Segment::bare("9.9.9.9:40000", VIP, ACK);
    command.payload = PORT.to_vec();
    let seen = Segment::only(&director.arrive(0, &command.frame(true)), 1);
    assert!(seen.text().starts_with("PORT 10,0,2,200,"), "{seen:?}");
}
