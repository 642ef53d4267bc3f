//! The name of a parameter in a file, and its orientation there.

use std::fmt;
use std::sync::Arc;

/// A tensor's name in a file, for one parameter of a model.
///
/// ```
/// use burn_dist::weights::Name;
///
/// let name = Name::new("encoder.dense.weight").transposed().or("dense.weight");
/// assert_eq!(name.spellings().collect::<Vec<_>>(), ["encoder.dense.weight", "dense.weight"]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    pub(super) name: String,
    pub(super) transposed: bool,
    pub(super) others: Vec<String>,
}

impl Name {
    /// The name under which the parameter is written, and first looked for.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            transposed: false,
            others: Vec::new(),
        }
    }

    /// The file holds the matrix with rows and columns exchanged: PyTorch's linear weights are
    /// `[outputs, inputs]`, Burn's are `[inputs, outputs]`.
    pub fn transposed(mut self) -> Self {
        self.transposed = true;
        self
    }

    /// Another name to look for if the ones before are not in the file, such as an older spelling.
    pub fn or(mut self, other: impl Into<String>) -> Self {
        self.others.push(other.into());
        self
    }

    /// All names, in the order in which they are looked for.
    pub fn spellings(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.name)
            .chain(&self.others)
            .map(String::as_str)
    }

    /// The shape in the file of a parameter of `shape`.
    pub(super) fn shape_in_file(&self, shape: &[usize]) -> Vec<usize> {
        let mut shape = shape.to_vec();
        if self.transposed && shape.len() == 2 {
            shape.reverse();
        }
        shape
    }
}

/// A function from module path to name; by default the name is the path.
#[derive(Clone)]
pub(super) struct Naming(Arc<NameOf>);

type NameOf = dyn Fn(&str) -> Option<Name> + Send + Sync;

impl Naming {
    pub(super) fn new<N: Into<Name>>(
        rule: impl Fn(&str) -> Option<N> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(move |path| rule(path).map(Into::into)))
    }

    pub(super) fn of(&self, path: &str) -> Option<Name> {
        (self.0)(path)
    }
}

impl Default for Naming {
    fn default() -> Self {
        Self::new(|path| Some(Name::new(path)))
    }
}

impl fmt::Debug for Naming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Naming")
    }
}
