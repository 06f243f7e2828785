//! States of a connection, with the names, timeouts and transitions of IPVS
//! (`net/netfilter/ipvs/ip_vs_proto_tcp.c`, `ip_vs_proto_udp.c` and
//! `ip_vs_proto_sctp.c`, Linux 6.1).
//!
//! IPVS follows a connection by the flags of the packets that it sees and by
//! nothing else: no sequence numbers, no retransmissions. That keeps a
//! director that joined late, or that sees one direction only, in step.

use crate::service::Protocol;

/// The state of a connection. The names are those of IPVS, which looks at a
/// connection from the server's side.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(u8)]
pub enum State {
    /// No packet was looked at yet
    #[default]
    None,
    /// Data may flow
    Established,
    /// The server opens a connection to the client
    SynSent,
    /// The client opens a connection
    SynRecv,
    /// The server sent FIN (seen from DR and TUN: the client did)
    FinWait,
    /// Both sides sent FIN, or FIN came before the connection was established
    TimeWait,
    /// Reset
    Close,
    /// The client sent FIN
    CloseWait,
    /// The server sent FIN after the client's
    LastAck,
    /// Waits for a connection that an application protocol announced
    Listen,
    /// The server answered a SYN; used by IPVS's defence against SYN floods
    SynAck,
    /// A UDP flow: there is but one state
    Udp,
    /// No packet of SCTP was looked at yet
    SctpNone,
    /// The client sent INIT
    SctpInit1,
    /// It sent INIT again
    SctpInit,
    /// The server sent its cookie
    SctpCookieSent,
    /// The client sent it back
    SctpCookieReplied,
    /// The server sent INIT
    SctpCookieWait,
    /// The client sent its cookie
    SctpCookie,
    /// The server sent it back
    SctpCookieEchoed,
    /// Data may flow
    SctpEstablished,
    /// The server sent SHUTDOWN
    SctpShutdownSent,
    /// The client sent SHUTDOWN
    SctpShutdownReceived,
    /// The server sent SHUTDOWN ACK
    SctpShutdownAckSent,
    /// The server refused
    SctpRejected,
    /// Over
    SctpClosed,
}

/// Number of states.
const STATES: usize = State::SctpClosed as usize + 1;

/// Number of states of TCP and UDP.
const TCP_STATES: usize = State::Udp as usize + 1;

const _: () = assert!(STATES == TCP_STATES + super::sctp::STATES);

impl State {
    /// Every state, in the order of their numbers.
    pub const ALL: [State; STATES] = [
        State::None,
        State::Established,
        State::SynSent,
        State::SynRecv,
        State::FinWait,
        State::TimeWait,
        State::Close,
        State::CloseWait,
        State::LastAck,
        State::Listen,
        State::SynAck,
        State::Udp,
        State::SctpNone,
        State::SctpInit1,
        State::SctpInit,
        State::SctpCookieSent,
        State::SctpCookieReplied,
        State::SctpCookieWait,
        State::SctpCookie,
        State::SctpCookieEchoed,
        State::SctpEstablished,
        State::SctpShutdownSent,
        State::SctpShutdownReceived,
        State::SctpShutdownAckSent,
        State::SctpRejected,
        State::SctpClosed,
    ];

