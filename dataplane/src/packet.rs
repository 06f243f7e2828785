//! A frame with its parsed offsets.
