//! The steering program in the kernel: what it redirects, and how it comes and
//! goes. Needs root; skipped, and said so, without.

#[path = "../director/mod.rs"]
#[allow(dead_code, reason = "the forwarding tests use all of it")]
mod director;
mod kernel;
mod marks;
mod punt;
mod verdicts;

use kernel::By;
use sluice_dataplane::port::Port;
use sluice_dataplane::port::afxdp::AfXdpPort;
use sluice_dataplane::steer::{Mode, ModeChoice, PROGRAM_NAME, SteerError, Steering};

#[test]
fn attached_and_detached() {
    if !kernel::enter_namespace() {
        return;
    }
    kernel::make_veth();
    for (choice, mode) in [
        (ModeChoice::Auto, Mode::Native),
        (ModeChoice::Native, Mode::Native),
        (ModeChoice::Generic, Mode::Generic),
    ] {
        let steering = Steering::attach("west", choice).unwrap();
        assert_eq!((steering.mode(), steering.fallback_reason(), steering.interface()), (mode, None, "west"));
        assert_ne!(kernel::attached("west"), 0);
        assert_eq!(kernel::attached("east"), 0);
        drop(steering);
        kernel::wait_until_detached("west");
    }
}

/// It is gone when its owner is, even when the stack is unwound.
#[test]
fn detached_by_a_panic() {
    if !kernel::enter_namespace() {
        return;
    }
    kernel::make_veth();
    let result = std::panic::catch_unwind(|| {
        let _steering = Steering::attach("west", ModeChoice::Auto).unwrap();
        assert_ne!(kernel::attached("west"), 0);
        std::panic::resume_unwind(Box::new("on purpose"));
    });
    assert!(result.is_err());
    kernel::wait_until_detached("west");
}

#[test]
fn what_a_dead_director_left_is_replaced() {
    if !kernel::enter_namespace() {
        return;
    }
    kernel::make_veth();
    for by in [By::Driver, By::Generic] {
        for choice in [ModeChoice::Auto, ModeChoice::Generic] {
            kernel::attach("west", &kernel::load_ours(), by);
            let stale = kernel::attached("west");
            assert_ne!(stale, 0);
            let steering = Steering::attach("west", choice)
                .unwrap_or_else(|error| panic!("{by:?}, {choice:?}: {error}"));
            assert!(![0, stale].contains(&kernel::attached("west")), "{by:?}, {choice:?}");
            drop(steering);
            kernel::wait_until_detached("west");
        }
    }
}

#[test]
fn somebody_elses_program_is_left_alone() {
    if !kernel::enter_namespace() {
        return;
    }
    kernel::make_veth();
    for by in [By::Driver, By::Generic] {
        kernel::attach("east", &kernel::load_stranger("firewall"), by);
        let theirs = kernel::attached("east");
        let Err(error) = Steering::attach("east", ModeChoice::Auto) else { panic!("{by:?}: attached") };
        assert!(matches!(error, SteerError::Occupied { .. }), "{error}");
        let text = error.to_string();
        for part in
            ["interface east", "\"firewall\"", &format!("id {theirs}"), "ip link set dev east xdp off"]
        {
            assert!(text.contains(part), "{by:?}: {part} is not in: {text}");
        }
        assert_eq!(kernel::attached("east"), theirs, "{by:?}: it stays");
        kernel::ip(match by {
            By::Driver => "link set dev east xdpdrv off",
            By::Generic => "link set dev east xdpgeneric off",
        });
    }
}

#[test]
fn two_directors_do_not_share_an_interface() {
    if !kernel::enter_namespace() {
        return;
    }
    kernel::make_veth();
    for choice in [ModeChoice::Auto, ModeChoice::Generic] {
        let first = Steering::attach("west", choice).unwrap();
        let id = kernel::attached("west");
        for second in [ModeChoice::Auto, ModeChoice::Native, ModeChoice::Generic] {
            let Err(error) = Steering::attach("west", second) else { panic!("attached twice") };
            assert!(matches!(error, SteerError::AnotherDirector { .. }), "{error}");
            assert!(error.to_string().contains("interface west"), "{error}");
        }
        assert_eq!(kernel::attached("west"), id);
        // Each interface has its own.
        drop(Steering::attach("east", choice).unwrap());
        drop(first);
        kernel::wait_until_detached("west");
    }
}

/// One director takes another one's place with its program there all the time.
#[test]
fn a_director_hands_its_interface_over() {
    if !kernel::enter_namespace() {
        return;
    }
    kernel::make_veth();
    for choice in [ModeChoice::Auto, ModeChoice::Generic] {
        let first = Steering::attach("west", choice).unwrap();
        let before = kernel::attached("west");
        let left = first.hand_over().unwrap();
        assert_eq!(kernel::attached("west"), before, "it stays");
        let second = Steering::attach("west", choice).unwrap();
        drop(left);
        assert!(![0, before].contains(&kernel::attached("west")));
        drop(second);
        kernel::wait_until_detached("west");
    }
}

/// A program that was put in the place of one is not taken off with it.
#[test]
fn only_the_own_program_is_taken_off() {
    if !kernel::enter_namespace() {
        return;
    }
    kernel::make_veth();
    let steering = Steering::attach("west", ModeChoice::Auto).unwrap();
    kernel::attach("west", &kernel::load_stranger("firewall"), By::Driver);
    let theirs = kernel::attached("west");
    drop(steering);
    assert_eq!(kernel::attached("west"), theirs);
}

#[test]
fn a_driver_without_xdp_gets_generic_mode() {
    if !kernel::enter_namespace() {
        return;
    }
    kernel::ip("link add bridge type bridge");
    let steering = Steering::attach("bridge", ModeChoice::Auto).unwrap();
    assert_eq!(steering.mode(), Mode::Generic);
    let reason = steering.fallback_reason().expect("a reason");
    assert!(reason.contains("not supported"), "{reason}");
    drop(steering);
    kernel::wait_until_detached("bridge");

    let Err(error) = Steering::attach("bridge", ModeChoice::Native) else { panic!("attached") };
    assert!(matches!(error, SteerError::Attach { .. }), "{error}");
    assert!(error.to_string().contains("interface bridge"), "{error}");
    assert_eq!(kernel::attached("bridge"), 0);
}

#[test]
fn an_interface_that_is_not_there() {
    if !kernel::enter_namespace() {
        return;
    }
    for name in ["nowhere0", "", "a-name-that-is-too-long", "nul\0"] {
        let Err(error) = Steering::attach(name, ModeChoice::Auto) else { panic!("{name:?}: attached") };
        assert!(matches!(error, SteerError::NoInterface(_)), "{name:?}: {error}");
    }
}

/// Ports are opened on steered interfaces and closed with nothing left behind.
#[test]
fn a_port_comes_and_goes() {
    if !kernel::enter_namespace() {
        return;
    }
    kernel::make_veth();
    let [west, east] = ["west", "east"].map(|name| Steering::attach(name, ModeChoice::Auto).unwrap());
    let interfaces = [&west, &east].map(|steering| (steering.interface().to_owned(), steering.mode()));
    for _ in 0..3 {
        let port = AfXdpPort::open(&interfaces, 0, 1500).unwrap();
        assert_eq!((port.interfaces(), port.failed()), (2, None));
    }
    let Err(error) = AfXdpPort::open(&interfaces, 200, 1500) else { panic!("queue 200 opened") };
    assert!(error.to_string().contains("queue 200"), "{error}");
    assert_eq!(PROGRAM_NAME, "sluice_steer");
    drop((west, east));
    kernel::wait_until_detached("west");
    kernel::wait_until_detached("east");
}