    /// The name that `ipvsadm -L -c` shows.
    pub fn name(self) -> &'static str {
        match self {
            State::None | State::SctpNone => "NONE",
            State::Established | State::SctpEstablished => "ESTABLISHED",
            State::SynSent => "SYN_SENT",
            State::SynRecv => "SYN_RECV",
            State::FinWait => "FIN_WAIT",
            State::TimeWait => "TIME_WAIT",
            State::Close => "CLOSE",
            State::CloseWait => "CLOSE_WAIT",
            State::LastAck => "LAST_ACK",
            State::Listen => "LISTEN",
            State::SynAck => "SYNACK",
            State::Udp => "UDP",
            State::SctpInit1 => "INIT1",
            State::SctpInit => "INIT",
            State::SctpCookieSent => "C-SENT",
            State::SctpCookieReplied => "C-REPLIED",
            State::SctpCookieWait => "C-WAIT",
            State::SctpCookie => "COOKIE",
            State::SctpCookieEchoed => "C-ECHOED",
            State::SctpShutdownSent => "S-SENT",
            State::SctpShutdownReceived => "S-RECEIVED",
            State::SctpShutdownAckSent => "S-ACK-SENT",
            State::SctpRejected => "REJECTED",
            State::SctpClosed => "CLOSED",
        }
    }

    /// Whether a connection in this state counts as active (`ActiveConn`);
    /// all others are `InActConn` (`tcp_state_active_table`).
    #[inline]
    pub fn is_active(self) -> bool {
        matches!(
            self,
            State::Established | State::SynSent | State::SynRecv | State::SynAck | State::SctpEstablished
        )
    }

    /// The state that a connection begins in.
    pub fn first(protocol: Protocol) -> State {
        match protocol {
            Protocol::Tcp => State::None,
            Protocol::Udp => State::Udp,
            Protocol::Sctp => State::SctpNone,
        }
    }

    /// Whether it is one of SCTP's.
    #[inline]
    pub fn is_of_sctp(self) -> bool {
        self >= State::SctpNone
    }

    /// Whether a SYN from the client that finds a connection in this state opens
    /// a new one: the old entry goes at once, and the new connection is
    /// scheduled afresh (`is_new_conn_expected` with `conn_reuse_mode=1`, the
    /// default). INIT does so for SCTP. With RST set beside SYN, the old entry goes and none follows.
    #[inline]
    pub fn is_over(self) -> bool {
        matches!(self, State::TimeWait | State::Close | State::SctpClosed)
    }

    /// The state after a packet with these TCP flags (byte 13 of the header), or
    /// with this chunk of SCTP ([`Chunk`](crate::wire::sctp::Chunk)).
    ///
    /// Of several flags one decides, RST before SYN before FIN before ACK. A
    /// packet with none of them closes the connection, as in IPVS. UDP flows
    /// stay what they are, whatever `flags` holds.
    ///
    /// `secure` is the defence against floods of SYN (`secure_tcp`): a
    /// connection is established only once its server took part in it.
    #[inline]
    pub fn next(self, direction: Direction, flags: u8, secure: bool) -> State {
        if self.is_of_sctp() {
            return super::sctp::next(self, direction, flags);
        }
        let row = if flags & RST != 0 {
            3
        } else if flags & SYN != 0 {
            0
        } else if flags & FIN != 0 {
            1
        } else if flags & ACK != 0 {
            2
        } else {
            4
        };
        let table = if secure { &NEXT_SECURE } else { &NEXT };
        table[direction as usize][row][self as usize]
    }
}

/// Which way a packet goes, and how much of the connection is seen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Direction {
    /// From the client, on a connection whose replies are seen as well
    Input,
    /// From the server
    Output,
    /// From the client, on a connection whose replies bypass the director.
    ///
    /// DR and TUN connections start so (`IP_VS_CONN_F_NOOUTPUT`); the first
    /// reply that does come by makes every later client packet
    /// [`Direction::Input`].
    InputOnly,
}

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// The next state by direction, deciding flag and state.
type Transitions = [[[State; TCP_STATES]; 5]; 3];

use State::{
    Close as CL, CloseWait as CW, Established as ES, FinWait as FW, LastAck as LA, Listen as LI,
    SynAck as SA, SynRecv as SR, SynSent as SS, TimeWait as TW, Udp as UD,
};

/// No deciding flag: `set_tcp_state` falls back to CLOSE.
const BARE: [State; TCP_STATES] = [CL, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL, UD];

/// `tcp_states`
static NEXT: Transitions = [
    // Input, from:
    // NO  ES  SS  SR  FW  TW  CL  CW  LA  LI  SA  UD
    [
        [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR, UD], // SYN
        [CL, CW, SS, TW, TW, TW, CL, CW, LA, LI, TW, UD], // FIN
        [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES, UD], // ACK
        [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, SR, UD], // RST
        BARE,
    ],
    // Output, from:
    // NO  ES  SS  SR  FW  TW  CL  CW  LA  LI  SA  UD
    [
        [SS, ES, SS, SR, SS, SS, SS, SS, SS, LI, SR, UD], // SYN
        [TW, FW, SS, TW, FW, TW, CL, TW, LA, LI, TW, UD], // FIN
        [ES, ES, SS, ES, FW, TW, CL, CW, LA, ES, ES, UD], // ACK
        [CL, CL, SS, CL, CL, TW, CL, CL, CL, CL, CL, UD], // RST
        BARE,
    ],
    // InputOnly, from:
    // NO  ES  SS  SR  FW  TW  CL  CW  LA  LI  SA  UD
    [
        [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR, UD], // SYN
        [CL, FW, SS, TW, FW, TW, CL, CW, LA, LI, TW, UD], // FIN
        [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES, UD], // ACK
        [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL, UD], // RST
        BARE,
    ],
];

