//! The configured virtual services and real servers, with IPVS's rules for changing them.
