//! AdamW whose moments take fewer bits than the parameters.

mod adamw;
mod levels;
mod moment;
mod state_type;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub use adamw::{LowBitAdamW, LowBitAdamWConfig, LowBitState};
pub use state_type::StateType;
