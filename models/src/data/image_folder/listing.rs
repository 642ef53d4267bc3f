//! The class folders of a folder, and the image files in them.

use burn_dist::{Error, Result};
use std::fs;
use std::path::Path;

/// Ends of the names of images, in lower case.
const ENDS: [&str; 3] = ["jpg", "jpeg", "png"];
/// Folders within folders, at most: a link that leads to a folder above would have no end.
const DEPTH: usize = 32;
/// Numbers that a label of 16 bits has.
const MOST_CLASSES: usize = 1 << 16;

/// What lies in a class folder, in the order of the names.
#[derive(Debug, Default)]
pub(super) struct ClassFolder {
    /// Images: the path under the root, and the size in bytes.
    pub(super) files: Vec<(String, u64)>,
    pub(super) others: LeftOut,
}

/// Files that are no images by their name.
#[derive(Debug, Clone, Default)]
pub(super) struct LeftOut {
    count: usize,
    first: Option<String>,
}

impl LeftOut {
    /// Adds those of another folder.
    pub(super) fn add(&mut self, other: Self) {
        self.count += other.count;
        self.first = self.first.take().or(other.first);
    }

    /// A sentence about them, if there are some.
    pub(super) fn message(&self) -> Option<String> {
        let first = self.first.as_ref()?;
        Some(format!(
            "{} file(s) that do not end in .jpg, .jpeg or .png are left out, such as {first}",
            self.count
        ))
    }
}

/// The names of the folders in `root`, sorted: at least two.
pub(super) fn classes(root: &Path) -> Result<Vec<String>> {
    let mut classes = Vec::new();
    let mut files = 0;
    for (name, is_folder) in entries(root)? {
        if is_folder {
            classes.push(name);
        } else {
            files += 1;
        }
    }
    check_count(root, &classes, files)?;
    Ok(classes)
}

/// Checks that there are classes to tell apart, and not more than labels.
pub(super) fn check_count(root: &Path, classes: &[String], files: usize) -> Result<()> {
    let expected = "a folder of images for each of two or more classes";
    let found = match classes {
        [] => format!("no folder, and {files} file(s)"),
        [only] => format!("a single class, {only}"),
        all if all.len() > MOST_CLASSES => format!("{}, of {MOST_CLASSES} at most", all.len()),
        _ => return Ok(()),
    };
    Err(Error::file(root, expected, found))
}

/// The error for a class without an image.
pub(super) fn empty(root: &Path, class: &str, others: &LeftOut) -> Error {
    let found = match others.message() {
        None => "none".into(),
        Some(others) => format!("none: {others}"),
    };
    let expected = "images of the class (.jpg, .jpeg, .png): put them there, or remove the folder";
    Error::file(&root.join(class), expected, found)
}

impl ClassFolder {
    /// Everything in `root/class`, at any depth.
    pub(super) fn read(root: &Path, class: &str) -> Result<Self> {
        let mut found = Self::default();
        found.walk(root, class, DEPTH)?;
        // As torchvision: folder by folder, and within each by name.
        let place = |path: &str| {
            let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
            (folder.to_owned(), file.to_owned())
        };
        found.files.sort_by_cached_key(|(path, _)| place(path));
        Ok(found)
    }

    fn walk(&mut self, root: &Path, under: &str, depth: usize) -> Result<()> {
        let folder = root.join(under);
        if depth == 0 {
            let expected = format!("folders at most {DEPTH} deep: is there a link to one above?");
            return Err(Error::file(&folder, expected, "a deeper one"));
        }
        for (name, is_folder) in entries(&folder)? {
            let path = format!("{under}/{name}");
            if is_folder {
                self.walk(root, &path, depth - 1)?;
            } else if is_image(&name) {
                let full = root.join(&path);
                let size = fs::metadata(&full).map_err(|e| Error::file(&full, "an image", e))?;
                self.files.push((path, size.len()));
            } else {
                self.others.count += 1;
                self.others.first.get_or_insert(path);
            }
        }
        Ok(())
    }
}

/// The name without the end of an image, if it has one.
pub(super) fn stem(name: &str) -> Option<&str> {
    let (stem, end) = name.rsplit_once('.')?;
    let known = ENDS.contains(&end.to_ascii_lowercase().as_str());
    (known && !stem.is_empty()).then_some(stem)
}

fn is_image(name: &str) -> bool {
    stem(name).is_some()
}

/// Names in a folder, sorted, and whether each is a folder, those that begin with a dot left out.
fn entries(folder: &Path) -> Result<Vec<(String, bool)>> {
    let expected = "a folder of images that can be read";
    let wrong = |cause: std::io::Error| match cause.kind() {
        std::io::ErrorKind::NotFound => Error::file(folder, expected, "nothing"),
        _ => Error::file(folder, expected, cause),
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(wrong)? {
        let entry = entry.map_err(wrong)?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            return Err(Error::file(&entry.path(), "a name in UTF-8", "another"));
        };
        if name.starts_with('.') {
            continue;
        }
        let kind = entry.file_type().map_err(wrong)?;
        // A link counts as what it leads to.
        let is_folder = kind.is_dir() || (kind.is_symlink() && entry.path().is_dir());
        names.push((name.to_owned(), is_folder));
    }
    names.sort();
    Ok(names)
}
