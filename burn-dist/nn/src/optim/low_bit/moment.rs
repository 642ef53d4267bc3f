//! A moment of a parameter in few bits, which is read and written block by block.

use super::StateType;
use super::levels::Levels;
use half::bf16;
use std::sync::Arc;

const BLOCK: usize = StateType::BLOCK;

/// The bit of a code that says "below 0".
const NEGATIVE: u8 = 0x80;

/// Blocks whose largest number is below this are 0, so that no level of theirs is a subnormal number, of which a few
/// bits only are left.
const LEAST: f32 = 1e-30;

/// Numbers in few bits, shared by copies of the state until one of them is stepped.
#[derive(Debug, Clone)]
pub(super) enum Moment {
    /// As a record has it, until the next step rounds it to its type.
    Wide(Arc<Vec<f32>>),
    Bf16(Arc<Vec<bf16>>),
    Int8(Codes),
}

/// Codes of eight bits, with a scale for each block.
#[derive(Debug, Clone)]
pub(super) struct Codes {
    codes: Arc<Vec<u8>>,
    scales: Arc<Vec<f32>>,
    is_signed: bool,
}

/// Some blocks of a moment, for writing.
#[derive(Debug)]
pub(super) enum Part<'a> {
    Wide(&'a mut [f32]),
    Bf16(&'a mut [bf16]),
    Int8 {
        codes: &'a mut [u8],
        scales: &'a mut [f32],
        is_signed: bool,
    },
}

impl Moment {
    /// So many zeros.
    pub(super) fn zeros(kind: StateType, len: usize, is_signed: bool) -> Self {
        match kind {
            StateType::Bf16 => Self::Bf16(Arc::new(vec![bf16::ZERO; len])),
            StateType::Int8 => Self::Int8(Codes {
                codes: Arc::new(vec![0; len]),
                scales: Arc::new(vec![0.0; len.div_ceil(BLOCK)]),
                is_signed,
            }),
        }
    }

    /// These numbers, each rounded to what the type can say.
    pub(super) fn of(kind: StateType, numbers: &[f32], is_signed: bool) -> Self {
        Self::written(kind, numbers, is_signed, None)
    }

    /// These numbers after a step, rounded as a step does.
    pub(super) fn stepped(kind: StateType, numbers: &[f32], is_signed: bool, time: usize) -> Self {
        Self::written(kind, numbers, is_signed, Some(time))
    }

    fn written(kind: StateType, numbers: &[f32], is_signed: bool, time: Option<usize>) -> Self {
        let mut moment = Self::zeros(kind, numbers.len(), is_signed);
        let blocks = moment.parts(1).into_iter().zip(numbers.chunks(BLOCK));
        blocks.for_each(|(mut block, numbers)| block.write(0, numbers, time));
        moment
    }

    /// The same in a type.
    pub(super) fn into_type(self, kind: StateType, is_signed: bool) -> Self {
        let is_it = match self {
            Self::Wide(_) => false,
            Self::Bf16(_) => kind == StateType::Bf16,
            Self::Int8(_) => kind == StateType::Int8,
        };
        if is_it {
            self
        } else {
            Self::of(kind, &self.numbers(), is_signed)
        }
    }

    /// All numbers, as f32.
    pub(super) fn numbers(&self) -> Vec<f32> {
        match self {
            Self::Wide(numbers) => numbers.to_vec(),
            Self::Bf16(numbers) => numbers.iter().map(|x| x.to_f32()).collect(),
            Self::Int8(Codes {
                codes,
                scales,
                is_signed,
            }) => {
                let blocks = codes.chunks(BLOCK).zip(scales.iter());
                let blocks = blocks.flat_map(|(codes, scale)| {
                    let number = |code: &u8| number(*code, *scale, *is_signed);
                    codes.iter().map(number)
                });
                blocks.collect()
            }
        }
    }

    /// Bytes of its elements.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Wide(numbers) => 4 * numbers.len(),
            Self::Bf16(numbers) => std::mem::size_of_val(numbers.as_slice()),
            Self::Int8(Codes { codes, scales, .. }) => codes.len() + 4 * scales.len(),
        }
    }

    /// Parts of `count` blocks each, in order, for writing.
    pub(super) fn parts(&mut self, count: usize) -> Vec<Part<'_>> {
        match self {
            Self::Wide(numbers) => {
                let numbers = Arc::make_mut(numbers).chunks_mut(count * BLOCK);
                numbers.map(Part::Wide).collect()
            }
            Self::Bf16(numbers) => {
                let numbers = Arc::make_mut(numbers).chunks_mut(count * BLOCK);
                numbers.map(Part::Bf16).collect()
            }
            Self::Int8(Codes {
                codes,
                scales,
                is_signed,
            }) => {
                let is_signed = *is_signed;
                let codes = Arc::make_mut(codes).chunks_mut(count * BLOCK);
                let parts = codes.zip(Arc::make_mut(scales).chunks_mut(count));
                let part = |(codes, scales)| Part::Int8 {
                    codes,
                    scales,
                    is_signed,
                };
                parts.map(part).collect()
            }
        }
    }
}

