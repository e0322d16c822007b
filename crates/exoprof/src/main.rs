//! The exoprof binary.
fn main() {}
