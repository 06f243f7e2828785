//! Frames that nobody claims reach the kernel as if XDP had passed them.

use std::net::UdpSocket;
use std::time::Duration;

use sluice_dataplane::link::Link;
use sluice_dataplane::port::afxdp::AfXdpPort;
use sluice_dataplane::port::{Frame, Port};
use sluice_dataplane::steer::{ModeChoice, Steering};

use crate::director::packets::udp;
use crate::kernel;

#[test]
fn a_punted_frame_reaches_the_kernel() {
    if !kernel::enter_namespace() {
        return;
    }
    kernel::make_veth();
    let mac = Link::new("west").unwrap().mac().unwrap();
    kernel::ip("addr add 10.9.0.1/24 dev west");
    for (choice, on_its_interface) in [(ModeChoice::Native, true), (ModeChoice::Generic, false)] {
        let steering = Steering::attach("west", choice).unwrap();
        let mut port = AfXdpPort::open(&[("west".to_owned(), steering.mode())], 0, 1500).unwrap();
        assert_eq!(port.punt_fallback(0).is_none(), on_its_interface, "{:?}", port.punt_fallback(0));

        let socket = UdpSocket::bind("10.9.0.1:5353").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        if on_its_interface {
            kernel::bind_to_interface(&socket, "west");
        }
        for n in 0..100 {
            let text = format!("frame {n} by {choice:?}");
            let bytes = udp("10.9.0.77:4000", "10.9.0.1:5353")
                .payload(text.as_bytes())
                .link([2, 0, 0, 0, 0, 9], mac)
                .bytes();
            let mut frame = port.allocate().unwrap();
            frame.set_len(bytes.len());
            frame.bytes_mut().copy_from_slice(&bytes);
            assert!(port.punt(0, frame));
            let mut received = [0; 100];
            let (length, from) = socket.recv_from(&mut received).unwrap();
            assert_eq!(&received[..length], text.as_bytes());
            assert_eq!(from.to_string(), "10.9.0.77:4000");
        }
        drop((port, steering));
        kernel::wait_until_detached("west");
    }
}
