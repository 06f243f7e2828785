//! What helps against drops.

use sluice_dataplane::stats::DropReason;

/// What an operator can do about a packet that is dropped for a reason which a
/// trace can give.
pub(super) fn remedy(reason: DropReason) -> Option<&'static str> {
    Some(match reason {
        DropReason::NoServer => {
            "add a server, give one a weight, or raise its upper threshold; sluice health says who is down and why"
        }
        DropReason::TableFull => "raise connections_per_worker, or shorten timeouts (ipvsadm --set)",
        DropReason::NoCallId => {
            "the service goes by the Call-ID of SIP (--pe sip): a datagram without one begins nothing"
        }
        DropReason::ServerGone => {
            "the connection's server was removed: let the connection expire, or set expire_nodest_conn"
        }
        DropReason::NoLocalPort => {
            "add local addresses of the server's address family (sluice ipvsadm -P, or local_addresses)"
        }
        DropReason::NoRoute => "the kernel has no route there: ip route get shows it",
        DropReason::ForeignInterface => {
            "the route leaves by an interface that the director does not have: name it in interfaces, or change the route"
        }
        DropReason::Unresolved => "the next hop does not answer: ip neigh shows it",
        _ => return None,
    })
}
