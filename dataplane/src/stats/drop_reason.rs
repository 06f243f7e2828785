//! Why a frame was dropped.

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal),+ $(,)?) => {
        /// Why a frame that was ours was not forwarded.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum DropReason { $($(#[$doc])* $name),+ }

        impl DropReason {
            /// Every reason, in the order of its number.
            pub const ALL: &[DropReason] = &[$(DropReason::$name),+];

            /// The name that metrics and `sluice status` show.
            pub fn name(self) -> &'static str {
                match self { $(DropReason::$name => $text),+ }
            }
        }
    };
}

drop_reasons! {
    /// Shorter than the headers that it announces
    Truncated = "truncated",
    /// A length or version field contradicts the frame
    Malformed = "malformed",
    /// The IPv4 header checksum is wrong
    BadChecksum = "bad_checksum",
    /// TTL used up; time exceeded was sent where the rate allows
    TtlExceeded = "ttl_exceeded",
    /// A fragment of SCTP whose ports would change: its checksum cannot be
    /// corrected without the rest
    SctpFragment = "sctp_fragment",
    /// Larger than the next hop's MTU, and not to be fragmented, or not into
    /// pieces that fit
    TooBig = "too_big",
    /// An ICMP error about a tunnel's packet, of which the client was told where
    /// it concerns it and the rate allows
    TunnelError = "tunnel_error",
    /// An ICMP error, an extension header of a fragment, or a fragment without a
    /// UDP checksum, for which the other address family has no equal (RFC 7915)
    Untranslatable = "untranslatable",
    /// The service has no server that takes connections
    NoServer = "no_server",
    /// It would begin a connection of a service with the persistence engine `sip`,
    /// and has no Call-ID
    NoCallId = "no_call_id",
    /// The connection's server was removed
    ServerGone = "server_gone",
    /// The connection table is nearly full, and `drop_packet` says that some
    /// packets that begin a connection are dropped
    Overload = "overload",
    /// A NAT server's packet of no connection, which it was told with
    /// `nat_icmp_send`
    NoConnection = "no_connection",
    /// A packet of no known connection that came to a director in the backup's
    /// role, and that its kernel must not answer
    Standby = "standby",
    /// The connection table is full
    TableFull = "table_full",
    /// No (LIP, port) is free towards the server, or no LIP is configured
    NoLocalPort = "no_local_port",
    /// No route to the next hop
    NoRoute = "no_route",
    /// The route leads out of an interface that is not the director's
    ForeignInterface = "foreign_interface",
    /// The next hop did not answer in time, or too many frames wait for it
    Unresolved = "unresolved",
    /// Too many fragments wait for the first of their packet
    FragmentQueueFull = "fragment_queue_full",
    /// A segment of an FTP control connection before which another one is missing,
    /// a fragment of one, or too many changed lines are not acknowledged
    FtpControl = "ftp_control",
    /// The transmit ring is full
    TransmitFull = "transmit_full",
    /// No frame is free
    NoFrame = "no_frame",
    /// The next worker's queue of passed-on frames is full
    HandoffFull = "handoff_full",
    /// The kernel did not take the punted frame
    PuntFailed = "punt_failed",
}
