//! The ipvsadm command line over a real socket, against a director without
//! packets.

mod additions;
mod fuzz;
mod golden;
mod marks;
mod recording;
mod stage;
