//! `burn-dist-save`: what a save holds, whether it is whole, and saves as files of other programs and back.
//!
//! `burn-dist-save list runs/vit`

mod bar;
mod diff;
mod export;
mod import;
mod list;
mod output;
mod show;
mod verify;

use burn_dist::Result;
use clap::{Parser, Subcommand};
use std::io::Write;
use std::process::ExitCode;

/// Reads, verifies, converts and compares saves, without the program that has written them.
///
/// A SAVE is RUN, the folder of a run, for its latest save; RUN@best, or RUN@STEP. Exits with 0; with 1 for a fault, and for
/// saves that differ; with 2 for arguments that cannot be.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(list::List),
    Show(show::Show),
    Verify(verify::Verify),
    Export(export::ExportArgs),
    Import(import::ImportArgs),
    Diff(diff::Diff),
}

/// Whether all is as one hopes: a listing without damaged saves, saves that are equal.
type IsWell = bool;

fn run(command: Command) -> Result<IsWell> {
    match command {
        Command::List(list) => list.run(),
        Command::Show(show) => show.run(),
        Command::Verify(verify) => verify.run(),
        Command::Export(export) => export.run(),
        Command::Import(import) => import.run(),
        Command::Diff(diff) => diff.run(),
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            // Nobody may be there to read it.
            let _ = writeln!(std::io::stderr(), "burn-dist-save: {error}");
            ExitCode::from(1)
        }
    }
}
