//! A report as Markdown, with its figures in files beside it.

use super::document::{Block, Command, Document, Figures, Section, Table};
use std::fmt::{Result, Write};

/// The folder of the figures, beside the page.
pub(super) const FIGURES: &str = "figures";

/// The page.
pub(super) fn page(document: &Document) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write_page(&mut text, document);
    text
}

fn write_page(to: &mut String, document: &Document) -> Result {
    writeln!(to, "# {}\n", plain(&document.title))?;
    for line in &document.about {
        writeln!(to, "{}  ", plain(line))?;
    }
    writeln!(to)?;
    for card in &document.cards {
        writeln!(to, "- **{}** {}", plain(&card.number), plain(&card.what))?;
    }
    for section in &document.sections {
        of_section(to, section)?;
    }
    Ok(())
}

fn of_section(to: &mut String, section: &Section) -> Result {
    writeln!(to, "\n## {}", plain(&section.title))?;
    for block in &section.blocks {
        writeln!(to)?;
        match block {
            Block::Text(text) => writeln!(to, "{}", plain(text))?,
            Block::Table(table) => of_table(to, table)?,
            Block::Figures(figures) => of_figures(to, figures)?,
            Block::Commands(commands) => of_commands(to, commands)?,
        }
    }
    Ok(())
}

fn of_table(to: &mut String, table: &Table) -> Result {
    let heads: Vec<_> = table.columns.iter().map(|c| cell(&c.title)).collect();
    writeln!(to, "| {} |", heads.join(" | "))?;
    let rules = table
        .columns
        .iter()
        .map(|c| if c.is_number { "--:" } else { "---" });
    writeln!(to, "|{}|", rules.collect::<Vec<_>>().join("|"))?;
    for row in &table.rows {
        let cells = row.cells.iter().map(|c| match cell(&c.text) {
            text if row.is_published && !text.is_empty() => format!("*{text}*"),
            text => text,
        });
        writeln!(to, "| {} |", cells.collect::<Vec<_>>().join(" | "))?;
    }
    if !table.caption.is_empty() {
        writeln!(to, "\n{}", plain(&table.caption))?;
    }
    Ok(())
}

fn of_figures(to: &mut String, figures: &Figures) -> Result {
    for figure in &figures.figures {
        let alt = figure.alt.replace(['[', ']'], "");
        writeln!(to, "![{alt}]({FIGURES}/{}.svg)", figure.name)?;
    }
    writeln!(to, "\n{}", plain(&figures.caption))?;
    if !figures.commands.is_empty() {
        writeln!(
            to,
            "\n<details><summary>The commands that made it</summary>\n"
        )?;
        of_commands(to, &figures.commands)?;
        writeln!(to, "\n</details>")?;
    }
    Ok(())
}

fn of_commands(to: &mut String, commands: &[Command]) -> Result {
    writeln!(to, "```sh")?;
    for command in commands {
        writeln!(to, "# {}", command.run)?;
        for line in &command.lines {
            writeln!(to, "{line}")?;
        }
    }
    writeln!(to, "```")
}

/// Text in which nothing is markup.
fn plain(text: &str) -> String {
    text.replace('\\', r"\\")
        .replace('<', "&lt;")
        .replace('*', r"\*")
        .replace('_', r"\_")
}

/// Text of a cell, on one line.
fn cell(text: &str) -> String {
    plain(text).replace('|', r"\|").replace('\n', " ")
}
