//! The classes of the data and those that a checkpoint's head was trained on.
//!
//! A head whose outputs have another order than the data's classes trains and scores like random weights,
//! without an error. So names are compared.

use burn_dist::{Error, Result, World};

/// The most names that a message lists.
const SHOWN: usize = 20;

/// The classes of a run, by the number that the model gives them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classes {
    /// Their names.
    pub names: Vec<String>,
    /// The number of each class of the data.
    pub numbers: Vec<u16>,
}

/// The relation of the data's classes to the checkpoint's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    /// The checkpoint names none, or the same in the same order.
    Same,
    /// The same names in another order.
    Reordered,
    /// As many, of other names.
    Renamed,
    /// Another number: the head cannot be used.
    NewHead,
}

impl Classes {
    /// The classes of data with the names `data`, for a model whose checkpoint names `checkpoint`; rank 0 logs
    /// what differs.
    ///
    /// The same names in another order are numbered as the checkpoint does; other names of the same
    /// number are used in the order of the data, with a warning; another number of classes is a new head.
    pub fn new(world: &World, data: &[String], checkpoint: Option<&[String]>) -> Self {
        let (relation, classes) = Self::matched(data, checkpoint);
        let theirs = checkpoint.unwrap_or_default();
        match relation {
            _ if !world.is_chief() => {}
            Relation::Same => {}
            Relation::Reordered => log::info!(
                "the classes are numbered as the checkpoint numbers them: {}",
                listed(&classes.names)
            ),
            Relation::Renamed => log::warn!(
                "the checkpoint's classes have other names than the data's, and are used in their \
                 order: {} for {}",
                listed(theirs),
                listed(data)
            ),
            Relation::NewHead => log::info!(
                "the checkpoint has {} classes and the data {}: the head is a new one",
                theirs.len(),
                data.len()
            ),
        }
        classes
    }

    fn matched(data: &[String], checkpoint: Option<&[String]>) -> (Relation, Self) {
        let own = Self {
            names: data.to_vec(),
            numbers: (0..=u16::MAX).take(data.len()).collect(),
        };
        let Some(theirs) = checkpoint else {
            return (Relation::Same, own);
        };
        if theirs.len() != data.len() {
            return (Relation::NewHead, own);
        }
        let number = |name: &String| {
            let mut places = theirs
                .iter()
                .enumerate()
                .filter(|(_, other)| is_same(name, other));
            let (at, _) = places.next()?;
            // A name that occurs twice has no one number.
            u16::try_from(at).ok().filter(|_| places.next().is_none())
        };
        let Some(numbers) = data.iter().map(number).collect::<Option<Vec<u16>>>() else {
            return (Relation::Renamed, own);
        };
        if numbers == own.numbers {
            (Relation::Same, own)
        } else {
            let names = theirs.to_vec();
            (Relation::Reordered, Self { names, numbers })
        }
    }
}

/// Checks that the classes of a save have the names and numbers of those of the run that resumes.
///
/// A pretrained checkpoint decides on the numbers; a run that resumes without it, or with other data, would
/// confuse the classes.
///
/// # Errors
/// [`Error::Config`] with both lists.
///
/// ```
/// use burn_dist_models::run::same_classes;
///
/// let names = |names: [&str; 2]| names.map(String::from).to_vec();
/// assert!(same_classes(names(["Cat", "dog"]), &names(["cat", "dog"])).is_ok());
/// assert!(same_classes(names(["dog", "cat"]), &names(["cat", "dog"])).is_err());
/// ```
pub fn same_classes(saved: Vec<String>, ours: &[String]) -> Result<()> {
    let alike = |(a, b): (&String, &String)| is_same(a, b);
    if saved.len() == ours.len() && saved.iter().zip(ours).all(alike) {
        return Ok(());
    }
    Err(Error::config(
        "classes of the save, by number",
        format!("{}, as in this run", listed(ours)),
        format!(
            "{}: go on with the same --from and --data as the run that saved it",
            listed(&saved)
        ),
    ))
}

/// Whether two names are equal up to the case of letters and blanks around them.
fn is_same(a: &str, b: &str) -> bool {
    a.trim().to_lowercase() == b.trim().to_lowercase()
}

fn listed(names: &[String]) -> String {
    let short = |name: &String| name.chars().take(40).collect::<String>();
    let shown: Vec<_> = names.iter().take(SHOWN).map(short).collect();
    match names.len() {
        all if all > SHOWN => format!("{} and {} more", shown.join(", "), all - SHOWN),
        _ => shown.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        text.split_whitespace().map(String::from).collect()
    }

    fn matched(theirs: &str) -> (Relation, Vec<String>, Vec<u16>) {
        let data = names("World Sports Business");
        let theirs = names(theirs);
        let theirs = (!theirs.is_empty()).then_some(theirs);
        let (relation, classes) = Classes::matched(&data, theirs.as_deref());
        (relation, classes.names, classes.numbers)
    }

    #[test]
    fn the_same_names_in_another_order_are_numbered_as_the_checkpoint_does() {
        let (relation, found, numbers) = matched("sports business world");
        assert_eq!(relation, Relation::Reordered);
        assert_eq!(found, names("sports business world"));
        // The data's World is the checkpoint's third class.
        assert_eq!(numbers, [2, 0, 1]);
    }

    #[test]
    fn classes_keep_their_numbers_in_every_other_case() {
        for (theirs, expected) in [
            ("", Relation::Same),
            ("world sports business", Relation::Same),
            ("world sports science", Relation::Renamed),
            ("world world business", Relation::Renamed),
            ("world sports", Relation::NewHead),
            ("world sports business science", Relation::NewHead),
        ] {
            let (relation, found, numbers) = matched(theirs);
            assert_eq!(relation, expected, "{theirs}");
            assert_eq!(
                (found, numbers),
                (names("World Sports Business"), vec![0, 1, 2])
            );
        }
    }
}
