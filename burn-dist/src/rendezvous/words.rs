//! Words of others, before they get into a message or a log of ours.
//!
//! Whoever reaches a port chooses what it sends there. What of it is shown is short, and has no
//! character that a terminal obeys: neither colours, nor a cursor that goes up and writes over
//! earlier lines, nor lines that look as if another program had written them.

use crate::error::Error;
use serde_json::Value;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Characters of a stranger's word that are shown.
const SHORT: usize = 200;
/// The same of one that stands within others.
const WORD: usize = 64;
/// Characters of one text in the error of a rank: a panic may print a tensor.
const LONG: usize = 16 << 10;
/// Lines about callers that were turned away, in each [`WINDOW`].
const LINES: u32 = 5;
const WINDOW: Duration = Duration::from_secs(60);

/// A text on one line, of at most [`SHORT`] characters and a note of how many there were.
pub(super) fn line(text: &str) -> String {
    tamed(text, SHORT, &[])
}

/// A text that is one word of a line.
pub(super) fn word(text: &str) -> String {
    tamed(text, WORD, &[])
}

/// An error with as much of its texts as a message has room for, on lines of their own.
pub(super) fn shortened(error: &Error) -> Error {
    let tame = || {
        let mut value = serde_json::to_value(error).ok()?;
        each_text(&mut value, &|text| tamed(text, LONG, &['\n', '\t']));
        serde_json::from_value(value).ok()
    };
    // What cannot be sent as it is, such as a deviation that is no number, is sent in words.
    tame().unwrap_or_else(|| Error::user(tamed(&error.to_string(), LONG, &['\n', '\t'])))
}

fn each_text(value: &mut Value, change: &impl Fn(&str) -> String) {
    match value {
        Value::String(text) => *text = change(text),
        Value::Array(all) => all.iter_mut().for_each(|value| each_text(value, change)),
        Value::Object(all) => all.values_mut().for_each(|value| each_text(value, change)),
        _ => {}
    }
}

fn tamed(text: &str, most: usize, kept: &[char]) -> String {
    let mut tame = String::new();
    for c in text.chars().take(most) {
        match is_obeyed(c) && !kept.contains(&c) {
            true => tame.extend(c.escape_default()),
            false => tame.push(c),
        }
    }
    if text.chars().nth(most).is_some() {
        tame += &format!(" ... ({} bytes)", text.len());
    }
    tame
}

/// Whether a terminal does something for this character instead of showing it.
fn is_obeyed(c: char) -> bool {
    // Besides control characters those that end a line or turn the direction of what follows.
    let turns = ['\u{61c}', '\u{200e}', '\u{200f}', '\u{2028}', '\u{2029}'];
    c.is_control()
        || turns.contains(&c)
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Who was turned away at one door, and how much of it has been said: callers come as often as they
/// like, and must not fill the log of a run.
#[derive(Debug, Default)]
pub(crate) struct TurnedAway(Mutex<Window>);

#[derive(Debug, Default)]
struct Window {
    since: Option<Instant>,
    said: u32,
    unsaid: u64,
}

impl TurnedAway {
    /// Warns of one more, if not too many have been warned of in the last minute.
    pub(crate) fn warn(&self, door: &str, why: impl FnOnce() -> String) {
        if let Some(unsaid) = self.may_speak(Instant::now()) {
            let others = match unsaid {
                0 => String::new(),
                n => format!(" (and {n} more before it)"),
            };
            log::warn!("{door}: turned away {}{others}", why());
        }
    }

    /// Warns of those of which nothing has been said yet, at the end.
    pub(crate) fn close(&self, door: &str) {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if window.unsaid > 0 {
            log::warn!("{door}: turned away {} more caller(s)", window.unsaid);
            window.unsaid = 0;
        }
    }

    /// Whether there is room for a line, and how many had none since the last one.
    fn may_speak(&self, now: Instant) -> Option<u64> {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if window.since.is_none_or(|since| now >= since + WINDOW) {
            (window.since, window.said) = (Some(now), 0);
        }
        if window.said == LINES {
            window.unsaid += 1;
            return None;
        }
        window.said += 1;
        Some(std::mem::take(&mut window.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_terminal_obeys_is_written_out() {
        let text = "up\x1b[1A\r\nerror: \u{9b}31m \u{202e}gnp \u{2028} é 漢 \"x\"";
        let expected = "up\\u{1b}[1A\\r\\nerror: \\u{9b}31m \\u{202e}gnp \\u{2028} é 漢 \"x\"";
        assert_eq!(line(text), expected);
    }

    #[test]
    fn a_long_text_is_cut_and_its_length_is_said() {
        let cut = line(&"é".repeat(1 << 19));
        assert_eq!(cut.chars().filter(|c| *c == 'é').count(), SHORT);
        assert!(cut.ends_with(" ... (1048576 bytes)"), "{cut}");
        assert_eq!(line(&"x".repeat(SHORT)), "x".repeat(SHORT));
    }

    #[test]
    fn every_text_of_an_error_is_made_safe() {
        let long = format!("\x1b[2Jtensor\n{}", "1.0, ".repeat(1 << 18));
        for error in [
            Error::user(&long),
            Error::config(&long, &long, &long),
            Error::PeerFailed {
                peer: 3,
                cause: long.clone(),
            },
        ] {
            let short = shortened(&error);
            assert_eq!(
                std::mem::discriminant(&short),
                std::mem::discriminant(&error)
            );
            let text = short.to_string();
            assert!(text.contains("\\u{1b}[2Jtensor\n1.0, "), "{}", line(&text));
            assert!(text.len() < 4 * LONG, "{} bytes", text.len());
        }
        let plain = Error::PeerFailed {
            peer: 1,
            cause: "two\n\tlines".into(),
        };
        assert_eq!(shortened(&plain), plain);
        let number = Error::Deviation {
            step: 1,
            unit: "u".into(),
            rank: 0,
            phase: "forward".into(),
            what: "x".into(),
            found: f64::NAN,
            allowed: 1e-4,
        };
        assert!(shortened(&number).to_string().contains("unit u deviates"));
    }

    #[test]
    fn callers_get_few_lines_and_are_all_counted() {
        let (away, start) = (TurnedAway::default(), Instant::now());
        let (mut said, mut counted) = (0, 0);
        for second in 0..180 {
            for _ in 0..1000 {
                if let Some(unsaid) = away.may_speak(start + Duration::from_secs(second)) {
                    said += 1;
                    counted += 1 + unsaid;
                }
            }
        }
        assert_eq!(said, 3 * LINES);
        let unsaid = away.0.lock().map(|window| window.unsaid).unwrap_or(0);
        assert_eq!(counted + unsaid, 180_000);
    }

    proptest! {
        #[test]
        fn no_text_gets_through_as_it_is(text in any::<String>()) {
            prop_assert!(!line(&text).chars().any(is_obeyed));
        }
    }
}
