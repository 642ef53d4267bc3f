//! Proof that a connection belongs to this world.

use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::fmt;

/// What all processes of a world know, and no others do. Only proofs of it go over the network.
///
/// It keeps other programs and other jobs out; it does not encrypt.
#[derive(Clone, Default)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// The secret with this text; with an empty one any program can join.
    pub fn new(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }

    /// Proof of knowing the secret, for a nonce that the other side has chosen.
    pub(crate) fn prove(&self, side: &str, nonce: &str) -> String {
        let mac = self.mac(side, nonce).map(Mac::finalize);
        let bytes = mac.map(|mac| mac.into_bytes().to_vec());
        let bytes = bytes.unwrap_or_default();
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Whether `proof` is right; takes as long for a wrong one as for a right one.
    pub(crate) fn check(&self, side: &str, nonce: &str, proof: &str) -> bool {
        let bytes: Option<Vec<u8>> = (0..proof.len() / 2)
            .map(|i| u8::from_str_radix(proof.get(2 * i..2 * i + 2)?, 16).ok())
            .collect();
        match (self.mac(side, nonce), bytes) {
            (Some(mac), Some(bytes)) => mac.verify_slice(&bytes).is_ok(),
            _ => false,
        }
    }

    fn mac(&self, side: &str, nonce: &str) -> Option<Hmac<Sha256>> {
        // HMAC takes keys of every length.
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).ok()?;
        mac.update(side.as_bytes());
        mac.update(b"\0");
        mac.update(nonce.as_bytes());
        Some(mac)
    }
}

/// A nonce: a random number that is used once.
pub(crate) fn nonce() -> String {
    format!("{:032x}", rand::random::<u128>())
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() {
            "Secret(none)"
        } else {
            "Secret(..)"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_secret_side_and_number_prove_anything() {
        let (ours, theirs) = (Secret::new("a"), Secret::new("b"));
        let proof = ours.prove("rank", "17");
        assert!(ours.check("rank", "17", &proof));
        assert!(!theirs.check("rank", "17", &proof));
        assert!(!ours.check("server", "17", &proof));
        assert!(!ours.check("rank", "18", &proof));
        for rubbish in ["", "zz", "é", &proof[..62], &format!("{proof}00")] {
            assert!(!ours.check("rank", "17", rubbish), "{rubbish:?}");
        }
    }

    #[test]
    fn a_secret_is_not_printed() {
        assert_eq!(format!("{:?}", Secret::new("hush")), "Secret(..)");
    }
}