/// `tcp_states_dos`
static NEXT_SECURE: Transitions = [
    // Input, from:
    // NO  ES  SS  SR  FW  TW  CL  CW  LA  LI  SA  UD
    [
        [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SA, UD], // SYN
        [CL, CW, SS, TW, TW, TW, CL, CW, LA, LI, SA, UD], // FIN
        [ES, ES, SS, SR, FW, TW, CL, CW, CL, LI, SA, UD], // ACK
        [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL, UD], // RST
        BARE,
    ],
    // Output, from:
    // NO  ES  SS  SR  FW  TW  CL  CW  LA  LI  SA  UD
    [
        [SS, ES, SS, SA, SS, SS, SS, SS, SS, LI, SA, UD], // SYN
        [TW, FW, SS, TW, FW, TW, CL, TW, LA, LI, TW, UD], // FIN
        [ES, ES, SS, ES, FW, TW, CL, CW, LA, ES, ES, UD], // ACK
        [CL, CL, SS, CL, CL, TW, CL, CL, CL, CL, CL, UD], // RST
        BARE,
    ],
    // InputOnly, from:
    // NO  ES  SS  SR  FW  TW  CL  CW  LA  LI  SA  UD
    [
        [SA, ES, ES, SR, SA, SA, SA, SA, SA, SA, SA, UD], // SYN
        [CL, FW, SS, TW, FW, TW, CL, CW, LA, LI, TW, UD], // FIN
        [ES, ES, SS, ES, FW, TW, CL, CW, LA, ES, ES, UD], // ACK
        [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL, UD], // RST
        BARE,
    ],
];

/// How long a connection lives after its last packet, in seconds by state.
///
/// A change applies to a connection at its next packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts([u32; STATES]);

impl Default for Timeouts {
    /// `tcp_timeouts`, `udp_timeouts` and `sctp_timeouts`.
    fn default() -> Self {
        Timeouts(State::ALL.map(|state| match state {
            State::None => 2,
            State::Established => 15 * 60,
            State::SynSent => 2 * 60,
            State::SynRecv => 60,
            State::FinWait => 2 * 60,
            State::TimeWait => 2 * 60,
            State::Close => 10,
            State::CloseWait => 60,
            State::LastAck => 30,
            State::Listen => 2 * 60,
            State::SynAck => 2 * 60,
            State::Udp => 5 * 60,
            State::SctpNone => 2,
            State::SctpInit1 | State::SctpRejected => 4,
            State::SctpEstablished => 15 * 60,
            State::SctpInit
            | State::SctpCookieSent
            | State::SctpCookieReplied
            | State::SctpCookieWait
            | State::SctpCookie
            | State::SctpCookieEchoed
            | State::SctpShutdownSent
            | State::SctpShutdownReceived
            | State::SctpShutdownAckSent
            | State::SctpClosed => 61,
        }))
    }
}

impl Timeouts {
    /// Seconds that a connection in `state` lives without a packet.
    #[inline]
    pub fn seconds(&self, state: State) -> u32 {
        self.0[state as usize]
    }

    /// What `ipvsadm --set tcp tcpfin udp` does: the timeouts of ESTABLISHED,
    /// FIN_WAIT and UDP in seconds, where 0 keeps the present one.
    pub fn set(&mut self, tcp: u32, tcpfin: u32, udp: u32) {
        for (state, seconds) in [(State::Established, tcp), (State::FinWait, tcpfin), (State::Udp, udp)] {
            if seconds != 0 {
                self.0[state as usize] = seconds;
            }
        }
    }

    /// These, but for what is in `overrides`.
    pub fn overridden(mut self, overrides: &TimeoutOverrides) -> Self {
        for (seconds, new) in self.0.iter_mut().zip(overrides.0) {
            *seconds = new.unwrap_or(*seconds);
        }
        self
    }
}

/// Timeouts of some states, instead of those that hold for all services.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct TimeoutOverrides([Option<u32>; STATES]);

impl TimeoutOverrides {
    /// Sets how many seconds a connection lives in `state` without a packet.
    pub fn set(&mut self, state: State, seconds: u32) {
        self.0[state as usize] = Some(seconds);
    }

    /// What was set for `state`, taken out.
    pub fn take(&mut self, state: State) -> Option<u32> {
        self.0[state as usize].take()
    }

    /// Whether nothing was set.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{Input, InputOnly, Output};

    /// Follows the packets of a conversation: (direction, flags, state after).
    fn follow(packets: &[(Direction, u8, State)]) {
        let mut state = State::None;
        for (i, &(direction, flags, expected)) in packets.iter().enumerate() {
            let before = state;
            state = state.next(direction, flags, false);
            assert_eq!(state, expected, "packet {i}: {before:?} {direction:?} flags {flags:#04x}");
        }
    }

