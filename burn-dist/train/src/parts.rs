//! The tensors of an output, on their way from every rank to rank 0.

use burn::tensor::{Bytes, DType, Device, Int, Tensor, TensorData};
use burn_dist::{Error, Result};
use serde::{Deserialize, Serialize};

/// The tensors of one rank's output; see [`RankOutput::take_apart`](crate::RankOutput::take_apart).
#[derive(Debug, Default)]
pub struct Parts {
    parts: Vec<Part>,
    bytes: Vec<u8>,
}

/// What is known of a tensor whose bytes follow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Part {
    Loss { dtype: DType, len: usize },
    Rows { dtype: DType, shape: Vec<usize> },
    Flag(bool),
}

/// What a rank sends.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    share: Share,
    parts: Vec<Part>,
}

/// What the output of one rank counts.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Share {
    /// In the mean of losses.
    pub(crate) weight: f64,
    /// 0 for padding.
    pub(crate) samples: usize,
}

impl Share {
    /// That of `samples` samples whose loss was divided by `weight`.
    ///
    /// # Errors
    /// [`Error::Config`] for a weight that is not a number of things.
    pub(crate) fn new(samples: usize, weight: f64, is_padding: bool) -> Result<Self> {
        if is_padding {
            let (weight, samples) = (0.0, 0);
            return Ok(Self { weight, samples });
        }
        if !weight.is_finite() || weight < 0.0 {
            let expected = "a number that is finite and not negative";
            return Err(Error::config(
                "count that the loss was divided by",
                expected,
                weight,
            ));
        }
        Ok(Self { weight, samples })
    }
}

impl Parts {
    /// The loss: one number, the mean over the samples, or a number for each.
    ///
    /// Of means, rank 0 gets the mean over the samples of all ranks; of numbers, all of them.
    pub fn loss(&mut self, loss: Tensor<1>) {
        let (bytes, shape, dtype) = loss.into_data().into_parts();
        let len = shape.iter().product();
        self.parts.push(Part::Loss { dtype, len });
        self.bytes.extend_from_slice(&bytes);
    }

    /// A tensor of which each row is a sample.
    pub fn rows<const D: usize>(&mut self, rows: Tensor<D>) {
        self.data(rows.into_data());
    }

    /// The same, of integers.
    pub fn int_rows<const D: usize>(&mut self, rows: Tensor<D, Int>) {
        self.data(rows.into_data());
    }

    /// A choice that all ranks make alike, such as whether an optional tensor follows.
    pub fn flag(&mut self, flag: bool) {
        self.parts.push(Part::Flag(flag));
    }

    fn data(&mut self, data: TensorData) {
        let (bytes, shape, dtype) = data.into_parts();
        let shape = shape.to_vec();
        self.parts.push(Part::Rows { dtype, shape });
        self.bytes.extend_from_slice(&bytes);
    }

    /// What is sent: the length of the header, the header, and the bytes of the tensors.
    pub(crate) fn packet(self, share: Share) -> Result<Vec<u8>> {
        let parts = self.parts;
        let header = serde_json::to_vec(&Header { share, parts })
            .map_err(|e| Error::config("output of a step", "tensors of plain numbers", e))?;
        let mut packet = (header.len() as u64).to_le_bytes().to_vec();
        packet.extend(header);
        packet.extend(self.bytes);
        Ok(packet)
    }
}

/// The tensors of all ranks' outputs, one after the other; see [`RankOutput::put_together`](crate::RankOutput::put_together).
#[derive(Debug)]
pub struct JoinedParts {
    ranks: Vec<RankParts>,
    device: Device,
}

/// What came from one rank.
#[derive(Debug)]
struct RankParts {
    rank: usize,
    share: Share,
    parts: std::vec::IntoIter<Part>,
    bytes: Vec<u8>,
    /// Where the bytes of the next part begin.
    at: usize,
}

impl RankParts {
    fn of(rank: usize, packet: &[u8]) -> Result<Self> {
        let damaged = |e: &dyn std::fmt::Display| {
            Error::config(format!("output of rank {rank}"), "a whole packet", e)
        };
        let (len, rest) = packet.split_first_chunk().ok_or_else(|| damaged(&"less"))?;
        let len = u64::from_le_bytes(*len) as usize;
        let header = rest.get(..len).ok_or_else(|| damaged(&"less"))?;
        let Header { share, parts } = serde_json::from_slice(header).map_err(|e| damaged(&e))?;
        Ok(Self {
            rank,
            share,
            parts: parts.into_iter(),
            bytes: rest[len..].to_vec(),
            at: 0,
        })
    }

    /// The next part, and its bytes.
    fn next(&mut self) -> Result<(Part, &[u8])> {
        let what = || format!("output of rank {}", self.rank);
        let part = self.parts.next().ok_or_else(|| {
            let expected = "as many parts as `put_together` asks for (those of `take_apart`)";
            Error::config(what(), expected, "fewer")
        })?;
        let len = match &part {
            Part::Loss { dtype, len } => dtype.size() * len,
            Part::Rows { dtype, shape } => dtype.size() * shape.iter().product::<usize>(),
            Part::Flag(_) => 0,
        };
        let bytes = self
            .bytes
            .get(self.at..self.at + len)
            .ok_or_else(|| Error::config(what(), format!("{len} bytes of a tensor"), "fewer"))?;
        self.at += len;
        Ok((part, bytes))
    }
}

