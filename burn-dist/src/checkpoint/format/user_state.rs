//! The user's own part of a save.
//!
//! It is written twice: as JSON for people to read, which has no infinities and may round numbers, and as
//! CBOR, which is what a load reads.

use crate::error::{Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;

/// The state that the user gave to `World::save`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::checkpoint) struct UserState {
    /// As JSON, for people.
    json: Value,
    /// As CBOR, in hexadecimal.
    cbor: String,
}

impl UserState {
    pub(in crate::checkpoint) fn of(state: &impl Serialize, folder: &Path) -> Result<Self> {
        let failed = |wanted: &str, e: &dyn std::fmt::Display| Error::file(folder, wanted, e);
        let shown =
            serde_json::to_value(state).map_err(|e| failed("a state that JSON can hold", &e))?;
        let mut bytes = Vec::new();
        ciborium::into_writer(state, &mut bytes)
            .map_err(|e| failed("a state that CBOR can hold", &e))?;
        Ok(Self {
            json: shown,
            cbor: bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        })
    }

    /// As JSON, for people.
    pub(in crate::checkpoint) fn json(&self) -> &Value {
        &self.json
    }

    pub(in crate::checkpoint) fn read<S: DeserializeOwned>(&self, folder: &Path) -> Result<S> {
        let wanted = "a state of the type this program loads";
        let digits = self.cbor.as_bytes().as_chunks::<2>().0;
        let byte = |pair: &[u8; 2]| {
            let text = std::str::from_utf8(pair).ok()?;
            u8::from_str_radix(text, 16).ok()
        };
        let bytes: Option<Vec<u8>> = digits.iter().map(byte).collect();
        let bytes = bytes.ok_or_else(|| Error::file(folder, wanted, "no hexadecimal digits"))?;
        ciborium::from_reader(bytes.as_slice()).map_err(|e| Error::file(folder, wanted, e))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn again<S: Serialize + DeserializeOwned>(state: &S) -> S {
        let saved = UserState::of(state, Path::new("saves")).unwrap();
        let text = serde_json::to_string(&saved).unwrap();
        let found: UserState = serde_json::from_str(&text).unwrap();
        found.read(Path::new("saves")).unwrap()
    }

    proptest! {
        #[test]
        fn numbers_come_back_bit_for_bit(bits in any::<u64>(), whole in any::<i64>()) {
            let number = f64::from_bits(bits);
            let (found, same) = again(&(number, whole));
            prop_assert_eq!(same, whole);
            if number.is_nan() {
                prop_assert!(found.is_nan());
            } else {
                prop_assert_eq!(found.to_bits(), bits);
            }
        }
    }

    #[test]
    fn the_best_loss_so_far_may_be_infinite() {
        let state = (f64::INFINITY, "best".to_string(), None::<usize>);
        assert_eq!(again(&state), state);
        let saved = UserState::of(&1usize, Path::new("saves")).unwrap();
        let error = saved.read::<String>(Path::new("saves")).unwrap_err();
        assert!(error.to_string().starts_with("saves: expected a state"));
    }
}
