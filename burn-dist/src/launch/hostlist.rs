//! SLURM's lists of host names, and of how many tasks each host has.
//!
//! A list is read into its ranges and never expanded as a whole, so a short text that stands for
//! a great many names costs nothing but an error.

use crate::error::{self, Error};

/// No list stands for more names than this.
const MOST_HOSTS: u64 = 65_536;
/// As long as a host name can be in the DNS.
const MAX_HOST_NAME: usize = 253;
/// The longest number that surely fits in 64 bits.
const MOST_DIGITS: usize = 18;

/// Host names as SLURM writes them: `n[001-004,007],login1`.
///
/// ```
/// use burn_dist::launch::Hostlist;
///
/// let hosts = Hostlist::parse("n[09-11],login1")?;
/// assert_eq!(hosts.first(), "n09");
/// assert_eq!(hosts.count(), 4);
/// assert!(hosts.names().eq(["n09", "n10", "n11", "login1"]));
/// # Ok::<(), burn_dist::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hostlist {
    items: Vec<Item>,
}

/// One entry of a list: every combination of its numbers is a name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Item {
    parts: Vec<Part>,
    count: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Numbers { ranges: Vec<Range>, count: u64 },
}

/// Numbers that follow each other, padded with zeros to a width.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Range {
    first: u64,
    count: u64,
    width: usize,
}

impl Hostlist {
    /// Reads a list.
    ///
    /// # Errors
    /// [`Error::Config`] if brackets, numbers or names are wrong, or if there would be more than
    /// 65536 names.
    pub fn parse(list: &str) -> error::Result<Self> {
        Self::read(list).map_err(|problem| {
            let expected = "host names such as n[001-004,007],login1";
            Error::config("host list", expected, problem)
        })
    }

    /// Like [`Hostlist::parse`], for a caller who can say where the list is from.
    pub(super) fn read(list: &str) -> Result<Self, String> {
        let mut items = Vec::new();
        let mut count = 0;
        for text in split_items(list.trim())? {
            let item = Item::read(text)?;
            count += item.count;
            if count > MOST_HOSTS {
                return Err(format!("more than {MOST_HOSTS} names"));
            }
            items.push(item);
        }
        Ok(Self { items })
    }

    /// The first name.
    pub fn first(&self) -> String {
        self.names().next().unwrap_or_default()
    }

    /// Number of names.
    pub fn count(&self) -> usize {
        self.items.iter().map(|item| item.count as usize).sum()
    }

    /// All names in order; the last bracket of a name counts fastest.
    pub fn names(&self) -> impl Iterator<Item = String> + '_ {
        let items = self.items.iter();
        items.flat_map(|item| (0..item.count).map(|index| item.name(index)))
    }
}

impl Item {
    fn read(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut count = 1u64;
        let mut length = 0;
        let mut rest = text;
        while !rest.is_empty() {
            let (part, after) = match rest.strip_prefix('[') {
                Some(inner) => {
                    let (inner, after) = inner.split_once(']').ok_or("a [ without its ]")?;
                    (Part::numbers(inner)?, after)
                }
                None => {
                    let (text, after) = rest.split_at(rest.find('[').unwrap_or(rest.len()));
                    (Part::text(text)?, after)
                }
            };
            length += part.longest();
            if length > MAX_HOST_NAME {
                return Err(format!("a name of more than {MAX_HOST_NAME} bytes"));
            }
            count = count.saturating_mul(part.count());
            if count > MOST_HOSTS {
                return Err(format!("more than {MOST_HOSTS} names"));
            }
            parts.push(part);
            rest = after;
        }
        if parts.is_empty() {
            return Err("an empty name".into());
        }
        Ok(Self { parts, count })
    }

    fn name(&self, mut index: u64) -> String {
        let mut name = Vec::new();
        for part in self.parts.iter().rev() {
            name.push(match part {
                Part::Text(text) => text.clone(),
                Part::Numbers { ranges, count } => {
                    let mut at = index % count;
                    index /= count;
                    let mut number = String::new();
                    for range in ranges {
                        if at < range.count {
                            number = format!("{:0width$}", range.first + at, width = range.width);
                            break;
                        }
                        at -= range.count;
                    }
                    number
                }
            });
        }
        name.into_iter().rev().collect()
    }
}