impl JoinedParts {
    /// Those of packets, by rank, without padding.
    ///
    /// # Errors
    /// [`Error::Config`] for a packet that is not whole.
    pub(crate) fn of<'a>(packets: impl Iterator<Item = &'a [u8]>, device: Device) -> Result<Self> {
        let ranks = packets.enumerate();
        let ranks = ranks.map(|(rank, packet)| RankParts::of(rank, packet));
        let mut ranks = ranks.collect::<Result<Vec<_>>>()?;
        ranks.retain(|rank| rank.share.samples > 0);
        Ok(Self { ranks, device })
    }

    /// The samples of all ranks.
    pub(crate) fn samples(&self) -> usize {
        self.ranks.iter().map(|rank| rank.share.samples).sum()
    }

    /// The loss; see [`Parts::loss`].
    ///
    /// # Errors
    /// [`Error::Config`] if `take_apart` gave something else at this place.
    pub fn loss(&mut self) -> Result<Tensor<1>> {
        let (mut values, mut weights, mut kind) = (Vec::new(), Vec::new(), None);
        let mut is_mean = true;
        for rank in &mut self.ranks {
            let weight = rank.share.weight;
            match rank.next()? {
                (Part::Loss { dtype, len }, bytes) => {
                    let data = TensorData::from_bytes_vec(bytes.to_vec(), [len], dtype);
                    values.extend(data.iter::<f64>());
                    weights.push(weight);
                    is_mean = is_mean && len == 1;
                    kind = Some(dtype);
                }
                (other, _) => return Err(out_of_order("loss", &other)),
            }
        }
        if is_mean {
            let all: f64 = weights.iter().sum();
            // One of weight 0 may be a division by zero.
            let counted = values.iter().zip(&weights).filter(|(_, w)| **w > 0.0);
            let sum: f64 = counted.map(|(v, w)| v * w).sum();
            values = vec![sum / all];
        }
        let dtype = kind.unwrap_or(DType::F32);
        let len = values.len();
        let data = TensorData::new(values, [len]).convert_dtype(dtype);
        Ok(Tensor::from_data(data, (&self.device, dtype)))
    }

    /// The rows of all ranks, by rank.
    ///
    /// # Errors
    /// [`Error::Config`] if the rows of two ranks differ in shape or type, and if `take_apart` gave
    /// something else at this place.
    pub fn rows<const D: usize>(&mut self) -> Result<Tensor<D>> {
        let (data, dtype) = self.data("rows", D)?;
        Ok(Tensor::from_data(data, (&self.device, dtype)))
    }

    /// The same, of integers.
    ///
    /// # Errors
    /// As [`rows`](Self::rows).
    pub fn int_rows<const D: usize>(&mut self) -> Result<Tensor<D, Int>> {
        let (data, dtype) = self.data("int_rows", D)?;
        Ok(Tensor::from_data(data, (&self.device, dtype)))
    }

    /// The choice that all ranks made.
    ///
    /// # Errors
    /// [`Error::Config`] if they made different ones, and if `take_apart` gave something else at this
    /// place.
    pub fn flag(&mut self) -> Result<bool> {
        let mut found = None;
        for rank in &mut self.ranks {
            match rank.next()?.0 {
                Part::Flag(flag) if found.is_none_or(|found| found == flag) => found = Some(flag),
                Part::Flag(flag) => {
                    let expected = format!("optional tensors as on the ranks before ({})", !flag);
                    return Err(Error::config(
                        format!("output of rank {}", rank.rank),
                        expected,
                        flag,
                    ));
                }
                other => return Err(out_of_order("flag", &other)),
            }
        }
        Ok(found.unwrap_or(false))
    }

    fn data(&mut self, asked: &str, dims: usize) -> Result<(TensorData, DType)> {
        let mut joined: Option<(DType, Vec<usize>)> = None;
        let mut all = Vec::new();
        for rank in &mut self.ranks {
            let number = rank.rank;
            let (part, bytes) = rank.next()?;
            let (dtype, shape) = match part {
                Part::Rows { dtype, shape } if shape.len() == dims => (dtype, shape),
                other => return Err(out_of_order(&format!("{asked}::<{dims}>"), &other)),
            };
            match &mut joined {
                None => joined = Some((dtype, shape)),
                Some((known, rows)) if *known == dtype && rows[1..] == shape[1..] => {
                    rows[0] += shape[0];
                }
                Some((known, rows)) => {
                    return Err(Error::config(
                        format!("output of rank {number}"),
                        format!(
                            "rows of {:?} {} as on the ranks before (pad sequences to one length)",
                            &rows[1..],
                            known.name()
                        ),
                        format!("rows of {:?} {}", &shape[1..], dtype.name()),
                    ));
                }
            }
            all.extend_from_slice(bytes);
        }
        let (dtype, shape) = joined.unwrap_or((DType::F32, vec![0; dims]));
        let data = TensorData::from_bytes(Bytes::from_bytes_vec(all), shape, dtype);
        Ok((data, dtype))
    }
}

fn out_of_order(asked: &str, found: &Part) -> Error {
    let found = match found {
        Part::Loss { .. } => "a loss".to_string(),
        Part::Rows { shape, .. } => format!("rows, a tensor of shape {shape:?}"),
        Part::Flag(_) => "a flag".to_string(),
    };
    let expected =
        format!("the order of `take_apart` also in `put_together`, which asks for {asked}");
    Error::config("output of a step", expected, found)
}
