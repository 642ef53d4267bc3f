//! Calls as bytes: a digest to compare, and a text for when they differ.

use crate::comm::{Call, Dtype, Label, Op, Reduce};
use crate::error::{Error, Result};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Bytes of a digest.
pub(super) const DIGEST: usize = 32;
/// Names and details are cut here before they are sent.
const LONGEST: usize = 4 << 10;

/// A call's fields, in a form that can be sent.
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

/// The call as text.
pub(super) fn of(call: &Call) -> Vec<u8> {
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
    // Numbers, strings and names of variants can always be written.
    serde_json::to_vec(&fields).unwrap_or_default()
}

/// The call that a peer's text tells.
pub(super) fn read(text: &[u8]) -> Result<Call> {
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

/// What is equal on ranks whose calls are, and on no others.
pub(super) fn digest(call: &Call) -> [u8; DIGEST] {
    // Ranks may be a step apart and still agree.
    Sha256::digest(with_step(call, 0)).into()
}

/// A text short enough to send, different where the texts are.
pub(super) fn cut(text: &Arc<str>) -> Arc<str> {
    if text.len() <= LONGEST {
        return text.clone();
    }
    let end = (0..=LONGEST).rev().find(|at| text.is_char_boundary(*at));
    let start = &text[..end.unwrap_or(0)];
    let digest = u64::from_le_bytes(first(Sha256::digest(text.as_bytes()).into()));
    format!("{start}... ({} bytes, digest {digest:016x})", text.len()).into()
}

/// The name of the group that a split of `parent` makes, the same for all of its members.
///
/// It is a digest, so that ranks need not agree on numbers: splits of different groups may run at
/// the same time.
pub(super) fn child(parent: u64, sequence: u64, color: u64) -> u64 {
    let path = [parent, sequence, color].map(u64::to_le_bytes).concat();
    u64::from_le_bytes(first(Sha256::digest(path).into()))
}

fn first(digest: [u8; DIGEST]) -> [u8; 8] {
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
        let read = read(&of(&sent));
        assert_eq!(read.as_ref(), Ok(&sent));
        assert!(read.is_ok_and(|call| call.step == 3));
        assert_eq!(digest(&sent), digest(&call("bias", 4)));
        assert_ne!(digest(&sent), digest(&call("weight", 3)));
    }

    #[test]
    fn long_texts_are_cut_and_stay_different() {
        let long = |end: &str| -> Arc<str> { format!("{}{end}", "\u{e9}".repeat(9000)).into() };
        let (a, b) = (cut(&long("a")), cut(&long("b")));
        assert!(a.len() < LONGEST + 100 && a != b);
    }
}
