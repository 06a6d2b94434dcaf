//! How fast and how small is Windlass, compared with what nobody can beat?
//!
//! `cargo xtask bench` builds this in release and runs it. Each scenario measures a figure and its floor in turn, at
//! least five times each, and reports medians.

mod alloc;
mod floor;
mod measure;
mod report;
mod rig;
mod scenario;

use clap::Parser;
use std::{io::Write as _, path::PathBuf};

/// Measures Windlass against floors of the same run.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// One JSON document instead of a table.
    #[arg(long)]
    json: bool,
    /// Only these scenarios (see --list).
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<String>,
    /// Smaller numbers, done within a minute. Says whether something broke, not how fast it is.
    #[arg(long)]
    quick: bool,
    /// How often each figure is measured.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(5..))]
    runs: u16,
    /// Where the durable scenarios write; must be on a disk.
    #[arg(long, default_value = "target/bench")]
    dir: PathBuf,
    /// The program whose start and size are measured; absent: the one that was built beside this.
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
    /// Name the scenarios and stop.
    #[arg(long)]
    list: bool,
    /// Do this work in the store at --dir and print how often it committed: what `syncs` counts from outside.
    #[arg(long, hide = true)]
    child: Option<scenario::Work>,
    /// So often.
    #[arg(long, hide = true, default_value_t = 0)]
    count: usize,
}

/// What a scenario is told.
#[derive(Clone)]
struct Bench {
    quick: bool,
    runs: usize,
    dir: PathBuf,
    program: PathBuf,
}

impl Bench {
    /// `full`, or `quick` in a quick run.
    fn size(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if args.list {
        for scenario in scenario::ALL {
            writeln!(std::io::stdout(), "{:<14} {}", scenario.name, scenario.about)?;
        }
        return Ok(());
    }
    if let Some(work) = args.child {
        let commits = scenario::child(&args.dir, work, args.count)?;
        return Ok(writeln!(std::io::stdout(), "{commits}")?);
    }
    if let Some(unknown) = args.only.iter().find(|name| !scenario::ALL.iter().any(|s| s.name == **name)) {
        anyhow::bail!("no scenario is called {unknown:?}; `cargo xtask bench --list` names them");
    }
    let filesystem = floor::disk::filesystem(&args.dir)?;
    let program = match args.program {
        Some(program) => program,
        None => std::env::current_exe()?.with_file_name("windlass"),
    };
    let bench = Bench { quick: args.quick, runs: args.runs.into(), dir: args.dir, program };
    let (mut figures, mut failed) = (Vec::new(), Vec::new());
    for scenario in scenario::ALL {
        if args.only.is_empty() || args.only.iter().any(|name| name == scenario.name) {
            eprintln!("measuring {}", scenario.name);
            match (scenario.run)(&bench) {
                Ok(measured) => figures.extend(measured),
                Err(error) => failed.push(format!("{}: {error:#}", scenario.name)),
            }
        }
    }
    let machine = report::Machine::here(filesystem, bench.quick, bench.runs);
    report::print(&report::Report { machine, figures }, args.json)?;
    // Whether targets are met is for the reader to see; only what could not be measured is an error.
    anyhow::ensure!(failed.is_empty(), "not measured: {}", failed.join("; "));
    Ok(())
}
