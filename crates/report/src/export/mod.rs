//! Files for other viewers.

mod firefox;
mod speedscope;
mod tracks;
