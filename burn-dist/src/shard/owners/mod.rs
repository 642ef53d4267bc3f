//! Parameters that an optimizer has to step whole, such as Muon's matrices: each has an owner among the ranks that share
//! it, to which pieces of its gradient go, and from which pieces of its new values come.

mod bucket;
mod found;
mod job;
mod stepper;

pub use stepper::Stepper;
