//! The real-server side of DR and TUN.
