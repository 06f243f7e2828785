//! Two hosts whose segments are cut, lost, repeated and delayed at will: each
//! gets what the other sent, but for the lines that are changed.

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use sluice_dataplane::service::Method;

use super::talk::{CLIENT, End, SERVER, Segment, Talk, VIP};
use crate::director::Director;
use crate::director::packets::ACK;

/// A sender and a receiver, as simple as TCP can be.
struct Host {
    end: End,
    /// All that it will send, from number `first` on
    text: Vec<u8>,
    first: u32,
    /// Bytes of it that the other acknowledged, and that were sent at all
    acknowledged: usize,
    sent: usize,
    received: Vec<u8>,
}

impl Host {
    fn new(end: End, text: Vec<u8>) -> Self {
        Host { first: end.next, end, text, acknowledged: 0, sent: 0, received: Vec::new() }
    }

    /// Some of its bytes: none beyond a window behind what is acknowledged.
    fn segment(&mut self, start: usize, length: usize) -> Segment {
        let most = self.text.len().min(self.acknowledged + 400);
        let start = (self.acknowledged + start).min(self.sent).min(most);
        let end = (start + length).min(most);
        self.sent = self.sent.max(end);
        let mut segment = self.end.segment(&self.text[start..end]);
        segment.sequence = self.first.wrapping_add(start as u32);
        segment
    }

    fn take(&mut self, segment: &Segment) {
        assert_eq!((segment.source, segment.destination), (self.end.peer, self.end.own));
        let acknowledged = segment.acknowledgment.wrapping_sub(self.first) as i32;
        assert!(acknowledged <= self.sent as i32, "{acknowledged} acknowledged of {}", self.sent);
        self.acknowledged = self.acknowledged.max(acknowledged.max(0) as usize);
        // No byte that it has may come with another value.
        let at = self.received.len() as i32 + segment.sequence.wrapping_sub(self.end.expected) as i32;
        for (n, byte) in segment.payload.iter().enumerate() {
            let place = at + n as i32;
            if place >= 0 && (place as usize) < self.received.len() {
                // What was acknowledged long since may be anything.
                continue;
            }
            if place as usize == self.received.len() {
                self.received.push(*byte);
                self.end.expected = self.end.expected.wrapping_add(1);
            }
        }
    }
}

#[derive(Clone, Debug)]
struct Step {
    from_client: bool,
    start: usize,
    length: usize,
    lost_before: bool,
    lost_after: bool,
    /// The segment that was sent before comes once more
    repeated: bool,
}

fn a_step() -> impl Strategy<Value = Step> {
    let rare = || prop::bool::weighted(0.15);
    (any::<bool>(), 0usize..60, prop_oneof![0usize..30, 20usize..300], rare(), rare(), rare()).prop_map(
        |(from_client, start, length, lost_before, lost_after, repeated)| Step {
            from_client,
            start,
            length,
            lost_before,
            lost_after,
            repeated,
        },
    )
}

fn lines(of_client: bool) -> impl Strategy<Value = Vec<String>> {
    let line = if of_client {
        prop_oneof![
            (1u8..=255, 0u8..=255).prop_map(|(high, low)| format!("PORT 198,51,100,7,{high},{low}\r\n")),
            (1024u16..).prop_map(|port| format!("EPRT |1|198.51.100.7|{port}|\r\n")),
            Just("PASV\r\n".to_owned()),
            Just("EPSV\r\n".to_owned()),
            Just("PORT 10,0,2,2,1,1\r\n".to_owned()),
            "[A-Z]{3,4} [a-z,0-9|]{0,60}\r\n",
        ]
        .boxed()
    } else {
        prop_oneof![
            (4u8..=255, 0u8..=255).prop_map(|(high, low)| format!("227 Passive (10,0,2,1,{high},{low})\r\n")),
            (1024u16..).prop_map(|port| format!("229 Passive (|1|10.0.2.1|{port}|)\r\n")),
            "[2-5][0-9]{2}[ -][a-z,0-9|()]{0,60}\r\n",
        ]
        .boxed()
    };
    prop::collection::vec(line, 0..12)
}

/// Whether a line that was sent may become what was received.
fn may_become(sent: &str, received: &str) -> bool {
    let start = |text: &str| received.starts_with(text);
    sent == received
        || (sent.starts_with("PORT 198,51,100,7,") || sent.starts_with("PORT 9,9,9,9,"))
            && start("PORT 10,0,2,200,")
        || (sent.starts_with("EPRT |1|198.51.100.7|") || sent.starts_with("EPRT |1|9.9.9.9|"))
            && start("EPRT |1|10.0.2.200|")
        || sent.starts_with("227 Passive (10,0,2,1,") && received == sent.replace("10,0,2,1,", "192,0,2,10,")
        || sent.starts_with("229 Passive (|1|10.0.2.1|") && received == sent.replace("|1|10.0.2.1|", "|||")
}

