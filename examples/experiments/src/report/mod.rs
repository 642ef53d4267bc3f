//! The report of a matrix: one HTML file, and a Markdown file with its figures beside it.

mod chart;
mod document;
mod html;
mod labels;
mod markdown;
mod numbers;
mod section;

use crate::matrix::Matrix;
use crate::results::Run;
use crate::{Result, files};
use document::Document;
use std::path::{Path, PathBuf};

/// The files of a report.
#[derive(Debug, Clone)]
pub struct Report {
    /// All in one file.
    pub html: PathBuf,
    /// With its figures in a folder beside it.
    pub markdown: PathBuf,
}

/// Writes the report of runs into the folder of their matrix.
///
/// # Errors
/// [`Error::File`](crate::Error::File) if it cannot be written, and
/// [`Error::Drawing`](crate::Error::Drawing) if a figure cannot be drawn.
pub fn write(out: &Path, matrix: &Matrix, runs: &[Run]) -> Result<Report> {
    let document = document(matrix, runs)?;
    let figures = out.join(markdown::FIGURES);
    files::make_folder(&figures)?;
    for figure in document.figures() {
        files::write(&figures.join(format!("{}.svg", figure.name)), &figure.svg)?;
    }
    let report = Report {
        html: out.join("report.html"),
        markdown: out.join("report.md"),
    };
    files::write(&report.markdown, &markdown::page(&document))?;
    files::write(&report.html, &html::page(&document))?;
    Ok(report)
}

fn document(matrix: &Matrix, runs: &[Run]) -> Result<Document> {
    Ok(Document {
        title: format!("Experiments: {}", matrix.name),
        about: about(matrix, runs),
        cards: section::cards(runs),
        sections: section::all(matrix, runs)?,
    })
}

/// When, where and by which command.
fn about(matrix: &Matrix, runs: &[Run]) -> Vec<String> {
    let now = jiff::Zoned::now().strftime("%Y-%m-%d %H:%M");
    let mut lines = vec![format!("Written {now}. Made by: {}", matrix.command)];
    let configs = runs
        .iter()
        .filter(|run| run.summary.is_some())
        .map(|run| &run.config);
    let mut machines: Vec<String> = Vec::new();
    for config in configs {
        let parts = [
            config.processor.clone(),
            config.cores.map(|cores| format!("{cores} cores")),
            config
                .memory
                .as_ref()
                .map(|memory| format!("memory {memory}")),
            (!config.versions.is_empty()).then(|| config.versions.join(", ")),
        ];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        let machine = format!("Run on: {}", parts.join("; "));
        if !parts.is_empty() && !machines.contains(&machine) {
            machines.push(machine);
        }
    }
    lines.extend(machines);
    lines.push(
        "Numbers of others are marked as published, in italics on grey; they were measured on other hardware and tell a \
         shape, not a time to reach."
            .into(),
    );
    lines
}
