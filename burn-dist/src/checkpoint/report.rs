//! The report of a load: what was applied, what a save lacked, and what of it was not used.

use std::fmt;

/// What was loaded of a save, with the names of parts and tensors.
///
/// The lists are the same on all ranks; `read_bytes` is this rank's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// The folder of the save.
    pub save: String,
    /// Tensors and states that were loaded.
    pub applied: Vec<String>,
    /// Tensors of the models that the save has not, or of another shape: they keep their values, as was allowed.
    pub missing: Vec<String>,
    /// Tensors and parts of the save that nothing has asked for.
    pub unused: Vec<String>,
    /// Bytes of tensors that this rank has read.
    pub read_bytes: u64,
}

/// Names of a long list that are printed.
const MAX_NAMES: usize = 6;

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (applied, save) = (self.applied.len(), &self.save);
        write!(f, "{applied} tensors and states from {save}")?;
        for (what, names) in [
            ("not in the save, left as they are", &self.missing),
            ("in the save, but not used", &self.unused),
        ] {
            if names.is_empty() {
                continue;
            }
            let shown: Vec<&str> = names.iter().take(MAX_NAMES).map(String::as_str).collect();
            write!(f, "\n  {what} ({}): {}", names.len(), shown.join(", "))?;
            let more = names.len().saturating_sub(MAX_NAMES);
            if more > 0 {
                write!(f, " and {more} more")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_short() {
        let report = LoadReport {
            save: "runs/step-00000010".into(),
            applied: vec!["a".into(); 70],
            unused: (0..9).map(|i| format!("p{i}")).collect(),
            ..LoadReport::default()
        };
        assert_eq!(
            report.to_string(),
            "70 tensors and states from runs/step-00000010\n  in the save, but not used (9): p0, p1, \
             p2, p3, p4, p5 and 3 more"
        );
    }
}
