//! `experiments`: trains a matrix of models as real processes, and writes a report of it.

use clap::Parser;
use experiments::Error;
use experiments::cli::Cli;
use std::process::ExitCode;

fn main() -> ExitCode {
    match experiments::session::run(&Cli::parse()) {
        Ok(success) if success => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(match error {
                Error::Interrupted => 130,
                _ => 2,
            })
        }
    }
}
