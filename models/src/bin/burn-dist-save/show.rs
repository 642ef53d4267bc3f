//! `burn-dist-save show`.

use super::IsWell;
use super::output::{numbers, print, readable, table};
use burn_dist::Result;
use burn_dist::checkpoint::{SaveContents, TensorContents, TensorKind};
use burn_dist_models::saves::ChosenSave;

/// Shows what a save holds: files, parameters, shapes, who holds what, states.
#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// RUN, RUN@best or RUN@STEP.
    save: ChosenSave,
}

impl Show {
    pub(super) fn run(self) -> Result<IsWell> {
        print(&text(&self.save.open()?))?;
        Ok(true)
    }
}

fn text(save: &SaveContents) -> String {
    let mut text = format!(
        "{}: step {}, save {} of the run, written by {} ranks\n",
        save.path.display(),
        save.step,
        save.sequence,
        save.ranks
    );
    if !save.metrics.is_empty() {
        text.push_str(&format!("metrics: {}\n", numbers(&save.metrics)));
    }
    text.push_str("\nfiles\n");
    let files = save.files.iter().enumerate();
    let files = files.map(|(number, file)| {
        let cells = [
            format!("  {number}"),
            file.name.clone(),
            readable(file.bytes),
        ];
        cells.to_vec()
    });
    text.push_str(&table(&files.collect::<Vec<_>>()));
    for (name, model) in &save.models {
        let head = format!("\nmodel {name}, saved under {}", model.strategy);
        text.push_str(&part(&head, &model.tensors));
        let Some(optimizer) = &model.optimizer else {
            text.push_str(&format!("\nno optimizer of {name}\n"));
            continue;
        };
        text.push_str(&part(&format!("\noptimizer of {name}"), &optimizer.tensors));
        let scalars = optimizer.scalars.iter();
        // Those that Burn's format needs are nobody's numbers.
        let scalars = scalars.filter(|(name, _)| !name.ends_with("/__rank"));
        let scalars = scalars.map(|(name, text)| vec![format!("  {name}"), text.clone()]);
        text.push_str(&table(&scalars.collect::<Vec<_>>()));
    }
    for (name, json) in &save.states {
        text.push_str(&format!("\nstate {name}\n  {json}\n"));
    }
    text
}

fn part(head: &str, tensors: &[TensorContents]) -> String {
    let elements: usize = tensors.iter().map(TensorContents::elements).sum();
    let bytes = tensors.iter().map(TensorContents::bytes);
    let bytes = readable(bytes.sum::<usize>() as u64);
    let count = tensors.len();
    let rows: Vec<Vec<String>> = tensors.iter().map(row).collect();
    format!(
        "{head}: {count} tensors, {elements} elements, {bytes}\n{}",
        table(&rows)
    )
}

fn row(tensor: &TensorContents) -> Vec<String> {
    let kind = match tensor.kind {
        TensorKind::Trainable | TensorKind::State => "",
        TensorKind::Frozen => "frozen",
        _ => "buffer",
    };
    let pieces = tensor.pieces.iter();
    let pieces: Vec<String> = pieces
        .map(|(file, elements)| format!("{file}: {}..{}", elements.start, elements.end))
        .collect();
    vec![
        format!("  {}", tensor.name),
        format!("{:?}", tensor.shape),
        tensor.dtype.name().to_string(),
        kind.to_string(),
        pieces.join(", "),
    ]
}
