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

/// The name of what no unit claims, whose path is empty.
pub(crate) const ROOT: &str = "root";

/// Whether a pattern names the unit at `path`.
pub(crate) fn names_unit(pattern: &str, path: &str) -> bool {
    if path.is_empty() {
        return pattern == ROOT;
    }
    let path: Vec<String> = path.split('.').map(String::from).collect();
    matches(pattern, &path)
}

#[cfg(test)]
mod tests {
    use super::names_unit;

    #[test]
    fn a_unit_is_named_by_its_whole_path() {
        assert!(names_unit("blocks.*.moe", "blocks.3.moe"));
        assert!(!names_unit("blocks.*", "blocks.3.moe"));
        assert!(names_unit("root", ""));
        assert!(!names_unit("*", ""));
    }
}
