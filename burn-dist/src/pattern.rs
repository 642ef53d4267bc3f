//! Patterns of module paths, in which `*` stands for one name.

/// Whether a pattern names what is at `path`, or a module it lies in.
pub(crate) fn lies_in(pattern: &str, path: &[String]) -> bool {
    (1..=path.len()).any(|depth| matches(pattern, &path[..depth]))
}

/// Whether a pattern names exactly what is at `path`; `*` stands for one name.
pub(crate) fn matches(pattern: &str, path: &[String]) -> bool {
    let names: Vec<&str> = pattern.split('.').collect();
    names.len() == path.len() && names.iter().zip(path).all(|(n, p)| *n == "*" || n == p)
}
