//! Bytes that are on their way over a link.

use super::bucket::Moment;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};

/// Bytes that are on their way over a link, in the order in which they arrive.
#[derive(Debug, Default)]
pub(super) struct DelayLine {
    pieces: VecDeque<Piece>,
    /// Bytes of all pieces, delivered ones of the first included.
    bytes: usize,
}

#[derive(Debug)]
struct Piece {
    arrival: Moment,
    bytes: Vec<u8>,
    /// How many of them were delivered.
    delivered: usize,
}

impl DelayLine {
    pub(super) fn push(&mut self, bytes: Vec<u8>, arrival: Moment) {
        self.bytes += bytes.len();
        self.pieces.push_back(Piece {
            arrival,
            bytes,
            delivered: 0,
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Bytes on their way.
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// When the next bytes arrive.
    pub(super) fn next_arrival(&self) -> Option<Moment> {
        self.pieces.front().map(|piece| piece.arrival)
    }

    /// Delivers what has arrived by now; returns whether `to` takes no more for the moment.
    pub(super) fn deliver(&mut self, now: Moment, mut to: impl Write) -> io::Result<bool> {
        while let Some(piece) = self.pieces.front_mut().filter(|piece| piece.arrival <= now) {
            match to.write(&piece.bytes[piece.delivered..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => piece.delivered += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
            if piece.delivered == piece.bytes.len() {
                self.bytes -= piece.bytes.len();
                self.pieces.pop_front();
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Takes so many bytes before it would block.
    struct Full<'a>(&'a mut Vec<u8>, usize);

    impl Write for Full<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let n = bytes.len().min(self.1 - self.0.len());
            if n == 0 {
                return Err(ErrorKind::WouldBlock.into());
            }
            self.0.extend(&bytes[..n]);
            Ok(n)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn bytes_come_out_in_order_and_not_before_their_time() {
        let start = Moment::now();
        let at = |ms| start.after(Duration::from_millis(ms));
        let mut line = DelayLine::default();
        line.push(vec![1, 2, 3], at(10));
        line.push(vec![4], at(20));
        let mut out = Vec::new();
        assert!(!line.deliver(at(9), &mut out).unwrap());
        assert_eq!((out.len(), line.len()), (0, 4));
        assert_eq!(line.next_arrival(), Some(at(10)));
        assert!(
            line.deliver(at(10), Full(&mut out, 2)).unwrap(),
            "it is full"
        );
        assert_eq!(out, [1, 2]);
        assert!(!line.deliver(at(10), &mut out).unwrap());
        assert_eq!((out.as_slice(), line.len()), (&[1, 2, 3][..], 1));
        assert!(!line.deliver(at(99), &mut out).unwrap());
        assert_eq!(out, [1, 2, 3, 4]);
        assert!(line.is_empty() && line.next_arrival().is_none());
    }
}
