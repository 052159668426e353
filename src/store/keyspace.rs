//! Every table and key of the stores in one place.
