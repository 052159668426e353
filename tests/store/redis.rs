//! What Redis alone can get wrong.
