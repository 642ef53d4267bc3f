//! The examples as a stranger runs it: from the command line, with good and with bad arguments.
//!
//! What is tested is what is promised on the outside: a line per epoch, a number that does not depend
//! on the number of ranks, a run that goes on after a kill, and for every mistake one sentence that
//! says what is wrong instead of a backtrace.

mod bert;
mod foreign;
mod minimal;
mod options;
mod run;
mod vit;
mod weights;
