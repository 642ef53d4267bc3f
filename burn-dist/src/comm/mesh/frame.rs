//! The frames that go over a link: a header with the kind and length of the payload, then the payload
//! or, between processes that read each other's memory, its address.
//!
//! Everything that a peer sends is checked before it is used: another program may send to the port, and a
//! network may damage data.

use super::super::{Call, Dtype, Label, Op, Reduce};
use std::borrow::Cow;

/// The largest payload of a data frame: small enough to stay in a cache between receiving and reducing.
pub(super) const BLOCK: usize = 128 << 10;
/// The largest block that a peer reads where it is: large, because its reading is one call of the system.
pub(super) const LENT_BLOCK: usize = 16 << 20;
/// The largest payload of a call frame.
const MAX_CALL: usize = 1 << 20;
const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"bdF1");

/// Bytes of a header.
pub(super) const HEADER: usize = 28;
/// Bytes of an address.
pub(super) const ADDRESS: usize = 8;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The call of a collective.
    Call,
    /// A block of its data.
    Data,
    /// No payload: the sender will send no more.
    Bye,
}

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(super) kind: Kind,
    /// Whether the payload stays in the sender's memory, and its address follows instead.
    pub(super) lent: bool,
    /// Bytes of the payload.
    pub(super) len: usize,
    /// The sequence number of the collective in its group.
    pub(super) sequence: u64,
    /// The payload's checksum; zero on links that do not check data.
    pub(super) crc: u32,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..4].copy_from_slice(&FRAME_MAGIC.to_le_bytes());
        bytes[4] = match self.kind {
            Kind::Call => 1,
            Kind::Data => 2,
            Kind::Bye => 3,
        };
        bytes[5] = self.lent.into();
        bytes[8..12].copy_from_slice(&(self.len as u32).to_le_bytes());
        bytes[12..20].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.crc.to_le_bytes());
        let own = crc32fast::hash(&bytes[..24]);
        bytes[24..].copy_from_slice(&own.to_le_bytes());
        bytes
    }

    /// Decodes a header, or returns what is wrong with it.
    pub(crate) fn decode(bytes: &[u8; HEADER]) -> Result<Self, String> {
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| bytes[at + i]));
        if word(0) != FRAME_MAGIC {
            return Err(format!("a frame starts with {:08x}", word(0)));
        }
        if word(24) != crc32fast::hash(&bytes[..24]) {
            return Err("the checksum of a frame's header is wrong".into());
        }
        let (kind, longest) = match bytes[4] {
            1 => (Kind::Call, MAX_CALL),
            2 => (Kind::Data, BLOCK),
            3 => (Kind::Bye, 0),
            other => return Err(format!("a frame is of the unknown kind {other}")),
        };
        let (lent, longest) = match (bytes[5], kind) {
            (0, _) => (false, longest),
            (1, Kind::Data) => (true, LENT_BLOCK),
            (other, _) => return Err(format!("a frame {kind:?} with the unknown mark {other}")),
        };
        let len = word(8) as usize;
        if len > longest {
            return Err(format!("a frame of {len} bytes, at most {longest}"));
        }
        Ok(Self {
            kind,
            lent,
            len,
            sequence: u64::from(word(12)) | u64::from(word(16)) << 32,
            crc: word(20),
        })
    }
}

/// The frame that announces a collective.
pub(super) fn announce(call: &Call) -> Vec<u8> {
    let body = encode(call);
    let header = Header {
        kind: Kind::Call,
        lent: false,
        len: body.len(),
        sequence: call.sequence,
        crc: crc32fast::hash(&body),
    };
    let mut frame = header.encode().to_vec();
    frame.extend(body);
    frame
}

/// Operations, types and reductions by their number on the wire.
const OPS: [Op; 7] = [
    Op::AllGather,
    Op::ReduceScatter,
    Op::AllReduce,
    Op::Broadcast,
    Op::Barrier,
    Op::Split,
    Op::AllToAll,
];
const DTYPES: [Dtype; 10] = [
    Dtype::F64,
    Dtype::F32,
    Dtype::F16,
    Dtype::Bf16,
    Dtype::I64,
    Dtype::I32,
    Dtype::I8,
    Dtype::U64,
    Dtype::U32,
    Dtype::U8,
];
const REDUCES: [Option<Reduce>; 4] = [
    None,
    Some(Reduce::Sum),
    Some(Reduce::Mean),
    Some(Reduce::Max),
];