impl Part {
    fn text(text: &str) -> Result<Self, String> {
        match text
            .chars()
            .find(|c| *c == ']' || c.is_whitespace() || c.is_control())
        {
            Some(wrong) => Err(format!("{wrong:?} in a name")),
            None => Ok(Self::Text(text.into())),
        }
    }

    fn numbers(inner: &str) -> Result<Self, String> {
        let mut ranges = Vec::new();
        let mut count = 0;
        for text in inner.split(',') {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let range = Range {
                first: number(first)?,
                count: number(last)?
                    .checked_sub(number(first)?)
                    .ok_or_else(|| format!("the range {text} runs backwards"))?
                    + 1,
                width: first.len(),
            };
            count += range.count.min(MOST_HOSTS + 1);
            // Also bounds how many ranges are kept.
            if count > MOST_HOSTS {
                return Err(format!("more than {MOST_HOSTS} names"));
            }
            ranges.push(range);
        }
        Ok(Self::Numbers { ranges, count })
    }

    fn count(&self) -> u64 {
        match self {
            Self::Text(_) => 1,
            Self::Numbers { count, .. } => *count,
        }
    }

    fn longest(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Numbers { ranges, .. } => {
                let digits = |r: &Range| (r.first + r.count - 1).to_string().len().max(r.width);
                ranges.iter().map(digits).max().unwrap_or(0)
            }
        }
    }
}

fn number(text: &str) -> Result<u64, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(number) if digits && text.len() <= MOST_DIGITS => Ok(number),
        _ => Err(format!(
            "{:?} where a number of at most {MOST_DIGITS} digits belongs",
            text.chars().take(30).collect::<String>()
        )),
    }
}

/// Splits at the commas outside brackets.
fn split_items(list: &str) -> Result<Vec<&str>, String> {
    let mut items = Vec::new();
    let mut start = 0;
    let mut inside = false;
    for (at, c) in list.char_indices() {
        match c {
            '[' if inside => return Err("a [ within brackets".into()),
            '[' => inside = true,
            ']' if !inside => return Err("a ] without its [".into()),
            ']' => inside = false,
            ',' if !inside => {
                items.push(&list[start..at]);
                start = at + 1;
            }
            _ => {}
        }
        if items.len() as u64 > MOST_HOSTS {
            return Err(format!("more than {MOST_HOSTS} names"));
        }
    }
    items.push(&list[start..]);
    Ok(items)
}

