//! News texts that are generated instead of downloaded, so that every example and test runs without files.
//!
//! A model learns them in a minute, but not from single words. A text has one clause of its class and one
//! of another class, which "while", "just as" and the like introduce, before or after it. So each word occurs in
//! texts of every class. Three titles in four repeat the first clause; under the others, only the structure of
//! the sentence tells which of its clauses is the class.
//!
//! The words are chosen with integers alone, so the texts are the same on every platform.

use burn_dist::data::{Dataset, Stream};
use burn_dist::{Error, Result};

use super::Text;
use super::words::{ASIDES, CIRCUMSTANCES, HEADLINES, SOURCES, TOPICS};

const CLASSES: [&str; 4] = ["World", "Sports", "Business", "Sci/Tech"];
/// The number of the first test text, above those of all training sets.
const FIRST_TEST: u64 = 1 << 63;

/// Generated news texts of four classes, computed from a seed and the text's number.
///
/// Labels cycle through the classes, so every four texts hold one of each. Nothing is kept in memory; a text costs
/// about 1 µs.
///
/// # Example
///
/// ```
/// use burn_dist::data::Dataset;
/// use burn_dist_models::data::text::Newswire;
///
/// let (train, test) = (Newswire::train(42, 2048), Newswire::test(42, 512));
/// assert_eq!(train.get(6)?.label, 2);
/// assert_eq!(train.get(6)?, train.get(6)?);
/// assert_ne!(train.get(6)?, test.get(6)?);
/// # Ok::<(), burn_dist::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Newswire {
    seed: u64,
    first: u64,
    len: usize,
}

impl Newswire {
    /// `len` texts to train on.
    #[must_use]
    pub fn train(seed: u64, len: usize) -> Self {
        let first = 0;
        Self { seed, first, len }
    }

    /// `len` texts to test on, drawn independently of any training set.
    #[must_use]
    pub fn test(seed: u64, len: usize) -> Self {
        let first = FIRST_TEST;
        Self { seed, first, len }
    }

    /// The four classes' names, by label.
    #[must_use]
    pub fn classes() -> &'static [&'static str] {
        &CLASSES
    }
}

impl Dataset for Newswire {
    type Item = Text;

    fn len(&self) -> usize {
        self.len
    }

    fn get(&self, index: usize) -> Result<Text> {
        if index >= self.len {
            return Err(Error::config(
                "text index",
                format!("less than the {} texts there are", self.len),
                index,
            ));
        }
        let label = index % CLASSES.len();
        let number = self.first + index as u64;
        let mut stream = Stream::new(*b"newswire", self.seed, number, 0);
        let other = (label + 1 + stream.below(3) as usize) % CLASSES.len();
        let title = match stream.below(4) {
            0 => pick(&HEADLINES, &mut stream).to_owned(),
            _ => capitalised(&story(label, &mut stream)),
        };
        let source = pick(&SOURCES, &mut stream);
        let main = story(label, &mut stream);
        let when = pick(&CIRCUMSTANCES, &mut stream);
        let aside = pick(&ASIDES, &mut stream);
        let beside = story(other, &mut stream);
        let description = if stream.coin() {
            format!("{source} {main} {when}, {aside} {beside}.")
        } else {
            format!("{source} {aside} {beside}, {main} {when}.")
        };
        Ok(Text {
            title,
            description,
            label: label as u16,
        })
    }
}

/// A clause of a class: an actor and what it does.
fn story(label: usize, stream: &mut Stream) -> String {
    let topic = &TOPICS[label];
    let actor = pick(&topic.actors, stream);
    format!("{actor} {}", pick(&topic.deeds, stream))
}

fn pick<'a>(of: &[&'a str], stream: &mut Stream) -> &'a str {
    of[stream.below(of.len() as u64) as usize]
}

/// `text` with its first letter in upper case; it is ASCII.
fn capitalised(text: &str) -> String {
    let mut text = text.to_owned();
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, HashSet};

    fn texts(data: &Newswire) -> Vec<Text> {
        (0..data.len()).map(|i| data.get(i).unwrap()).collect()
    }

    fn words(text: &Text) -> HashSet<String> {
        let all = format!("{} {}", text.title, text.description).to_lowercase();
        let words = all.split(|c: char| !c.is_alphanumeric());
        words.filter(|w| !w.is_empty()).map(String::from).collect()
    }

    #[test]
    fn no_word_predicts_the_class() {
        let mut classes: BTreeMap<String, [u32; 4]> = BTreeMap::new();
        for text in texts(&Newswire::train(1, 8000)) {
            for word in words(&text) {
                classes.entry(word).or_default()[usize::from(text.label)] += 1;
            }
        }
        assert!(classes.len() > 250, "{}", classes.len());
        for (word, counts) in classes {
            let (all, most) = (counts.iter().sum::<u32>(), counts.iter().max().unwrap());
            assert!(all > 50 && *most * 10 < all * 8, "{word}: {counts:?}");
        }
    }

    /// A naive Bayes classifier, which ignores the order of words.
    #[test]
    fn word_counts_predict_better_than_chance_but_not_well() {
        let mut classes: BTreeMap<String, [f64; 4]> = BTreeMap::new();
        for text in texts(&Newswire::train(1, 4000)) {
            for word in words(&text) {
                classes.entry(word).or_insert([1.0; 4])[usize::from(text.label)] += 1.0;
            }
        }
        let test = texts(&Newswire::test(1, 1000));
        let right = test.iter().filter(|text| {
            let mut scores = [0.0; 4];
            for word in words(text) {
                let counts = classes[&word];
                for (score, count) in scores.iter_mut().zip(counts) {
                    *score += f64::ln(count / counts.iter().sum::<f64>());
                }
            }
            let best = (0..4).max_by(|a, b| scores[*a].total_cmp(&scores[*b]));
            best == Some(usize::from(text.label))
        });
        let right = right.count();
        assert!((600..920).contains(&right), "{right} of 1000");
    }

    #[test]
    fn texts_are_distinct_across_seeds_and_sets() {
        let mut all = texts(&Newswire::train(1, 500));
        all.extend(texts(&Newswire::test(1, 500)));
        all.extend(texts(&Newswire::train(2, 500)));
        let distinct: HashSet<_> = all.iter().map(|t| (&t.title, &t.description)).collect();
        assert_eq!(distinct.len(), 1500);
    }

    #[test]
    fn labels_cycle_through_the_classes() {
        let labels = texts(&Newswire::test(1, 6)).into_iter().map(|t| t.label);
        assert_eq!(labels.collect::<Vec<_>>(), [0, 1, 2, 3, 0, 1]);
        assert_eq!(
            Newswire::train(1, 3).get(3).unwrap_err().to_string(),
            "text index: expected less than the 3 texts there are, found 3"
        );
    }

    /// Accuracies in the documentation and in tests hold for these very texts.
    #[test]
    fn the_texts_have_their_known_checksum() {
        let sum = texts(&Newswire::train(42, 100))
            .iter()
            .flat_map(|text| text.title.bytes().chain(text.description.bytes()))
            .fold(0_u32, |sum, byte| {
                sum.wrapping_mul(31).wrapping_add(byte.into())
            });
        assert_eq!(sum, 1_638_027_204);
    }
}
