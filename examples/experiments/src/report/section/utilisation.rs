//! The utilisation of processors, memory, network and GPUs over time.

use super::super::chart::{Line, Lines, series};
use super::super::document::{Block, Figure, Figures, Section};
use super::super::labels::{Axis, by_part_and_model, groups, marked};
use super::of_runs::{commands_of, file_name};
use crate::Result;
use crate::results::{Run, Sample};
use std::collections::BTreeMap;

/// Whose a quantity is: each has a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Rank,
    /// Processes of one host report the same.
    Host,
    Gpu,
}

/// What is drawn.
struct Quantity {
    name: &'static str,
    axis: &'static str,
    whose: Whose,
    of: fn(&Sample) -> Option<f64>,
}

const QUANTITIES: [Quantity; 5] = [
    Quantity {
        name: "cpu",
        axis: "percent of a core",
        whose: Whose::Rank,
        of: |s| Some(s.cpu_percent),
    },
    Quantity {
        name: "memory",
        axis: "MB of memory",
        whose: Whose::Rank,
        of: |s| Some(s.memory_bytes / 1e6),
    },
    Quantity {
        name: "network",
        axis: "MB/s sent by the host",
        whose: Whose::Host,
        of: |s| Some(s.net_sent_bytes_per_s? / 1e6),
    },
    Quantity {
        name: "gpu",
        axis: "percent of a GPU",
        whose: Whose::Gpu,
        of: |s| s.gpu_percent,
    },
    Quantity {
        name: "gpu-memory",
        axis: "MB of a GPU's memory",
        whose: Whose::Gpu,
        of: |s| Some(s.gpu_memory_bytes? / 1e6),
    },
];

pub(super) fn section(runs: &[Run]) -> Result<Option<Section>> {
    let mut blocks = Vec::new();
    for (title, group) in by_part_and_model(runs) {
        let shown = shown(&group);
        let mut figures = Vec::new();
        for run in &shown {
            figures.extend(of_run(
                run,
                &marked(run, &group, &[Axis::Part, Axis::Model]),
            )?);
        }
        if figures.is_empty() {
            continue;
        }
        blocks.push(Block::Figures(Figures {
            figures,
            caption: format!(
                "{title}: each rank once a second, the start of its processes counted. Of runs on the same set-up \
                 the one with the largest batch is drawn."
            ),
            commands: commands_of(&shown),
        }));
    }
    if blocks.is_empty() && runs.iter().any(|run| run.summary.is_some()) {
        blocks.push(Block::Text(
            "No run has recorded it: its folder has no utilisation.csv.".into(),
        ));
    }
    Ok((!blocks.is_empty()).then(|| Section {
        id: "utilisation",
        title: "Utilisation over time".into(),
        blocks,
    }))
}

/// One run for each strategy, set-up and link.
fn shown<'a>(group: &[&'a Run]) -> Vec<&'a Run> {
    let sampled = group
        .iter()
        .copied()
        .filter(|run| !run.utilisation.is_empty());
    let groups = groups(sampled, &[Axis::Strategy, Axis::Setup, Axis::Link]);
    let largest = |(_, runs): (String, Vec<&'a Run>)| {
        // Of equals the last: the first counts.
        runs.into_iter()
            .rev()
            .max_by_key(|run| run.experiment.batch)
    };
    groups.into_iter().filter_map(largest).collect()
}

fn of_run(run: &Run, label: &str) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for quantity in &QUANTITIES {
        // On one host ranks send to each other without it.
        if quantity.whose == Whose::Host && run.experiment.setup.nodes == 1 {
            continue;
        }
        let lines = quantity.lines(&run.utilisation);
        if lines.is_empty() {
            continue;
        }
        let chart = Lines {
            title: label.to_owned(),
            lines,
            x: "seconds".into(),
            y: quantity.axis.into(),
            from_zero: true,
        };
        let name = file_name(&[quantity.name, &run.name()]);
        figures.push(Figure {
            alt: format!("{} over time: {}", quantity.axis, run.name()),
            svg: chart.draw(&name)?,
            name,
            follows_page: true,
        });
    }
    Ok(figures)
}

impl Quantity {
    /// A line for each rank, host or GPU, over seconds since the first sample.
    fn lines(&self, samples: &[Sample]) -> Vec<Line> {
        let began = samples.iter().map(|s| s.time).fold(f64::INFINITY, f64::min);
        // Of the ranks of a host the first one's samples count.
        let mut speaks: BTreeMap<&str, usize> = BTreeMap::new();
        for sample in samples {
            let rank = speaks.entry(&sample.host).or_insert(sample.rank);
            *rank = sample.rank.min(*rank);
        }
        let mut lines: Vec<Line> = Vec::new();
        for sample in samples {
            let name = match (self.whose, sample.gpu) {
                (Whose::Rank, _) => format!("rank {}", sample.rank),
                (Whose::Host, _) if speaks.get(sample.host.as_str()) == Some(&sample.rank) => {
                    sample.host.clone()
                }
                (Whose::Gpu, Some(gpu)) => format!("GPU {gpu} of {}", sample.host),
                _ => continue,
            };
            let Some(value) = (self.of)(sample) else {
                continue;
            };
            let known = lines.iter().position(|line| line.name == name);
            let at = known.unwrap_or_else(|| {
                lines.push(Line {
                    name,
                    color: series(lines.len()),
                    points: Vec::new(),
                });
                lines.len() - 1
            });
            let point = (sample.time - began, value);
            // With several GPUs a sample of a process is repeated for each.
            if let Some(line) = lines.get_mut(at)
                && line.points.last() != Some(&point)
            {
                line.points.push(point);
            }
        }
        lines.sort_by(|a, b| a.name.cmp(&b.name));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_of_a_rank_a_host_or_a_gpu() {
        let sample = |time, rank, gpu: Option<usize>| Sample {
            time,
            rank,
            host: "node".into(),
            cpu_percent: 50.0 + rank as f64,
            memory_bytes: 1e6,
            net_sent_bytes_per_s: Some(3e6),
            net_received_bytes_per_s: Some(3e6),
            gpu,
            gpu_percent: gpu.map(|gpu| 10.0 * gpu as f64),
            gpu_memory_bytes: None,
        };
        // The first rank of a host samples its GPUs, with a line for each.
        let samples: Vec<_> = [5.0, 6.0]
            .into_iter()
            .flat_map(|t| {
                [
                    sample(t, 0, Some(0)),
                    sample(t, 0, Some(1)),
                    sample(t, 1, None),
                ]
            })
            .collect();
        let found = |name: &str| {
            let quantity = QUANTITIES.iter().find(|q| q.name == name);
            let lines = quantity.map(|q| q.lines(&samples)).unwrap_or_default();
            let line = |line: Line| (line.name, line.points);
            lines.into_iter().map(line).collect::<Vec<_>>()
        };
        let line = |name: &str, value| (name.to_owned(), vec![(0.0, value), (1.0, value)]);
        assert_eq!(found("cpu"), [line("rank 0", 50.0), line("rank 1", 51.0)]);
        assert_eq!(found("network"), [line("node", 3.0)]);
        assert_eq!(
            found("gpu"),
            [line("GPU 0 of node", 0.0), line("GPU 1 of node", 10.0)]
        );
        assert_eq!(found("gpu-memory"), []);
    }
}
