//! Two directors end with equal tables, whatever opens, closes and expires while
//! what one tells the other is cut, lost, repeated or begun anew.

use sluice_dataplane::service::Method;

use super::sync::Link;
use crate::director::packets::{ACK, FIN, RST, SYN, tcp};
use crate::director::random::Random;
use crate::director::{Director, SECOND, VIP};

const CONNECTIONS: u32 = 10_000;

fn serve(method: Method, workers: usize) -> Director {
    let mut director = Director::with(workers, CONNECTIONS as usize + 10);
    let (http, _) = director.both_services();
    for last in 1..=3 {
        director.add_server(http, &format!("10.0.2.{last}:80"), method, 1);
    }
    director.publish();
    director
}

fn run(method: Method, workers: usize, seed: u64) {
    let mut random = Random(seed);
    let mut active = serve(method, 1);
    let mut backup = serve(method, workers);
    let mut link = Some(Link::new(&mut active, &mut backup, 1, 512));
    for round in 0..400 {
        for _ in 0..random.below(400) {
            let number = random.below(CONNECTIONS as usize) as u32;
            let client = format!("198.51.{}.7:{}", 100 + number / 5000, 1024 + number % 5000);
            let flags = [SYN, ACK, ACK, FIN, RST][random.below(5)];
            if flags == ACK {
                active.arrive(0, &tcp(&client, VIP, SYN).bytes());
            }
            active.arrive(0, &tcp(&client, VIP, flags).bytes());
        }
        let passes = random.below(8) as u64 * SECOND;
        active.now += passes;
        backup.now += passes;
        active.settle();
        backup.settle();
        match random.below(20) {
            // The connection between them breaks.
            0 => {
                if let Some(link) = link.take() {
                    link.cut(&mut backup);
                }
            }
            // The backup starts again, with nothing.
            1 => {
                let now = backup.now;
                backup = serve(method, workers);
                backup.now = now;
                link = None;
            }
            // A second connection takes the place of the first, which says no more.
            2 => link = Some(Link::new(&mut active, &mut backup, 1, 512)),
            _ => {
                let link = link.get_or_insert_with(|| Link::new(&mut active, &mut backup, 1, 512));
                let most = random.below(2000);
                link.carry(&mut active, &mut backup, most);
            }
        }
        if round % 100 == 99 {
            let link = link.get_or_insert_with(|| Link::new(&mut active, &mut backup, 1, 512));
            link.carry_all(&mut active, &mut backup);
            let key = |director: &mut Director| -> Vec<_> {
                let established = |state: &str| state != "SYN_RECV";
                let list = director.list().into_iter().filter(|record| established(record.state));
                list.map(|r| (r.client, r.service, r.server, r.local, r.state)).collect()
            };
            let (here, there) = (key(&mut active), key(&mut backup));
            assert!(here.len() > 100, "there is something to compare");
            assert!(here == there, "{} here, {} there, round {round}", here.len(), there.len());
        }
    }
}

#[test]
fn both_tables_end_equal() {
    run(Method::FullNat, 1, 0x1234_5678_9abc_def1);
    run(Method::Nat, 3, 0x0fed_cba9_8765_4321);
}