    #[test]
    fn client_closes_first_through_nat() {
        follow(&[
            (Input, SYN, State::SynRecv),
            (Output, SYN | ACK, State::SynRecv),
            (Input, ACK, State::Established),
            (Output, ACK, State::Established),
            (Input, FIN | ACK, State::CloseWait),
            (Output, ACK, State::CloseWait),
            (Output, FIN | ACK, State::TimeWait),
            (Input, ACK, State::TimeWait),
        ]);
    }

    #[test]
    fn server_closes_first_through_nat() {
        follow(&[
            (Input, SYN, State::SynRecv),
            (Output, SYN | ACK, State::SynRecv),
            (Input, ACK, State::Established),
            (Output, FIN | ACK, State::FinWait),
            (Input, ACK, State::FinWait),
            (Input, FIN | ACK, State::TimeWait),
            (Output, ACK, State::TimeWait),
        ]);
    }

    #[test]
    fn direct_routing_sees_the_client_only() {
        follow(&[
            (InputOnly, SYN, State::SynRecv),
            (InputOnly, ACK, State::Established),
            (InputOnly, FIN | ACK, State::FinWait),
            (InputOnly, ACK, State::FinWait),
            (InputOnly, SYN, State::SynRecv),
        ]);
    }

    #[test]
    fn resets() {
        follow(&[(Input, SYN, State::SynRecv), (Output, RST | ACK, State::Close)]);
        // A client cannot reset what no server has answered yet.
        follow(&[(Input, SYN, State::SynRecv), (Input, RST, State::SynRecv)]);
        follow(&[(Input, SYN, State::SynRecv), (Input, ACK, State::Established), (Input, RST, State::Close)]);
        // The port is used again while the old entry still lingers.
        follow(&[(Input, ACK, State::Established), (Input, RST, State::Close), (Input, SYN, State::SynRecv)]);
    }

    #[test]
    fn one_flag_decides() {
        for (flags, as_if) in [
            (RST | SYN | FIN | ACK, RST),
            (SYN | FIN | ACK, SYN),
            (FIN | ACK, FIN),
            (ACK | 0x08 | 0x20, ACK),
            (0x08 | 0x20 | 0x40 | 0x80, 0),
        ] {
            for direction in [Input, Output, InputOnly] {
                for state in State::ALL.into_iter().filter(|s| !s.is_of_sctp()) {
                    for secure in [false, true] {
                        assert_eq!(
                            state.next(direction, flags, secure),
                            state.next(direction, as_if, secure)
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn no_deciding_flag_closes() {
        for direction in [Input, Output, InputOnly] {
            for state in State::ALL.into_iter().filter(|s| *s != State::Udp && !s.is_of_sctp()) {
                assert_eq!(state.next(direction, 0, false), State::Close);
                assert_eq!(state.next(direction, 0, true), State::Close);
            }
        }
    }

    #[test]
    fn udp_has_one_state() {
        for direction in [Input, Output, InputOnly] {
            for flags in 0..=255 {
                assert_eq!(State::Udp.next(direction, flags, false), State::Udp);
                assert_eq!(State::Udp.next(direction, flags, true), State::Udp);
            }
        }
    }

    #[test]
    fn states_are_listed_in_order() {
        for (i, state) in State::ALL.into_iter().enumerate() {
            assert_eq!(state as usize, i);
        }
        let active: Vec<_> = State::ALL.into_iter().filter(|s| s.is_active()).map(State::name).collect();
        assert_eq!(active, ["ESTABLISHED", "SYN_SENT", "SYN_RECV", "SYNACK", "ESTABLISHED"]);
    }

    #[test]
    fn setting_timeouts_keeps_what_is_zero() {
        let mut timeouts = Timeouts::default();
        timeouts.set(100, 0, 7);
        assert_eq!(timeouts.seconds(State::Established), 100);
        assert_eq!(timeouts.seconds(State::FinWait), 120);
        assert_eq!(timeouts.seconds(State::Udp), 7);
        timeouts.set(0, 5, 0);
        let all = State::ALL.map(|state| timeouts.seconds(state));
        assert_eq!(all[..TCP_STATES], [2, 100, 120, 60, 5, 120, 10, 60, 30, 120, 120, 7]);
        assert_eq!(all[TCP_STATES..], [2, 4, 61, 61, 61, 61, 61, 61, 900, 61, 61, 61, 4, 61]);
    }
}
