//! The wire format of calls: a digest to compare, and the full call for the error when digests differ.

use crate::comm::{Call, Dtype, Label, Op, Reduce};
use crate::error::{Error, Result};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Bytes of a digest.
pub(super) const DIGEST_BYTES: usize = 32;
/// Longer units and details are shortened before they are sent.
const MAX_TEXT: usize = 4 << 10;

/// A call's fields, in a form that `serde` can write.
type Fields<'a> = (
    u64,
    Op,
    std::borrow::Cow<'a, str>,
    std::borrow::Cow<'a, str>,
    Dtype,
    usize,
    Option<Reduce>,
    Option<usize>,
    u64,
);

/// The call as JSON.
pub(super) fn encode(call: &Call) -> Vec<u8> {
    with_step(call, call.step)
}

fn with_step(call: &Call, step: u64) -> Vec<u8> {
    let fields: Fields<'_> = (
        call.sequence,
        call.op,
        call.label.unit.as_ref().into(),
        call.label.detail.as_ref().into(),
        call.dtype,
        call.len,
        call.reduce,
        call.root,
        step,
    );
    // JSON can hold all of these types, so this does not fail.
    serde_json::to_vec(&fields).unwrap_or_default()
}

/// The call of a peer from its JSON.
pub(super) fn decode(text: &[u8]) -> Result<Call> {
    let fields = serde_json::from_slice::<Fields<'_>>(text);
    let (sequence, op, unit, detail, dtype, len, reduce, root, step) =
        fields.map_err(|e| Error::config("a peer's call", "one of this version", e))?;
    Ok(Call {
        sequence,
        op,
        label: Label::new(unit.as_ref()).with_detail(detail.as_ref()),
        dtype,
        len,
        reduce,
        root,
        step,
    })
}

/// A digest that is equal exactly for equal calls.
pub(super) fn digest(call: &Call) -> [u8; DIGEST_BYTES] {
    // The step is left out: ranks may be a step apart and still agree.
    Sha256::digest(with_step(call, 0)).into()
}

/// The text, or its start and a digest if it is too long to send.
pub(super) fn shortened(text: &Arc<str>) -> Arc<str> {
    if text.len() <= MAX_TEXT {
        return text.clone();
    }
    let end = (0..=MAX_TEXT).rev().find(|at| text.is_char_boundary(*at));
    let start = &text[..end.unwrap_or(0)];
    let digest = u64::from_le_bytes(first(Sha256::digest(text.as_bytes()).into()));
    format!("{start}... ({} bytes, digest {digest:016x})", text.len()).into()
}

/// The id of the group that a split of `parent` makes, the same for all of its members.
///
/// It is a digest, so that ranks need not agree on numbers: splits of different groups may run at
/// the same time.
pub(super) fn group_id(parent: u64, sequence: u64, color: u64) -> u64 {
    let path = [parent, sequence, color].map(u64::to_le_bytes).concat();
    u64::from_le_bytes(first(Sha256::digest(path).into()))
}

fn first(digest: [u8; DIGEST_BYTES]) -> [u8; 8] {
    std::array::from_fn(|i| digest[i])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(detail: &str, step: u64) -> Call {
        let label = Label::new("unit \"7\"").with_detail(detail);
        let mut call = Call::new(Op::ReduceScatter, &label, Dtype::Bf16, 12);
        call.reduce = Some(Reduce::Mean);
        call.step = step;
        call
    }

    #[test]
    fn a_call_survives_the_way_and_its_digest_ignores_the_step() {
        let sent = call("bias", 3);
        let received = decode(&encode(&sent));
        assert_eq!(received.as_ref(), Ok(&sent));
        assert!(received.is_ok_and(|call| call.step == 3));
        assert_eq!(digest(&sent), digest(&call("bias", 4)));
        assert_ne!(digest(&sent), digest(&call("weight", 3)));
    }

    #[test]
    fn long_texts_are_cut_and_stay_different() {
        let long = |end: &str| -> Arc<str> { format!("{}{end}", "\u{e9}".repeat(9000)).into() };
        let (a, b) = (shortened(&long("a")), shortened(&long("b")));
        assert!(a.len() < MAX_TEXT + 100 && a != b);
    }
}