impl Part<'_> {
    /// Reads the block of this number into as many numbers as it has.
    pub(super) fn read(&self, block: usize, into: &mut [f32]) {
        let from = block * BLOCK;
        match self {
            Self::Wide(numbers) => into.copy_from_slice(&numbers[from..from + into.len()]),
            Self::Bf16(numbers) => {
                let numbers = &numbers[from..from + into.len()];
                into.iter_mut()
                    .zip(numbers)
                    .for_each(|(to, x)| *to = x.to_f32());
            }
            Self::Int8 {
                codes,
                scales,
                is_signed,
            } => {
                let (codes, scale) = (&codes[from..from + into.len()], scales[block]);
                for (to, code) in into.iter_mut().zip(codes) {
                    *to = number(*code, scale, *is_signed);
                }
            }
        }
    }

    /// Writes the block of this number: rounded to the nearest, or in a step, of which the time is given, by chance where
    /// the nearest would lose what a step adds.
    pub(super) fn write(&mut self, block: usize, numbers: &[f32], time: Option<usize>) {
        let from = block * BLOCK;
        match self {
            Self::Wide(all) => all[from..from + numbers.len()].copy_from_slice(numbers),
            Self::Bf16(all) => {
                let all = &mut all[from..from + numbers.len()];
                let pairs = all.iter_mut().zip(numbers);
                match time {
                    None => pairs.for_each(|(to, x)| *to = bf16::from_f32(*x)),
                    Some(time) => pairs.for_each(|(to, x)| *to = by_chance(*x, time as u32)),
                }
            }
            Self::Int8 {
                codes,
                scales,
                is_signed,
            } => {
                let codes = &mut codes[from..from + numbers.len()];
                scales[block] = encode(numbers, codes, *is_signed);
            }
        }
    }
}

/// A number rounded up or down, the likelier the nearer, so that many steps come out right on average.
///
/// bf16 has eight bits: a second moment that keeps 0.999 of itself would stay what it is if it was rounded to the nearest.
/// The chance is drawn from the number's own bits and the time, so that it is the same wherever the element is stored.
#[inline(always)]
fn by_chance(x: f32, time: u32) -> bf16 {
    if !x.is_finite() {
        return bf16::from_f32(x);
    }
    let bits = x.to_bits();
    let mut draw = bits ^ time.wrapping_mul(0x9e37_79b9);
    draw = (draw ^ (draw >> 16)).wrapping_mul(0x85eb_ca6b);
    draw = (draw ^ (draw >> 13)).wrapping_mul(0xc2b2_ae35);
    draw ^= draw >> 16;
    bf16::from_bits((bits.wrapping_add(draw & 0xffff) >> 16) as u16)
}

/// The number of a code.
#[inline(always)]
fn number(code: u8, scale: f32, is_signed: bool) -> f32 {
    if !is_signed {
        return Levels::unsigned().value(code) * scale;
    }
    let size = Levels::signed().value(code & !NEGATIVE) * scale;
    if code & NEGATIVE == 0 { size } else { -size }
}

/// Writes the codes of a block, and returns its scale: the largest magnitude.
///
/// What is no number makes the whole block none, so that nothing hides it.
fn encode(numbers: &[f32], codes: &mut [u8], is_signed: bool) -> f32 {
    let is_finite = numbers.iter().all(|x| x.is_finite());
    let scale = numbers.iter().fold(0f32, |most, x| most.max(x.abs()));
    if !is_finite || scale < LEAST {
        codes.fill(0);
        return if is_finite { 0.0 } else { f32::NAN };
    }
    if is_signed {
        let levels = Levels::signed();
        for (code, x) in codes.iter_mut().zip(numbers) {
            let size = levels.code(x.abs() / scale);
            // 0 has no sign.
            let is_negative = *x < 0.0 && size > 0;
            *code = if is_negative { size | NEGATIVE } else { size };
        }
    } else {
        let levels = Levels::unsigned();
        for (code, x) in codes.iter_mut().zip(numbers) {
            // A step divides by its root: a second moment above 0 does not become 0.
            let least = u8::from(*x > 0.0);
            *code = levels.code(x.max(0.0) / scale).max(least);
        }
    }
    scale
}
