//! Transitions of an SCTP connection (`sctp_states` in ip_vs_proto_sctp.c), as
//! recorded in `tests/data/sctp_transitions.txt`.

use super::state::{Direction, State};
use crate::wire::sctp::Chunk;

use State::{
    SctpClosed as CL, SctpCookie as CO, SctpCookieEchoed as CE, SctpCookieReplied as CR,
    SctpCookieSent as CS, SctpCookieWait as CW, SctpEstablished as ES, SctpInit as IN, SctpInit1 as I1,
    SctpRejected as RJ, SctpShutdownAckSent as SA, SctpShutdownReceived as SR, SctpShutdownSent as SS,
};

/// Number of states.
pub(super) const STATES: usize = 14;

/// The next state by direction, chunk from [`Chunk::Data`] to
/// [`Chunk::Abort`], and state from [`State::SctpNone`].
#[rustfmt::skip]
static NEXT: [[[State; STATES]; 10]; 3] = [
    // Input, from:
    // NO  I1  IN  CS  CR  CW  CO  CE  ES  SS  SR  SA  RJ  CL
    [
        [ES, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL], // DATA
        [I1, IN, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, IN, I1], // INIT
        [CW, CW, CW, CS, CR, CO, CO, CE, ES, SS, SR, SA, RJ, CL], // INIT ACK
        [CR, IN, IN, CR, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL], // COOKIE ECHO
        [ES, I1, IN, CS, CR, CW, CO, ES, ES, SS, SR, SA, RJ, CL], // COOKIE ACK
        [SR, I1, IN, CS, CR, CW, CO, CE, SR, SS, SR, SA, RJ, CL], // SHUTDOWN
        [CL, IN, IN, CS, CR, CW, CO, CE, ES, CL, SR, CL, RJ, CL], // SHUTDOWN ACK
        [CL, CL, CL, CS, CR, CW, CO, CE, ES, SS, SR, CL, RJ, CL], // SHUTDOWN COMPLETE
        [CL, I1, IN, CS, CR, CW, CO, CL, ES, SS, SR, SA, RJ, CL], // ERROR
        [CL, CL, CL, CL, CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL], // ABORT
    ],
    // Output, from:
    // NO  I1  IN  CS  CR  CW  CO  CE  ES  SS  SR  SA  RJ  CL
    [
        [ES, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL], // DATA
        [CW, CW, CW, CW, CW, CW, CW, CW, ES, CW, CW, CW, CW, CW], // INIT
        [CS, CS, CS, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL], // INIT ACK
        [CE, CE, CE, CE, CE, CE, CE, CE, ES, SS, SR, SA, RJ, CL], // COOKIE ECHO
        [ES, ES, ES, ES, ES, ES, ES, ES, ES, SS, SR, SA, RJ, CL], // COOKIE ACK
        [SS, SS, SS, SS, SS, SS, SS, SS, SS, SS, SR, SA, RJ, CL], // SHUTDOWN
        [SA, SA, SA, SA, SA, CW, CO, CE, ES, SA, SA, SA, RJ, CL], // SHUTDOWN ACK
        [CL, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL], // SHUTDOWN COMPLETE
        [CL, CL, CL, CL, CL, CW, CO, CE, ES, SS, SR, SA, RJ, CL], // ERROR
        [RJ, RJ, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL], // ABORT
    ],
    // InputOnly, which does not get into some states, from:
    // NO  I1  IN  CS  CR  CW  CO  CE  ES  SS  SR  SA  RJ  CL
    [
        [ES, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL], // DATA
        [I1, IN, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, IN, I1], // INIT
        [CE, CE, CE, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL], // INIT ACK
        [ES, ES, ES, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL], // COOKIE ECHO
        [ES, I1, IN, CS, CR, CW, CO, ES, ES, SS, SR, SA, RJ, CL], // COOKIE ACK
        [SR, I1, IN, CS, CR, CW, CO, CE, SR, SS, SR, SA, RJ, CL], // SHUTDOWN
        [CL, IN, IN, CS, CR, CW, CO, CE, CL, SS, SR, SA, RJ, CL], // SHUTDOWN ACK
        [CL, CL, CL, CS, CR, CW, CO, CE, ES, SS, CL, SA, RJ, CL], // SHUTDOWN COMPLETE
        [CL, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL], // ERROR
        [CL, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL], // ABORT
    ],
];

/// The state of an SCTP connection after a packet with a deciding chunk.
pub(super) fn next(state: State, direction: Direction, chunk: u8) -> State {
    // An abort is one wherever it is in the packet.
    let chunk = if chunk == Chunk::LateAbort as u8 { Chunk::Abort as u8 } else { chunk };
    let Some(row) = usize::from(chunk).checked_sub(Chunk::Data as usize) else { return state };
    let column = (state as usize).checked_sub(State::SctpNone as usize);
    let cell = NEXT[direction as usize].get(row).and_then(|row| row.get(column?));
    cell.copied().unwrap_or(state)
}
