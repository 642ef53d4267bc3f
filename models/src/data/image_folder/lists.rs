//! Parts that are lists of images in common class folders, as food101 has them.

use burn_dist::{Error, Result};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use super::folder::{Entry, ImageFolder};
use super::listing::{ClassFolder, LeftOut, check_count, empty, stem};
use crate::data::files;

/// A list's lines by class, each with its number, counted from 1.
type Lines = BTreeMap<String, Vec<(usize, String)>>;

/// The parts that two lists make of the class folders in `images`.
pub(super) fn open(images: &Path, train: &Path, test: &Path) -> Result<(ImageFolder, ImageFolder)> {
    let (ours, theirs) = (read(train)?, read(test)?);
    let names = |lines: &Lines| -> BTreeSet<String> { lines.keys().cloned().collect() };
    compare_classes(test, &names(&ours), &names(&theirs))?;
    let classes: Vec<String> = ours.keys().cloned().collect();
    check_count(images, &classes, 0)?;
    let mut parts = [(train, ours, Vec::new()), (test, theirs, Vec::new())];
    let mut left_out = LeftOut::default();
    for (label, class) in (0..=u16::MAX).zip(&classes) {
        let ClassFolder { files, others } = ClassFolder::read(images, class)?;
        if files.is_empty() {
            return Err(empty(images, class, &others));
        }
        left_out.add(others);
        let mut by_name: HashMap<&str, (&str, u64)> = HashMap::new();
        for (path, bytes) in &files {
            if let Some(name) = stem(path) {
                by_name.entry(name).or_insert((path, *bytes));
            }
        }
        for (list, lines, entries) in &mut parts {
            for (number, line) in lines.get(class).into_iter().flatten() {
                let Some(&(path, bytes)) = by_name.get(line.as_str()) else {
                    let expected =
                        format!("a line {number} whose image is in {}", images.display());
                    let found = format!("{line}, of which there is no .jpg, .jpeg or .png");
                    return Err(Error::file(list, expected, found));
                };
                entries.push(Entry {
                    path: path.into(),
                    bytes,
                    label,
                });
            }
        }
    }
    let [train, test] = parts.map(|(.., entries)| ImageFolder {
        root: images.into(),
        classes: classes.clone().into(),
        images: entries,
        left_out: left_out.clone(),
    });
    Ok((train, test))
}

/// The classes that a list names, sorted.
pub(super) fn classes(list: &Path) -> Result<Vec<String>> {
    Ok(read(list)?.into_keys().collect())
}

/// Checks that the test part has the classes of the training part.
pub(super) fn compare_classes(
    test: &Path,
    ours: &BTreeSet<String>,
    theirs: &BTreeSet<String>,
) -> Result<()> {
    let only = |one: &BTreeSet<String>, other: &BTreeSet<String>| {
        let names: Vec<_> = one.difference(other).take(10).cloned().collect();
        names.join(", ")
    };
    let (missing, more) = (only(ours, theirs), only(theirs, ours));
    let found = match (missing.is_empty(), more.is_empty()) {
        (true, true) => return Ok(()),
        (false, true) => format!("none of {missing}"),
        (true, false) => format!("also {more}"),
        (false, false) => format!("none of {missing}, and {more} instead"),
    };
    let expected = format!("the {} classes that training has", ours.len());
    Err(Error::file(test, expected, found))
}

fn read(list: &Path) -> Result<Lines> {
    let expected = "a list of images, a line class/name for each";
    let bytes = files::read(list, expected)?;
    let text = String::from_utf8(bytes).map_err(|e| Error::file(list, expected, e))?;
    let mut lines = Lines::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        // A list of a stranger must not name files elsewhere.
        let parts = line.split_once('/').filter(|(class, name)| {
            let plain = |part: &str| !part.is_empty() && !part.starts_with('.');
            plain(class) && plain(name) && !name.contains(['/', '\\'])
        });
        let Some((class, _)) = parts else {
            let found = format!("{line:?} in line {number}");
            return Err(Error::file(list, expected, found));
        };
        let all = lines.entry(class.to_owned()).or_default();
        all.push((number, line.to_owned()));
    }
    if lines.is_empty() {
        return Err(Error::file(list, expected, "no line"));
    }
    Ok(lines)
}
