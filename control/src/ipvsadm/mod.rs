//! The ipvsadm command line.