/// Number of tasks on one host, from a list such as `2(x3),1`: three hosts with 2, one with 1.
pub(crate) fn tasks_on(host: usize, list: &str) -> Result<usize, String> {
    let mut before = 0usize;
    for text in list.trim().split(',') {
        let (tasks, hosts) = match text.split_once("(x") {
            Some((tasks, rest)) => {
                let hosts = rest
                    .strip_suffix(')')
                    .ok_or_else(|| "a ( without its )".to_string())?;
                (number(tasks)?, number(hosts)?)
            }
            None => (number(text)?, 1),
        };
        before = before.saturating_add(usize::try_from(hosts).unwrap_or(usize::MAX));
        if host < before {
            return usize::try_from(tasks).map_err(|_| format!("{tasks} tasks on one host"));
        }
    }
    Err(format!(
        "only {before} hosts, while this is host {host} (from 0)"
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(list: &str) -> Vec<String> {
        Hostlist::parse(list).unwrap().names().collect()
    }

    #[test]
    fn lists_of_slurm() {
        assert_eq!(
            names("n[001-003,007],login1"),
            ["n001", "n002", "n003", "n007", "login1"]
        );
        assert_eq!(names("a[1-2]b[3-4]"), ["a1b3", "a1b4", "a2b3", "a2b4"]);
        assert_eq!(names("n[9-11]"), ["n9", "n10", "n11"]);
        assert_eq!(
            names("gpu-a100-[08-10].cluster"),
            [
                "gpu-a100-08.cluster",
                "gpu-a100-09.cluster",
                "gpu-a100-10.cluster"
            ]
        );
        assert_eq!(names("[5-6]"), ["5", "6"]);
        assert_eq!(names("n1\n"), ["n1"]);
        assert_eq!(Hostlist::parse("n[0-65535]").unwrap().count(), 65_536);
    }

    #[test]
    fn what_is_not_a_list() {
        for (list, problem) in [
            ("", "an empty name"),
            ("a,,b", "an empty name"),
            ("n[1", "without its ]"),
            ("n1]", "without its ["),
            ("n[[1]]", "within brackets"),
            ("n[]", "\"\" where a number"),
            ("n[3-1]", "backwards"),
            ("n[1-]", "\"\" where a number"),
            ("n[a]", "\"a\" where a number"),
            ("n[+1]", "\"+1\" where a number"),
            ("n 1", "' ' in a name"),
            ("n[1-65537]", "more than 65536"),
            ("n[1-300]m[1-300]", "more than 65536"),
            ("n[1-40000],m[1-40000]", "more than 65536"),
            ("n[0-999999999999999999,1]", "more than 65536"),
            ("n[0000000000000000001]", "at most 18 digits"),
        ] {
            let error = Hostlist::parse(list).unwrap_err().to_string();
            assert!(error.contains(problem), "{list}: {error}");
        }
        let long = format!("{}[1-9]", "n".repeat(253));
        assert!(Hostlist::parse(&long).is_err());
        assert!(Hostlist::parse(&"n,".repeat(70_000)).is_err());
    }

    #[test]
    fn tasks_per_host() {
        assert_eq!(
            [0, 1, 2, 3].map(|host| tasks_on(host, "2(x3),1").unwrap()),
            [2, 2, 2, 1]
        );
        assert_eq!(tasks_on(0, "8"), Ok(8));
        assert!(tasks_on(4, "2(x3),1").unwrap_err().contains("only 4 hosts"));
        for list in [
            "",
            "2(x",
            "2(x3",
            "x3",
            "2(3)",
            "-1",
            "2(x999999999999999999999)",
        ] {
            assert!(tasks_on(0, list).is_err(), "{list}");
        }
    }

    /// First numbers, how many follow each, and widths.
    fn ranges() -> impl Strategy<Value = Vec<(u64, u64, usize)>> {
        prop::collection::vec((0u64..500, 0u64..20, 1usize..5), 0..4)
    }

    proptest! {
        #[test]
        fn a_list_stands_for_what_it_was_written_from(
            items in prop::collection::vec(("[a-z]{1,5}", ranges(), "[a-z.-]{0,3}"), 1..5)
        ) {
            let mut expected = Vec::new();
            let mut written = Vec::new();
            for (before, ranges, after) in items {
                let mut texts = Vec::new();
                for (first, more, width) in &ranges {
                    let first_text = format!("{first:0width$}");
                    texts.push(format!("{first_text}-{}", first + more));
                    let width = first_text.len();
                    let numbers = (*first..=first + more).map(|n| format!("{n:0width$}"));
                    expected.extend(numbers.map(|n| format!("{before}{n}{after}")));
                }
                if ranges.is_empty() {
                    expected.push(format!("{before}{after}"));
                    written.push(format!("{before}{after}"));
                } else {
                    written.push(format!("{before}[{}]{after}", texts.join(",")));
                }
            }
            let list = Hostlist::parse(&written.join(",")).unwrap();
            prop_assert_eq!(list.first(), expected[0].clone());
            prop_assert_eq!(list.count(), expected.len());
            prop_assert_eq!(list.names().collect::<Vec<_>>(), expected);
        }

        #[test]
        fn no_text_breaks_it(list in "[a-c0-9\\[\\],x()-]{0,60}", any in ".{0,60}", host in 0usize..9) {
            for text in [&list, &any] {
                if let Ok(hosts) = Hostlist::parse(text) {
                    prop_assert!(hosts.count() <= 65_536);
                    prop_assert_eq!(hosts.names().take(99).count(), hosts.count().min(99));
                }
                let _ = tasks_on(host, text);
            }
        }
    }
}