fn encode(call: &Call) -> Vec<u8> {
    let code = |at: Option<usize>| at.unwrap_or(0) as u8;
    let mut bytes = vec![
        code(OPS.iter().position(|op| *op == call.op)),
        code(DTYPES.iter().position(|d| *d == call.dtype)),
        code(REDUCES.iter().position(|r| *r == call.reduce)),
    ];
    let root = call.root.map_or(u64::MAX, |root| root as u64);
    for number in [call.sequence, call.len as u64, root, call.step] {
        bytes.extend(number.to_le_bytes());
    }
    let (unit, detail) = (shortened(&call.label.unit), shortened(&call.label.detail));
    let (unit, detail) = (unit.as_bytes(), detail.as_bytes());
    bytes.extend((unit.len() as u32).to_le_bytes());
    bytes.extend(unit);
    bytes.extend(detail);
    bytes
}

/// The text, or the length and checksum of one that is too long for a frame.
fn shortened(text: &str) -> Cow<'_, str> {
    if text.len() <= MAX_CALL / 4 {
        return text.into();
    }
    let crc = crc32fast::hash(text.as_bytes());
    format!("{} bytes with {crc:08x}", text.len()).into()
}

/// Decodes the payload that [`announce`] encodes, or returns what is wrong with it.
pub(crate) fn decode(bytes: &[u8]) -> Result<Call, String> {
    let mut rest = bytes;
    let mut take = |n: usize| {
        let (first, others) = rest.split_at_checked(n)?;
        rest = others;
        Some(first)
    };
    let short = || "the description of a collective is too short".to_owned();
    let codes = take(3).ok_or_else(short)?;
    let mut numbers = [0; 4];
    for number in &mut numbers {
        let bytes = take(8).ok_or_else(short)?;
        *number = u64::from_le_bytes(bytes.try_into().map_err(|_| short())?);
    }
    let [sequence, len, root, step] = numbers;
    let length = take(4).ok_or_else(short)?;
    let length = u32::from_le_bytes(length.try_into().map_err(|_| short())?);
    let unit = take(length as usize).ok_or_else(short)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let unknown = || "the description of a collective holds an unknown code".to_owned();
    Ok(Call {
        sequence,
        op: *OPS.get(codes[0] as usize).ok_or_else(unknown)?,
        label: Label::new(text(unit)).with_detail(text(rest)),
        dtype: *DTYPES.get(codes[1] as usize).ok_or_else(unknown)?,
        len: usize::try_from(len).map_err(|_| unknown())?,
        reduce: *REDUCES.get(codes[2] as usize).ok_or_else(unknown)?,
        root: (root != u64::MAX).then_some(root as usize),
        step,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn calls() -> impl Strategy<Value = Call> {
        let codes = (0..OPS.len(), 0..DTYPES.len(), 0..REDUCES.len());
        let numbers = (
            any::<u64>(),
            any::<u32>(),
            any::<Option<u32>>(),
            any::<u64>(),
        );
        (codes, numbers, ".{0,40}", ".{0,200}").prop_map(|(codes, numbers, unit, detail)| Call {
            sequence: numbers.0,
            op: OPS[codes.0],
            label: Label::new(unit).with_detail(detail),
            dtype: DTYPES[codes.1],
            len: numbers.1 as usize,
            reduce: REDUCES[codes.2],
            root: numbers.2.map(|root| root as usize),
            step: numbers.3,
        })
    }

    proptest! {
        #[test]
        fn a_call_survives_the_wire(call in calls()) {
            let frame = announce(&call);
            let header = Header::decode(frame[..HEADER].try_into().unwrap()).unwrap();
            prop_assert_eq!((header.kind, header.len), (Kind::Call, frame.len() - HEADER));
            let back = decode(&frame[HEADER..]).unwrap();
            prop_assert_eq!(back.step, call.step);
            prop_assert_eq!(back, call);
        }

        #[test]
        fn one_flipped_bit_of_a_header_is_noticed(call in calls(), bit in 0..HEADER * 8) {
            let mut frame = announce(&call);
            frame[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Header::decode(frame[..HEADER].try_into().unwrap()).is_err());
        }

        #[test]
        fn rubbish_is_refused_or_read_but_never_panics(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            header in any::<[u8; HEADER]>(),
        ) {
            let _ = decode(&bytes);
            prop_assert!(Header::decode(&header).is_err());
        }
    }

    #[test]
    fn a_description_of_any_length_fits_a_frame() {
        let mut call = decode(&announce_of("x")[HEADER..]).unwrap();
        call.label = call.label.with_detail("y".repeat(3 << 20));
        let frame = announce(&call);
        assert!(Header::decode(frame[..HEADER].try_into().unwrap()).is_ok());
        assert!(
            decode(&frame[HEADER..])
                .unwrap()
                .label
                .detail
                .starts_with("3145728 bytes with ")
        );
    }

    fn announce_of(unit: &str) -> Vec<u8> {
        announce(&Call::new(Op::Barrier, &unit.into(), Dtype::U8, 0))
    }
}
