//! Files that use each other in a circle, as far as that is known, each with the reason.
//!
//! No other circle may be made. One that has been opened, or has become smaller, must be taken off.

use crate::graph::Circle;

pub(crate) const CIRCLES: &[Circle] = &[Circle {
    files: &[
        "burn-dist/src/comm/mesh/direct.rs",
        "burn-dist/src/comm/mesh/mod.rs",
        "burn-dist/src/comm/mesh/relay.rs",
        "burn-dist/src/comm/mesh/round.rs",
    ],
    why: "a mesh and its round are one noun: a round is a collective under way on the links of a mesh",
}];
