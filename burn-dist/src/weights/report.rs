//! The report of a load: the source of every parameter's values, and the tensors that were not used.

use crate::error::bounded;
use crate::plan::readable;
use std::fmt;

/// The result of a load: the parameters with values from the files, and those without.
///
/// The lists are the same on all ranks; `read_bytes` is this rank's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The file or folder of the weights.
    pub source: String,
    /// Paths of the parameters that were read.
    pub applied: Vec<String>,
    /// Paths of the parameters for which the files have nothing: they were drawn anew.
    pub missing: Vec<String>,
    /// Names of the tensors that no parameter asked for.
    pub unused: Vec<String>,
    /// Parameters that were drawn anew because the files have another shape, as was allowed.
    pub mismatched: Vec<Mismatch>,
    /// Bytes of the files that this rank copied.
    pub read_bytes: u64,
}

/// A parameter whose tensor has another shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// The parameter.
    pub path: String,
    /// The tensor.
    pub name: String,
    /// The shape that the parameter would have in the file.
    pub expected: Vec<usize>,
    /// The shape it has there.
    pub found: Vec<usize>,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            name,
            expected,
            found,
        } = self;
        write!(f, "{path} ({name} is {found:?}, not {expected:?})")
    }
}

/// Names of a long list that are printed.
const MAX_NAMES: usize = 6;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.applied.len() + self.missing.len() + self.mismatched.len();
        write!(
            f,
            "{} of {all} parameters from {}, {} read by this rank",
            self.applied.len(),
            self.source,
            readable(usize::try_from(self.read_bytes).unwrap_or(usize::MAX))
        )?;
        list(f, "drawn anew, not in the files", &self.missing)?;
        list(f, "drawn anew, of another shape there", &self.mismatched)?;
        list(f, "in the files, but not in the model", &self.unused)
    }
}

fn list(f: &mut fmt::Formatter<'_>, what: &str, items: &[impl fmt::Display]) -> fmt::Result {
    if items.is_empty() {
        return Ok(());
    }
    write!(f, "\n  {what} ({}): ", items.len())?;
    for (index, item) in items.iter().take(MAX_NAMES).enumerate() {
        let item = bounded(item.to_string());
        write!(f, "{}{item}", if index == 0 { "" } else { ", " })?;
    }
    match items.len().saturating_sub(MAX_NAMES) {
        0 => Ok(()),
        more => write!(f, " and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reads_well_and_does_not_flood() {
        let names = |n: usize| (0..n).map(|i| format!("p{i}")).collect();
        let mut report = Report {
            source: "weights".into(),
            applied: names(70),
            read_bytes: 2_500_000,
            ..Report::default()
        };
        assert_eq!(
            report.to_string(),
            "70 of 70 parameters from weights, 2.5 MB read by this rank"
        );
        report.unused = names(9);
        report.mismatched.push(Mismatch {
            path: "head.weight".into(),
            name: "classifier.weight".into(),
            expected: vec![10, 64],
            found: vec![1000, 64],
        });
        assert_eq!(
            report.to_string(),
            "70 of 71 parameters from weights, 2.5 MB read by this rank\n  drawn anew, of another \
             shape there (1): head.weight (classifier.weight is [1000, 64], not [10, 64])\n  in the \
             files, but not in the model (9): p0, p1, p2, p3, p4, p5 and 3 more"
        );
        // A name is as long as its file says.
        report.unused = vec!["x".repeat(1_000_000)];
        assert!(report.to_string().len() < 3000);
    }
}
