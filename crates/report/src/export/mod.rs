//! Exports profiles to the formats of other viewers.

mod firefox;
mod speedscope;
mod tracks;
