//! The configuration file: parse, validate, resolve.
