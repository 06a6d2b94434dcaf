//! `windlass completion` and `windlass man`: how does a shell, or a reader of manuals, learn the verbs?

use crate::failure::Failure;
use clap::CommandFactory as _;
use std::{io::Write as _, path::PathBuf};

/// Print the completions of a shell; for example: windlass completion bash > ~/.local/share/bash-completion/completions/windlass
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// Write the manual pages, one per verb
#[derive(clap::Args)]
pub(crate) struct Man {
    /// The folder to write them to; it is made if it is not there
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::Cli::command(), "windlass", &mut script);
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&script)?;
    Ok(stdout.flush()?)
}

pub(crate) fn man(args: &Man) -> Result<(), Failure> {
    std::fs::create_dir_all(&args.dir)?;
    Ok(clap_mangen::generate_to(crate::Cli::command(), &args.dir)?)
}
