//! The ipvsadm command line over a real socket, against a director without
//! packets.

mod additions;
mod arrivals;
mod fuzz;
mod golden;
mod marks;
mod plane;
mod recording;
mod stage;