/// The same of a client whose address is shorter than the LIP's.
fn shorter(lines: &[String]) -> Vec<String> {
    let shorter = |line: &String| line.replace("198,51,100,7", "9,9,9,9").replace("198.51.100.7", "9.9.9.9");
    lines.iter().map(shorter).collect()
}

fn check((method, short): (Method, bool), of_client: &[String], of_server: &[String], steps: &[Step]) {
    let said = if short { shorter(of_client) } else { of_client.to_vec() };
    let from = if short { "9.9.9.9:40000" } else { CLIENT };
    let mut talk = Talk::open_in(Director::new(), (from, VIP, SERVER), method);
    let mut client = Host::new(talk.client.clone(), said.concat().into_bytes());
    let mut server = Host::new(talk.server.clone(), of_server.concat().into_bytes());
    let mut last: [Option<Segment>; 2] = [None, None];
    // In the end, both send all that is left, one after the other.
    let rest = (0..200).map(|n| Step {
        from_client: n % 2 == 0,
        start: 0,
        length: 300,
        lost_before: false,
        lost_after: false,
        repeated: false,
    });
    for step in steps.iter().cloned().chain(rest) {
        let (from, to) =
            if step.from_client { (&mut client, &mut server) } else { (&mut server, &mut client) };
        let mut segment = from.segment(step.start, step.length);
        let before = &mut last[usize::from(step.from_client)];
        if let (true, Some(before)) = (step.repeated, before.clone()) {
            segment = before;
        }
        assert_eq!(segment.flags, ACK);
        *before = Some(segment.clone());
        if step.lost_before {
            continue;
        }
        let outcome =
            if step.from_client { talk.client_sends(&segment) } else { talk.server_sends(&segment) };
        assert!(outcome.punted.is_empty(), "{outcome:?}");
        if let [(_, frame)] = &outcome.sent[..] {
            if !step.lost_after {
                to.take(&Segment::of(frame));
            }
        } else {
            assert_eq!(outcome.dropped.len(), 1, "{outcome:?}");
        }
    }
    for (from, to, sent) in [(&client, &server, &said[..]), (&server, &client, of_server)] {
        assert_eq!(from.acknowledged, from.text.len(), "all is acknowledged");
        let received = String::from_utf8(to.received.clone()).unwrap();
        let received: Vec<&str> = received.split_inclusive('\n').collect();
        assert_eq!(received.len(), sent.len(), "{received:?}");
        for (sent, received) in sent.iter().zip(received) {
            assert!(may_become(sent, received), "{sent:?} became {received:?}");
        }
    }
    assert!(talk.data().len() <= of_client.len() + of_server.len());
}

/// The same cases each time; `PROPTEST_CASES` asks for more.
fn runner() -> TestRunner {
    let config =
        Config { failure_persistence: None, cases: Config::default().cases.min(2000), ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]))
}

#[test]
fn each_gets_what_the_other_sent() {
    let methods = prop::sample::select(vec![Method::Nat, Method::FullNat]);
    let case = ((methods, any::<bool>()), lines(true), lines(false), prop::collection::vec(a_step(), 0..80));
    runner()
        .run(&case, |(kind, of_client, of_server, steps)| {
            check(kind, &of_client, &of_server, &steps);
            Ok(())
        })
        .unwrap();
}

/// Whatever is said: nothing panics, and what is kept is bounded.
#[test]
fn anything_may_be_said() {
    let words = [
        "PORT ",
        "EPRT ",
        "EPSV",
        "PASV",
        "227 ",
        "229 (",
        "234 ",
        "AUTH",
        "198,51,100,7,",
        "10,0,2,1,",
        "|1|",
        "|2|",
        "198.51.100.7",
        "::",
        "|||",
        "65535",
        "0",
        "\r\n",
        "\n",
        "\r",
        " ",
        "(",
        ")",
        "9,9",
        "\0",
        "é",
    ];
    let text =
        prop::collection::vec(prop::sample::select(words.to_vec()), 0..40).prop_map(|words| words.concat());
    let said = prop::collection::vec((any::<bool>(), text), 0..20);
    runner()
        .run(&said, |said| {
            let mut talk = Talk::open(Method::FullNat);
            for (from_client, text) in said {
                let outcome = if from_client {
                    let segment = talk.client.segment(text.as_bytes());
                    talk.client.next = talk.client.next.wrapping_add(text.len() as u32);
                    talk.client_sends(&segment)
                } else {
                    let segment = talk.server.segment(text.as_bytes());
                    talk.server.next = talk.server.next.wrapping_add(text.len() as u32);
                    talk.server_sends(&segment)
                };
                prop_assert_eq!(outcome.sent.len() + outcome.dropped.len(), 1, "{:?}", outcome);
            }
            prop_assert!(talk.director.list().len() <= 1 + sluice_dataplane::ftp::MOST_EXPECTED);
            Ok(())
        })
        .unwrap();
}
