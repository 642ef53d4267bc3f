//! The numbers of an optimizer's state, as text from which exactly the same number is read.

use burn_pack::Scalar;

/// A number as text.
pub(in crate::checkpoint) fn scalar_text(scalar: &Scalar) -> String {
    match scalar {
        Scalar::Int(x) => format!("int {x}"),
        Scalar::UInt(x) => format!("uint {x}"),
        Scalar::Float(x) => format!("float {:016x}", x.to_bits()),
        Scalar::Bool(x) => format!("bool {x}"),
    }
}

/// The number of a text.
pub(in crate::checkpoint) fn scalar(text: &str) -> Option<Scalar> {
    let (kind, value) = text.split_once(' ')?;
    match kind {
        "int" => value.parse().ok().map(Scalar::Int),
        "uint" => value.parse().ok().map(Scalar::UInt),
        "float" => u64::from_str_radix(value, 16)
            .ok()
            .map(|b| Scalar::Float(f64::from_bits(b))),
        "bool" => value.parse().ok().map(Scalar::Bool),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_come_back_exactly() {
        for x in [
            Scalar::Int(-3),
            Scalar::UInt(u64::MAX),
            Scalar::Float(0.1 + 0.2),
            Scalar::Bool(true),
        ] {
            assert_eq!(scalar(&scalar_text(&x)), Some(x));
        }
        assert_eq!(scalar("float x"), None);
    }
}
