//! Requests and answers over the Unix socket.
