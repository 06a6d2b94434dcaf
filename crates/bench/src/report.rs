//! What was measured, and was it good enough?
//!
//! A [`Figure`] is one measured number beside its floor and its target; [`print()`] shows them all, as one JSON document
//! or as a table for people.

use serde::Serialize;
use std::fmt::Write as _;

/// The document.
#[derive(Serialize)]
pub struct Report {
    /// Where it was measured, so that two documents can be told apart.
    pub machine: Machine,
    /// In the order in which they were measured.
    pub figures: Vec<Figure>,
}

/// One measured number.
#[derive(Clone, Serialize)]
pub struct Figure {
    /// Which scenario measured it.
    pub scenario: &'static str,
    /// `memory`, `sqlite`, or `none` where no store takes part.
    pub store: &'static str,
    /// What was measured, with its parameters.
    pub metric: String,
    /// In what.
    pub unit: &'static str,
    /// The median over the runs.
    pub value: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// What it is compared with.
    pub floor_name: Option<String>,
    /// The median of that, from the same run.
    pub floor: Option<f64>,
    /// `value / floor`.
    pub ratio: Option<f64>,
    /// What the ratio must reach, or the value where there is no floor.
    pub target: Option<Target>,
    /// Whether it does.
    pub met: Option<bool>,
}

/// A bound.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Target {
    /// Not more than this.
    AtMost(f64),
    /// Not less than this.
    AtLeast(f64),
}

impl Target {
    fn met(self, value: f64) -> bool {
        match self {
            Target::AtMost(limit) => value <= limit,
            Target::AtLeast(limit) => value >= limit,
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::AtMost(limit) => write!(f, "<= {}", short(*limit)),
            Target::AtLeast(limit) => write!(f, ">= {}", short(*limit)),
        }
    }
}

impl Serialize for Target {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The same quantity, measured several times.
#[derive(Clone, Debug, Default)]
pub struct Sample(pub Vec<f64>);

impl Sample {
    /// The middle one; the mean of the two middle ones of an even number.
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match sorted.len() {
            0 => f64::NAN,
            n if n % 2 == 1 => sorted[n / 2],
            n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
        }
    }

    fn min(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    fn max(&self) -> f64 {
        self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }
}

impl FromIterator<f64> for Sample {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Sample {
        Sample(values.into_iter().collect())
    }
}

impl Figure {
    /// A number that is only shown.
    pub fn new(
        scenario: &'static str,
        store: &'static str,
        metric: impl Into<String>,
        unit: &'static str,
        sample: &Sample,
    ) -> Figure {
        Figure {
            scenario,
            store,
            metric: metric.into(),
            unit,
            value: sample.median(),
            min: sample.min(),
            max: sample.max(),
            floor_name: None,
            floor: None,
            ratio: None,
            target: None,
            met: None,
        }
    }

    /// How often something was done; the same in every run, or something is wrong.
    pub fn count(scenario: &'static str, store: &'static str, metric: impl Into<String>, sample: &Sample) -> Figure {
        Figure::new(scenario, store, metric, "count", sample)
    }

    /// Compared with a floor of the same run.
    pub fn against(mut self, name: impl Into<String>, floor: &Sample) -> Figure {
        self.floor_name = Some(name.into());
        self.floor = Some(floor.median());
        self.ratio = Some(self.value / floor.median());
        self
    }

    /// Judged: by the ratio if there is a floor, by the value otherwise.
    pub fn must(mut self, target: Target) -> Figure {
        self.met = Some(target.met(self.ratio.unwrap_or(self.value)));
        self.target = Some(target);
        self
    }
}

/// Where it was measured.
#[derive(Serialize)]
pub struct Machine {
    cpu: String,
    cores: usize,
    memory_mib: u64,
    kernel: String,
    filesystem: String,
    quick: bool,
    runs: usize,
}

impl Machine {
    /// This one, as far as it tells.
    pub fn here(filesystem: String, quick: bool, runs: usize) -> Machine {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            line.split_once(':').map(|(_, value)| value.trim().to_owned())
        };
        let kib = field(&read("/proc/meminfo"), "MemTotal").and_then(|v| v.split(' ').next()?.parse::<u64>().ok());
        Machine {
            cpu: field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| std::env::consts::ARCH.into()),
            cores: std::thread::available_parallelism().map_or(1, Into::into),
            memory_mib: kib.unwrap_or(0) / 1024,
            kernel: match read("/proc/sys/kernel/osrelease").trim() {
                "" => std::env::consts::OS.into(),
                release => release.into(),
            },
            filesystem,
            quick,
            runs,
        }
    }
}

/// Prints the report to standard output.
///
/// # Errors
/// Standard output is gone.
pub fn print(report: &Report, json: bool) -> anyhow::Result<()> {
    use std::io::Write;
    let text = if json { serde_json::to_string_pretty(report)? } else { table(report) };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}

fn table(report: &Report) -> String {
    let head = ["scenario", "metric", "value", "min", "max", "unit", "floor", "ratio", "target", ""].map(str::to_owned);
    let rows = report.figures.iter().map(|figure| {
        let optional = |value: Option<f64>| value.map_or_else(String::new, short);
        let verdict = figure.met.map_or("", |met| if met { "met" } else { "MISSED" });
        [
            figure.scenario.to_owned(),
            figure.metric.clone(),
            short(figure.value),
            short(figure.min),
            short(figure.max),
            figure.unit.to_owned(),
            match (&figure.floor_name, figure.floor) {
                (Some(name), Some(floor)) => format!("{} {name}", short(floor)),
                _ => String::new(),
            },
            optional(figure.ratio),
            figure.target.map_or_else(String::new, |target| target.to_string()),
            verdict.to_owned(),
        ]
    });
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..rows[0].len()).map(width).collect();
    let machine = &report.machine;
    let mut text = format!(
        "{}, {} cores, {} MiB, {}, {}; median of {} runs{}\n\n",
        machine.cpu,
        machine.cores,
        machine.memory_mib,
        machine.kernel,
        machine.filesystem,
        machine.runs,
        if machine.quick { ", quick" } else { "" }
    );
    for row in &rows {
        for (column, cell) in row.iter().enumerate() {
            // Numbers to the right, words to the left.
            let width = widths[column];
            let _ = if [2, 3, 4, 7].contains(&column) {
                write!(text, "{cell:>width$}  ")
            } else {
                write!(text, "{cell:<width$}  ")
            };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

/// Three significant digits, no more than a reader needs.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_and_a_ratio_is_judged_not_the_value() {
        let sample = Sample(vec![9.0, 1.0, 5.0]);
        assert_eq!(sample.median().to_bits(), 5.0f64.to_bits());
        let figure = Figure::new("rtt", "memory", "median", "us", &sample)
            .against("channel", &Sample(vec![1.0]))
            .must(Target::AtMost(4.0));
        assert_eq!(figure.met, Some(false));
        let bare = Figure::new("mem_input", "memory", "per input", "B", &sample).must(Target::AtMost(5.0));
        assert_eq!(bare.met, Some(true));
    }
}
