//! Replays a recording with connections: commands, which server got each
//! connection in between, and what listings said of them afterwards.

use crate::plane::MemoryPlane;
use crate::stage::Stage;

/// The connections of a section: how the next one is opened, and whether they
/// stay open, as its title says.
struct Client {
    plane: MemoryPlane,
    udp: bool,
    /// All datagrams come from one port
    one_flow: bool,
    held: bool,
    port: u16,
    /// Ports of connections that were opened
    open: Vec<u16>,
}

impl Client {
    fn of_section(title: &str, plane: MemoryPlane) -> Self {
        let udp = title.starts_with("udp");
        Client {
            plane,
            udp,
            one_flow: udp && !title.contains("a new client port"),
            held: title.contains("held") || title.starts_with("lc ignores weights"),
            port: 20_000,
            open: Vec::new(),
        }
    }

    fn next(&mut self) -> String {
        self.port += u16::from(!self.one_flow);
        if self.udp {
            return self.plane.datagram(self.port);
        }
        let server = self.plane.connect(self.port);
        if self.held {
            self.open.push(self.port);
        } else if server.starts_with("rs") {
            self.plane.reset(self.port);
        }
        server
    }
}

#[test]
fn connections_go_where_they_went_in_the_recording() {
    let text = include_str!("../golden/sched_nat.txt");
    let (mut commands, mut connections) = (0, 0);
    for section in text.split("\n## ").skip(1) {
        let mut lines = section.lines().filter(|line| !line.is_empty()).peekable();
        let title = lines.next().unwrap();
        let plane = MemoryPlane::default();
        let mut stage = Stage::on(plane.clone());
        let mut client = Client::of_section(title, plane);
        while let Some(line) = lines.next() {
            if let Some(command) = line.strip_prefix("$ ") {
                let command = command.trim_end_matches("   (entries sorted)");
                let outcome = stage.shell(command, "").unwrap();
                let mut expected = Vec::new();
                while let Some(line) =
                    lines.next_if(|l| !["$ ", "# ", "order: "].iter().any(|p| l.starts_with(p)))
                {
                    expected.push(line.to_owned());
                }
                assert_eq!(outcome.stdout, expected, "{title}: {command}");
                assert_eq!((outcome.stderr.len(), outcome.status), (0, 0), "{title}: {command}");
                commands += 1;
            } else if let Some(order) = line.strip_prefix("order: ") {
                for (number, server) in order.split(' ').enumerate() {
                    assert_eq!(client.next(), server, "{title}: connection {number} of {order}");
                    connections += 1;
                }
            } else if let Some(many) = line.strip_prefix("# close the first ") {
                let count = if many.starts_with("three") { 3 } else { 7 };
                client.open.drain(..count).for_each(|port| client.plane.reset(port));
            } else {
                panic!("{title}: {line}");
            }
        }
    }
    assert!(commands >= 200 && connections >= 500, "{commands} commands, {connections} connections");
}
