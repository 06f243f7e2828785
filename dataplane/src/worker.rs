//! The worker: one burst in, one burst out.
