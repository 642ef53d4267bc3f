//! Text from the network, made safe for a message or a log.
//!
//! Any program that reaches a port chooses what it sends there. What is shown of it is short, and has no
//! character that controls a terminal: no colours, no cursor movement over earlier lines, and no lines that
//! look as if another program had written them.

use crate::error::Error;
use serde_json::Value;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Characters of a text that are shown.
const MAX_LINE_CHARS: usize = 200;
/// Characters of a text that is one word of a line.
const MAX_WORD_CHARS: usize = 64;
/// Characters of one text in the error of a rank: a panic may print a tensor.
const MAX_ERROR_CHARS: usize = 16 << 10;
/// Warnings about callers that were turned away, in each [`WARNING_WINDOW`].
const MAX_WARNINGS: u32 = 5;
const WARNING_WINDOW: Duration = Duration::from_secs(60);

/// A text on one line, of at most [`MAX_LINE_CHARS`] characters and a note of how many there were.
pub(crate) fn line(text: &str) -> String {
    escaped(text, MAX_LINE_CHARS, &[])
}

/// A text that is one word of a line.
pub(crate) fn word(text: &str) -> String {
    escaped(text, MAX_WORD_CHARS, &[])
}

/// An error with as much of its texts as a message has room for, on lines of their own.
pub(super) fn shortened(error: &Error) -> Error {
    let short = || {
        let mut value = serde_json::to_value(error).ok()?;
        each_text(&mut value, &|text| {
            escaped(text, MAX_ERROR_CHARS, &['\n', '\t'])
        });
        serde_json::from_value(value).ok()
    };
    // An error that cannot be sent as it is, such as a deviation that is NaN, is sent as text.
    short()
        .unwrap_or_else(|| Error::user(escaped(&error.to_string(), MAX_ERROR_CHARS, &['\n', '\t'])))
}

fn each_text(value: &mut Value, change: &impl Fn(&str) -> String) {
    match value {
        Value::String(text) => *text = change(text),
        Value::Array(all) => all.iter_mut().for_each(|value| each_text(value, change)),
        Value::Object(all) => all.values_mut().for_each(|value| each_text(value, change)),
        _ => {}
    }
}

fn escaped(text: &str, most: usize, kept: &[char]) -> String {
    let mut escaped = String::new();
    for c in text.chars().take(most) {
        if is_control(c) && !kept.contains(&c) {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    if text.chars().nth(most).is_some() {
        escaped += &format!(" ... ({} bytes)", text.len());
    }
    escaped
}

/// Whether a terminal acts on this character instead of showing it.
fn is_control(c: char) -> bool {
    // Besides control characters those that end a line or turn the direction of what follows.
    let turns = ['\u{61c}', '\u{200e}', '\u{200f}', '\u{2028}', '\u{2029}'];
    c.is_control()
        || turns.contains(&c)
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Callers that one listener has turned away, with a limit on the warnings about them: they call as often
/// as they like, and must not fill the log of a run.
#[derive(Debug, Default)]
pub(crate) struct TurnedAway(Mutex<Window>);

#[derive(Debug, Default)]
struct Window {
    since: Option<Instant>,
    warned: u32,
    unwarned: u64,
}

impl TurnedAway {
    /// Warns of one more, unless there were too many warnings in the last minute.
    pub(crate) fn warn(&self, listener: &str, why: impl FnOnce() -> String) {
        if let Some(unwarned) = self.allowed(Instant::now()) {
            let others = match unwarned {
                0 => String::new(),
                n => format!(" (and {n} more before it)"),
            };
            log::warn!("{listener}: turned away {}{others}", why());
        }
    }

    /// Warns once of all that had no warning, at the end.
    pub(crate) fn close(&self, listener: &str) {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if window.unwarned > 0 {
            log::warn!("{listener}: turned away {} more caller(s)", window.unwarned);
            window.unwarned = 0;
        }
    }

    /// If one more warning is allowed now: how many callers had none since the last one.
    fn allowed(&self, now: Instant) -> Option<u64> {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if window
            .since
            .is_none_or(|since| now >= since + WARNING_WINDOW)
        {
            (window.since, window.warned) = (Some(now), 0);
        }
        if window.warned == MAX_WARNINGS {
            window.unwarned += 1;
            return None;
        }
        window.warned += 1;
        Some(std::mem::take(&mut window.unwarned))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn characters_that_control_a_terminal_are_escaped() {
        let text = "up\x1b[1A\r\nerror: \u{9b}31m \u{202e}gnp \u{2028} é 漢 \"x\"";
        let expected = "up\\u{1b}[1A\\r\\nerror: \\u{9b}31m \\u{202e}gnp \\u{2028} é 漢 \"x\"";
        assert_eq!(line(text), expected);
    }

    #[test]
    fn a_long_text_is_cut_and_its_length_is_said() {
        let cut = line(&"é".repeat(1 << 19));
        assert_eq!(cut.chars().filter(|c| *c == 'é').count(), MAX_LINE_CHARS);
        assert!(cut.ends_with(" ... (1048576 bytes)"), "{cut}");
        assert_eq!(
            line(&"x".repeat(MAX_LINE_CHARS)),
            "x".repeat(MAX_LINE_CHARS)
        );
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
            assert!(text.len() < 4 * MAX_ERROR_CHARS, "{} bytes", text.len());
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
        let (mut warned, mut counted) = (0, 0);
        for second in 0..180 {
            for _ in 0..1000 {
                if let Some(unwarned) = away.allowed(start + Duration::from_secs(second)) {
                    warned += 1;
                    counted += 1 + unwarned;
                }
            }
        }
        assert_eq!(warned, 3 * MAX_WARNINGS);
        let unwarned = away.0.lock().map(|window| window.unwarned).unwrap_or(0);
        assert_eq!(counted + unwarned, 180_000);
    }

    proptest! {
        #[test]
        fn no_text_gets_through_as_it_is(text in any::<String>()) {
            prop_assert!(!line(&text).chars().any(is_control));
        }
    }
}
