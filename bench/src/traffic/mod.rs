//! Traffic source and sink.
