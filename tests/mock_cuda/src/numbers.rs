//! Elements of NCCL's types, and their reductions: exact, and rounded once.

/// A type by NCCL's number.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Dtype(pub(crate) u32);

/// Any element.
#[derive(Clone, Copy)]
enum Number {
    Float(f64),
    Integer(i128),
}

impl Dtype {
    pub(crate) fn size(self) -> Option<usize> {
        [1, 1, 4, 4, 8, 8, 2, 4, 8, 2].get(self.0 as usize).copied()
    }

    fn read(self, bytes: &[u8]) -> Number {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        let word = u64::from_le_bytes(word);
        match self.0 {
            0 => Number::Integer(i128::from(word as i8)),
            1 | 3 | 5 => Number::Integer(i128::from(word)),
            2 => Number::Integer(i128::from(word as i32)),
            4 => Number::Integer(i128::from(word as i64)),
            6 => Number::Float(decode(word as u16, 5)),
            7 => Number::Float(f64::from(f32::from_bits(word as u32))),
            9 => Number::Float(decode(word as u16, 8)),
            _ => Number::Float(f64::from_bits(word)),
        }
    }

    fn write(self, number: Number, bytes: &mut [u8]) {
        let word = match (number, self.0) {
            (Number::Integer(x), _) => x as u64,
            (Number::Float(x), 6) => u64::from(encode(x, 5)),
            (Number::Float(x), 7) => u64::from((x as f32).to_bits()),
            (Number::Float(x), 9) => u64::from(encode(x, 8)),
            (Number::Float(x), _) => x.to_bits(),
        };
        bytes.copy_from_slice(&word.to_le_bytes()[..bytes.len()]);
    }

    /// The reduction `op`, by NCCL's number, of one element of each of `parts`, at byte `at`.
    pub(crate) fn reduce(self, op: u32, parts: &[Vec<u8>], at: usize, to: &mut [u8]) {
        let place = at..at + to.len();
        let mut values = parts.iter().map(|part| self.read(&part[place.clone()]));
        let first = values.next().unwrap();
        let all = values.fold(first, |one, other| match (one, other, op) {
            (Number::Float(a), Number::Float(b), 2) => Number::Float(a.max(b)),
            (Number::Float(a), Number::Float(b), _) => Number::Float(a + b),
            (Number::Integer(a), Number::Integer(b), 2) => Number::Integer(a.max(b)),
            (Number::Integer(a), Number::Integer(b), _) => Number::Integer(a + b),
            _ => unreachable!(),
        });
        let all = match (all, op) {
            (Number::Float(sum), 4) => Number::Float(sum / parts.len() as f64),
            (all, _) => all,
        };
        self.write(all, to);
    }
}

/// A float of 16 bits, `exponents` of them for the exponent.
fn decode(bits: u16, exponents: u32) -> f64 {
    let mantissas = 15 - exponents;
    let bias = (1 << (exponents - 1)) - 1;
    let sign = if bits >> 15 == 0 { 1.0 } else { -1.0 };
    let exponent = i32::from(bits >> mantissas) & ((1 << exponents) - 1);
    let mantissa = f64::from(bits & ((1 << mantissas) - 1)) / f64::from(1 << mantissas);
    sign * match exponent {
        0 => mantissa * 2f64.powi(1 - bias),
        e if e == (1 << exponents) - 1 => {
            if mantissa == 0.0 {
                f64::INFINITY
            } else {
                f64::NAN
            }
        }
        e => (1.0 + mantissa) * 2f64.powi(e - bias),
    }
}

/// The nearest float of 16 bits, the even one of two.
fn encode(x: f64, exponents: u32) -> u16 {
    let mantissas = 15 - exponents;
    let bias = (1 << (exponents - 1)) - 1;
    let sign = u16::from(x.is_sign_negative()) << 15;
    let infinity = ((1 << exponents) - 1) << mantissas;
    if x.is_nan() {
        return infinity | 1;
    }
    let exponent = ((x.abs().to_bits() >> 52) as i32 - 1023).clamp(1 - bias, bias + 1);
    let steps = (x.abs() / 2f64.powi(exponent - mantissas as i32)).round_ties_even();
    // The leading one of a normal number carries into the exponent.
    let bits = steps + f64::from((exponent + bias - 1) << mantissas);
    sign | (bits.min(f64::from(infinity)) as u16)
}
